"""Puts the native pieces together: up, down, status, nodes, images."""

import os
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from local_cluster import dns, go_builds, interrupts, manifests, packages, simulated, stand_ins
from local_cluster.checkout import Checkout, write_json
from local_cluster.errors import ClusterError
from local_cluster.images import bases, build, records
from local_cluster.kubernetes_api import Api
from local_cluster.native import cgroups, cleanup, network, node_images, pki, slots, templates
from local_cluster.native.control_plane import GROUP, ControlPlane
from local_cluster.native.node import STORAGE, Node
from local_cluster.native.slots import Slot
from local_cluster.processes import Daemons
from local_cluster.progress import Progress
from local_cluster.provider import ClusterRecord, Size, Status

_NODES_READY_LIMIT = 120  # seconds; on a machine that is busy with something else, too
_DNS_LIMIT = 90  # seconds

# The steps of `up` and the seconds they take on two cores.
_TOOLS = "build the components"
_IMAGES = "prepare the nodes' images"
_NETWORK = "lay the network"
_CONTROL_PLANE = "start the control plane"
_NODES = "start the nodes"
_READY = "nodes are ready"
_DNS = "DNS answers"
_SIMULATED = "simulated nodes are ready"


@dataclass(frozen=True)
class _Site:
    """The parts of one cluster that are the same in every command on it."""

    checkout: Checkout
    slot: Slot
    control_plane: ControlPlane
    daemons: Daemons

    def node(self, name: str) -> Node:
        number = int(name.removeprefix("node-"))
        plane = self.control_plane
        return Node(self.checkout, self.slot, number, plane.programs, templates.directory(), plane.trees)


