"""The native provider: what each command does to the cluster of a checkout."""

import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

from local_cluster import cache, go_builds, interrupts, packages
from local_cluster.checkout import Checkout, write_json
from local_cluster.errors import ClusterError
from local_cluster.images import bases, build, records, store
from local_cluster.native import cgroups, cleanup, network, node_images, slots
from local_cluster.native.cluster import Cluster
from local_cluster.native.slots import Slot
from local_cluster.progress import Progress
from local_cluster.provider import ClusterRecord, Size, Status

_RECOVERY_LIMIT = 60  # seconds, for a cluster whose dead parts were started again
_LAST_NODE = 200

# The steps of `up`.
_PROGRAMS = "build the components"
_IMAGES = "prepare the nodes' images"
_NETWORK = "lay the network"
_CONTROL_PLANE = "start the control plane"
_NODES = "start the nodes"
_READY = "nodes are ready"
_DNS = "DNS answers"
_SIMULATED = "simulated nodes are ready"


class NativeProvider:
    name = "native"

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout

    # -- up and down ------------------------------------------------------------------------------

    def up(self, size: Size) -> None:
        _must_be_root("up")
        _sweep_orphans(self._checkout)
        if self._record().complete and slots.slot_of(self._checkout):
            self._repair()
            return
        progress = Progress(_plan(size))
        with progress.step(_PROGRAMS):
            packages.ensure(packages.FOR_NODES)
            programs = _build(size)
        template = None
        if size.nodes:
            with progress.step(_IMAGES):
                bases.prepare()
                template = node_images.prepare_template(self._checkout)
                node_images.discard_old_templates(self._checkout, template)
        cleanup.remove(self._checkout)  # what an earlier command may have left
        slot = slots.claim(self._checkout)
        try:
            self._start(progress, slot, programs, template, size)
        except BaseException:
            progress.note(f"  removing what was started; the logs stay in {self._checkout.logs}")
            cleanup.remove(self._checkout, keep_logs=True)
            raise

    def down(self) -> None:
        _must_be_root("down")
        cleanup.remove(self._checkout)

    def _start(self, progress: Progress, slot: Slot, programs: Path, template: Path | None, size: Size) -> None:
        names = [network.node_place(number) for number in range(1, size.nodes + 1)]
        nodes = dict.fromkeys(names, "")
        record = ClusterRecord(self.name, simulated=size.simulated, nodes=nodes, programs=str(programs))
        self._write(record)
        cluster = self._cluster(slot, record)
        plane, daemons = cluster.control_plane, cluster.daemons
        with progress.step(_NETWORK):
            cluster.lay_network()
        with progress.step(_CONTROL_PLANE):
            plane.prepare()
            plane.start_api(daemons)
            if template is not None:  # meanwhile, the nodes come as far as they can
                for position, name in enumerate(names):
                    cluster.make_node(name, template, names[:position])
            api = plane.await_api(daemons)
            plane.start_controllers(daemons)
            cluster.furnish(api, with_nodes=bool(names))
        if names:
            with progress.step(_NODES):
                for name in names:
                    cluster.start_services(name)
            with progress.step(_READY):
                cluster.await_ready(api, names)
                plane.start_proxy(daemons)
            with progress.step(_DNS):
                cluster.await_dns()
        if size.simulated:
            with progress.step(_SIMULATED):
                cluster.simulate(api, size.simulated)
        cluster.hand_over()
        self._write(replace(record, complete=True))
        progress.note(f"  the cluster is up after {progress.elapsed:.1f} s")

    def _repair(self) -> None:
        """Starts what has died; never throws away a cluster that somebody has something on."""
        cluster, record = self._running()
        well = [name for name in record.nodes if name not in record.harmed]
        for name in cluster.restart_dead(list(record.nodes)):
            print(f"started again: {name}")
        try:
            interrupts.wait_for("usable", lambda: not cluster.wrong(well), _RECOVERY_LIMIT, every=0.5)
        except ClusterError:
            wrong = "\n".join(f"  {line}" for line in cluster.wrong(well))
            raise ClusterError(f"the cluster is not usable; run `down`, then `up`:\n{wrong}") from None

    # -- status -----------------------------------------------------------------------------------

    def status(self) -> Status:
        record, slot = self._record(), slots.slot_of(self._checkout)
        if slot is None or not record.complete:
            return Status(False, "broken", ("an earlier command was killed: `up` or `down` tidies up",))
        wrong = self._cluster(slot, record).wrong([name for name in record.nodes if name not in record.harmed])
        size = f"{len(record.nodes)} nodes" + (f", {record.simulated} simulated" if record.simulated else "")
        place = f"{size}; network {slot.machines}, link and cgroups {slot.name}"
        return Status(not wrong, "degraded" if wrong else "running", (*wrong, *record.told, place))

    def size(self) -> Size:
        record = self._record()
        return Size(len(record.nodes), record.simulated)

    # -- nodes ------------------------------------------------------------------------------------

    def add_node(self, name: str) -> None:
        cluster, record = self._running()
        if name in record.nodes:
            raise ClusterError(f"{name} is there already")
        number = name.removeprefix("node-")
        if not number.isdecimal() or name != f"node-{int(number)}" or not 1 <= int(number) <= _LAST_NODE:
            raise ClusterError(f"node name {name}: wanted node-1 to node-{_LAST_NODE}")
        template = node_images.prepare_template(self._checkout)
        others = list(record.nodes)
        record.nodes[name] = ""
        self._write(record)  # before it is made, so that `status` knows of it whatever happens
        cluster.make_node(name, template, others)
        cluster.start_services(name)
        cluster.await_ready(cluster.control_plane.api(), [name])

    def fail_node(self, name: str) -> None:
        cluster, record = self._running(name)
        network.cut(cluster.slot, cluster.node(name).number)
        self._write_harm(record, name, "failed")

    def hang_node(self, name: str) -> None:
        cluster, record = self._running(name)
        cluster.daemons.get(cluster.node(name).daemon("kubelet")).signal(signal.SIGSTOP)
        self._write_harm(record, name, "hung")

    def heal_node(self, name: str) -> None:
        cluster, record = self._running(name)
        node = cluster.node(name)
        network.mend(cluster.slot, node.number)
        cluster.daemons.get(node.daemon("kubelet")).signal(signal.SIGCONT)
        self._write_harm(record, name, "")
        cluster.await_ready(cluster.control_plane.api(), [name])

    # -- images -----------------------------------------------------------------------------------

    def load(self, names: list[str]) -> None:
        cluster, record = self._running()
        with cache.lock("images"):
            images = {name: build.export(self._checkout, name) for name in names}
            node_images.bring([cluster.node(name) for name in record.nodes], cluster.daemons, images)
            for name, manifest in images.items():
                records.of(self._checkout).remember_loaded(name, manifest)
            store.layout().keep_only(records.everything_loaded() | set(bases.on_nodes().values()))

    # -- shared -----------------------------------------------------------------------------------

    def _running(self, node: str | None = None) -> tuple[Cluster, ClusterRecord]:
        _must_be_root("…")
        record, slot = self._record(), slots.slot_of(self._checkout)
        if slot is None or not record.complete:
            raise ClusterError("the cluster is not complete: run `up` first")
        if node is not None and node not in record.nodes:
            raise ClusterError(f"there is no node {node}: the nodes are {', '.join(record.nodes) or 'none'}")
        return self._cluster(slot, record), record

    def _cluster(self, slot: Slot, record: ClusterRecord) -> Cluster:
        return Cluster(self._checkout, slot, Path(record.programs), cgroups.mounted())

    def _record(self) -> ClusterRecord:
        return ClusterRecord(**(self._checkout.read_record() or {"provider": self.name}))

    def _write(self, record: ClusterRecord) -> None:
        write_json(self._checkout.record, asdict(record))

    def _write_harm(self, record: ClusterRecord, name: str, harm: str) -> None:
        record.nodes[name] = harm
        self._write(record)


def _must_be_root(command: str) -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "the native provider makes namespaces and cgroups and must be root: type\n"
            f"  sudo {sys.executable} -m local_cluster {command}\n"
            "or start Docker or Podman: with kind no root is needed"
        )


def _plan(size: Size) -> dict[str, float]:
    """The steps of `up` and the seconds they take on two cores."""
    missing = [wanted for wanted in _builds(size) if not go_builds.is_built(wanted)]
    plan = {_PROGRAMS: 0.1 + sum(wanted.seconds for wanted in missing)}
    if size.nodes:
        plan |= {_IMAGES: 0.5 + bases.seconds_to_prepare()}
    plan |= {_NETWORK: 0.2, _CONTROL_PLANE: 4.0}
    if size.nodes:
        plan |= {_NODES: 0.2, _READY: 2.0, _DNS: 2.5}
    if size.simulated:
        plan |= {_SIMULATED: 5 + size.simulated / 100}
    return plan


def _builds(size: Size) -> list[go_builds.GoBuild]:
    return [
        go_builds.KUBERNETES,
        *([go_builds.COREDNS, go_builds.PAUSE] if size.nodes else []),
        *([go_builds.KWOK] if size.simulated else []),
    ]


def _build(size: Size) -> Path:
    for wanted in _builds(size):
        go_builds.build(wanted)
    return go_builds.build(go_builds.KUBERNETES)


def _sweep_orphans(checkout: Checkout) -> None:
    """Clusters of checkouts that were deleted cannot be reached by anybody: they go. The others are told."""
    for slot, owner in slots.read_claims().items():
        if not owner.exists():
            print(f"note: {owner} is gone; removing its cluster ({slot.name})")
            cleanup.sweep(slot)
            slots.release(slot)
        elif owner != checkout.root:
            print(f"note: {owner} has a cluster on this machine too ({slot.name}); the two do not meet")