class NativeProvider:
    name = "native"

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout

    # -- up and down ------------------------------------------------------------------------------

    def up(self, size: Size) -> None:
        if os.geteuid() != 0:
            raise ClusterError(
                "the native provider makes namespaces and cgroups and must be root: type\n"
                f"  sudo {sys.executable} -m local_cluster up\n"
                "or start Docker or Podman, then no root is needed"
            )
        progress = Progress(self._plan(size))
        _show_other_clusters(self._checkout)
        with progress.step(_TOOLS):
            packages.ensure(packages.FOR_NODES)
            programs = self._build(size)
        template: Path | None = None
        if size.nodes:
            with progress.step(_IMAGES):
                bases.prepare()
                template = node_images.prepare_template(self._checkout)
                node_images.discard_old_templates(self._checkout, template)
        cleanup.remove(self._checkout)  # what an earlier command may have left
        slot = slots.claim(self._checkout)
        try:
            self._start(progress, slot, programs, template, size)
        except BaseException as error:
            progress.note(f"  stopped: removing what was started ({type(error).__name__})")
            cleanup.remove(self._checkout, keep_logs=True)
            raise

    def down(self) -> None:
        cleanup.remove(self._checkout)

    def _plan(self, size: Size) -> dict[str, float]:
        missing = [wanted for wanted in self._builds(size) if not go_builds.is_built(wanted)]
        plan = {_TOOLS: 0.1 + sum(wanted.seconds for wanted in missing)}
        if size.nodes:
            plan |= {_IMAGES: 0.5 + bases.seconds_to_prepare()}
        plan |= {_NETWORK: 0.5, _CONTROL_PLANE: 5.0}
        if size.nodes:
            plan |= {_NODES: 1.0, _READY: 4.0, _DNS: 3.0}
        if size.simulated:
            plan |= {_SIMULATED: 5 + size.simulated / 100}
        return plan

    def _builds(self, size: Size) -> list[go_builds.GoBuild]:
        return [
            go_builds.KUBERNETES,
            *([go_builds.COREDNS, go_builds.PAUSE] if size.nodes else []),
            *([go_builds.KWOK] if size.simulated else []),
        ]

    def _build(self, size: Size) -> Path:
        for wanted in self._builds(size):
            go_builds.build(wanted)
        return go_builds.build(go_builds.KUBERNETES)

    def _start(self, progress: Progress, slot: Slot, programs: Path, template: Path | None, size: Size) -> None:
        names = [network.node_place(number) for number in range(1, size.nodes + 1)]
        record = ClusterRecord(self.name, simulated=size.simulated, nodes=dict.fromkeys(names, ""))
        write_json(self._checkout.record, asdict(record))
        site = self._site(slot, programs)
        with progress.step(_NETWORK):
            cgroups.create(site.control_plane.trees, f"{slot.name}/{GROUP}")
            network.create(slot)
        with progress.step(_CONTROL_PLANE):
            site.control_plane.prepare()
            site.control_plane.start_api(site.daemons)
            # While the API server starts, the nodes come as far as they can without it.
            for name in names:
                assert template is not None
                self._make_node(site, name, template, [other for other in names if other < name])
            api = site.control_plane.await_api(site.daemons)
            site.control_plane.start_controllers(site.daemons)
            self._start_stand_ins(site)
            self._give(api, slot)
        if names:
            with progress.step(_NODES):
                for name in names:
                    _start_services(site, name)
            with progress.step(_READY):
                _await_ready(site, api, names)
                site.control_plane.start_proxy(site.daemons)
            with progress.step(_DNS):
                interrupts.wait_for("DNS answers", lambda: dns.answers(slot.dns_address), _DNS_LIMIT)
        if size.simulated:
            with progress.step(_SIMULATED):
                self._start_simulator(site)
                simulated.create_nodes(api, size.simulated)
                simulated.await_nodes(api, size.simulated)
        site.control_plane.authority.write_kubeconfig(pki.ADMIN, site.control_plane.server, self._checkout.kubeconfig)
        _give_to_owner(self._checkout)
        write_json(self._checkout.record, asdict(replace(record, complete=True)))
        progress.note(f"  the cluster is up after {progress.elapsed:.1f} s")

    def _make_node(self, site: _Site, name: str, template: Path, others: list[str]) -> None:
        node = site.node(name)
        self._checkout.storage.mkdir(parents=True, exist_ok=True)
        network.join(site.slot, node.number, [site.node(other).number for other in others])
        node.prepare(site.control_plane)
        templates.derive(template, node.directory / "lib" / "containerd")
        node.start_containerd(site.daemons)

    def _start_stand_ins(self, site: _Site) -> None:
        plane = site.control_plane
        access = plane.access(pki.STAND_INS)
        command = stand_ins.command(self._checkout.root, sys.executable, access, self._checkout.storage, STORAGE)
        site.daemons.start("stand-ins", command, plane.trees.entrances(f"{site.slot.name}/{GROUP}"))

    def _start_simulator(self, site: _Site) -> None:
        plane = site.control_plane
        plane.authority.issue(pki.SIMULATOR)
        plane.authority.write_kubeconfig(pki.SIMULATOR, plane.server, plane.kubeconfig(pki.SIMULATOR))
        kwok = simulated.kwok(plane.directory, plane.kubeconfig(pki.SIMULATOR))
        entrances = plane.trees.entrances(f"{site.slot.name}/{GROUP}")
        site.daemons.start("kwok", [*network.enter(site.slot, network.CONTROL_PLANE), *kwok], entrances)

    def _give(self, api: Api, slot: Slot) -> None:
        for manifest in (manifests.storage_class(), *manifests.dns(slot.dns_address)):
            api.apply(manifest)

    # -- status -----------------------------------------------------------------------------------

    def status(self) -> Status:
        record = self._record()
        slot = slots.slot_of(self._checkout)
        if slot is None or not record.complete:
            return Status(False, "broken", ("an earlier command was killed: `up` or `down` tidies up",))
        site = self._site(slot, go_builds.build(go_builds.KUBERNETES))
        wrong = [f"{name} is not running, see {site.daemons.log(name)}" for name in site.daemons.dead()]
        if not site.control_plane.api().ready():
            wrong.append(f"the API server at {site.control_plane.server} does not answer")
        else:
            wrong += _wrong_nodes(site.control_plane.api(), record)
            if record.nodes and not _dns_answers(slot):
                wrong.append("DNS does not answer")
        told = [f"{name} was {harm} on purpose: `node heal {name}` undoes it" for name, harm in record.harmed.items()]
        size = f"{len(record.nodes)} nodes" + (f", {record.simulated} simulated" if record.simulated else "")
        return Status(not wrong, "degraded" if wrong else "running", (*wrong, *told, f"{size}, slot {slot.number}"))

    # -- nodes ------------------------------------------------------------------------------------

    def add_node(self, name: str) -> None:
        site, record = self._running()
        if name in record.nodes:
            raise ClusterError(f"{name} is there already")
        if not name.removeprefix("node-").isdecimal() or not 1 <= int(name.removeprefix("node-")) <= 200:
            raise ClusterError(f"node name {name}: wanted node-1 to node-200")
        template = node_images.prepare_template(self._checkout)
        others = list(record.nodes)
        record.nodes[name] = ""
        self._write(record)  # before it is made, so that `down` and `status` know of it
        self._make_node(site, name, template, others)
        _start_services(site, name)
        _await_ready(site, site.control_plane.api(), [name])

    def fail_node(self, name: str) -> None:
        site, record = self._running(name)
        network.cut(site.slot, site.node(name).number)
        self._write_harm(record, name, "failed")

    def hang_node(self, name: str) -> None:
        site, record = self._running(name)
        site.daemons.get(site.node(name).daemon("kubelet")).signal(signal.SIGSTOP)
        self._write_harm(record, name, "hung")

    def heal_node(self, name: str) -> None:
        site, record = self._running(name)
        node = site.node(name)
        network.mend(site.slot, node.number)
        site.daemons.get(node.daemon("kubelet")).signal(signal.SIGCONT)
        self._write_harm(record, name, "")
        _await_ready(site, site.control_plane.api(), [name])

    # -- images -----------------------------------------------------------------------------------

    def load(self, names: list[str]) -> None:
        site, record = self._running()
        images = {name: build.export(self._checkout, name) for name in names}
        node_images.bring([site.node(name) for name in record.nodes], site.daemons, images)
        for name, manifest in images.items():
            records.of(self._checkout).remember_loaded(name, manifest)

    # -- shared -----------------------------------------------------------------------------------

    def _running(self, node: str | None = None) -> tuple[_Site, ClusterRecord]:
        record, slot = self._record(), slots.slot_of(self._checkout)
        if slot is None or not record.complete:
            raise ClusterError("the cluster is not complete: run `up` first")
        if node is not None and node not in record.nodes:
            raise ClusterError(f"there is no node {node}: the nodes are {', '.join(record.nodes) or 'none'}")
        return self._site(slot, go_builds.build(go_builds.KUBERNETES)), record

    def _site(self, slot: Slot, programs: Path) -> _Site:
        plane = ControlPlane(self._checkout, slot, programs, cgroups.mounted())
        daemons = Daemons(self._checkout.state / "processes.json", self._checkout.logs)
        return _Site(self._checkout, slot, plane, daemons)

    def _record(self) -> ClusterRecord:
        return ClusterRecord(**(self._checkout.read_record() or {"provider": self.name}))

    def _write(self, record: ClusterRecord) -> None:
        write_json(self._checkout.record, asdict(record))

    def _write_harm(self, record: ClusterRecord, name: str, harm: str) -> None:
        record.nodes[name] = harm
        self._write(record)


def _dns_answers(slot: Slot) -> bool:
    """One lost packet is no failure."""
    return any(dns.answers(slot.dns_address) for _ in range(3))


def _start_services(site: _Site, name: str) -> None:
    node = site.node(name)
    node.await_containerd(site.daemons)
    node.start_kubelet(site.daemons)
    node.start_proxy(site.daemons)


def _await_ready(site: _Site, api: Api, names: list[str]) -> None:
    def ready() -> bool:
        for dead in site.daemons.dead():
            raise ClusterError(f"{dead} ended while starting:\n{site.daemons.last_words(dead)}")
        nodes = {node["metadata"]["name"]: node for node in api.items("/api/v1/nodes")}
        return all(name in nodes and simulated.is_ready(nodes[name]) for name in names)

    interrupts.wait_for(f"{', '.join(names)} ready", ready, _NODES_READY_LIMIT, every=0.2)


def _wrong_nodes(api: Api, record: ClusterRecord) -> list[str]:
    nodes = {node["metadata"]["name"]: node for node in api.items("/api/v1/nodes", resourceVersion="0")}
    expected = [name for name in record.nodes if name not in record.harmed]
    return [f"{name} is not ready" for name in expected if name not in nodes or not simulated.is_ready(nodes[name])]


def _show_other_clusters(checkout: Checkout) -> None:
    for slot, owner in slots.read_claims().items():
        if owner != checkout.root:
            print(f"note: {owner} has a cluster on this machine too (slot {slot.number}); the two do not meet")


def _give_to_owner(checkout: Checkout) -> None:
    """The checkout's owner, who may have typed sudo, can read the kubeconfig."""
    owner = checkout.root.stat()
    os.chown(checkout.state, owner.st_uid, owner.st_gid)
    os.chown(checkout.kubeconfig, owner.st_uid, owner.st_gid)
