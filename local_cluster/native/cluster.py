"""One cluster and what can be done to it, step by step; the provider decides which steps, and in what order."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster import dns, interrupts, manifests, simulated, stand_ins
from local_cluster.checkout import Checkout
from local_cluster.kubernetes_api import Api
from local_cluster.native import cgroups, network, pki, templates
from local_cluster.native.control_plane import GROUP, ControlPlane
from local_cluster.native.node import STORAGE, Node
from local_cluster.native.slots import Slot
from local_cluster.processes import Daemons

_NODES_READY_LIMIT = 120  # seconds; on a machine that is busy with something else, too
_DNS_QUESTIONS = 5
_DNS_LIMIT = 90  # seconds
_STAND_INS = "stand-ins"
_SIMULATOR = "kwok"


@dataclass(frozen=True)
class Cluster:
    checkout: Checkout
    slot: Slot
    programs: Path
    trees: cgroups.Hierarchies

    @property
    def control_plane(self) -> ControlPlane:
        return ControlPlane(self.checkout, self.slot, self.programs, self.trees)

    @property
    def daemons(self) -> Daemons:
        return Daemons(self.checkout.state / "processes.json", self.checkout.logs)

    def node(self, name: str) -> Node:
        number = int(name.removeprefix("node-"))
        return Node(self.checkout, self.slot, number, self.programs, templates.directory(), self.trees)

    # -- the beginning ----------------------------------------------------------------------------

    def lay_network(self) -> None:
        cgroups.create(self.trees, f"{self.slot.name}/{GROUP}")
        network.create(self.slot)

    def make_node(self, name: str, template: Path, others: Sequence[str]) -> None:
        """A node as far as it comes without an API server: its namespaces, images and containerd."""
        node = self.node(name)
        self.checkout.storage.mkdir(parents=True, exist_ok=True)
        network.join(self.slot, node.number, [self.node(other).number for other in others])
        node.prepare(self.control_plane)
        templates.derive(template, node.directory / "lib" / "containerd")
        node.start_containerd(self.daemons)

    def start_services(self, name: str) -> None:
        node = self.node(name)
        node.await_containerd(self.daemons)
        node.start_kubelet(self.daemons)
        node.start_proxy(self.daemons)

    def furnish(self, api: Api, *, with_nodes: bool) -> None:
        """What every cluster is given."""
        self._start_stand_ins()
        for manifest in (manifests.storage_class(), *(manifests.dns(self.slot.dns_address) if with_nodes else [])):
            api.apply(manifest)

    def simulate(self, api: Api, nodes: int) -> None:
        plane = self.control_plane
        plane.authority.issue(pki.SIMULATOR)
        plane.authority.write_kubeconfig(pki.SIMULATOR, plane.server, plane.kubeconfig(pki.SIMULATOR))
        self._start_simulator()
        simulated.create_nodes(api, nodes)
        simulated.await_nodes(api, self.daemons, nodes)

    def hand_over(self) -> None:
        """The kubeconfig, and the right to read it for the checkout's owner, who may have typed sudo."""
        plane = self.control_plane
        plane.authority.write_kubeconfig(pki.ADMIN, plane.server, self.checkout.kubeconfig)
        owner = self.checkout.root.stat()
        pki_files = plane.authority.directory.iterdir()
        for path in (self.checkout.state, self.checkout.kubeconfig, plane.authority.directory, *pki_files):
            os.chown(path, owner.st_uid, owner.st_gid)

    def _start_stand_ins(self) -> None:
        access = self.control_plane.access(pki.STAND_INS)
        command = stand_ins.command(self.checkout.root, sys.executable, access, self.checkout.storage, STORAGE)
        self.daemons.start(_STAND_INS, command, self._entrances())

    def _start_simulator(self) -> None:
        plane = self.control_plane
        kwok = simulated.kwok(plane.directory, plane.kubeconfig(pki.SIMULATOR))
        self.daemons.start(_SIMULATOR, [*network.enter(self.slot, network.CONTROL_PLANE), *kwok], self._entrances())

    def _entrances(self) -> list[Path]:
        return self.trees.entrances(f"{self.slot.name}/{GROUP}")

    # -- waiting ----------------------------------------------------------------------------------

    def await_ready(self, api: Api, names: Sequence[str]) -> None:
        def ready() -> bool:
            self.daemons.must_live()
            return not self._not_ready(api, names)

        interrupts.wait_for(f"{', '.join(names)} ready", ready, _NODES_READY_LIMIT, every=0.2)

    def await_dns(self) -> None:
        """Several times in a row: behind the address are two servers, and one that just died may still be asked."""

        def answers() -> bool:
            return all(dns.answers(self.slot.dns_address) for _ in range(_DNS_QUESTIONS))

        interrupts.wait_for("DNS answers", answers, _DNS_LIMIT)

    # -- later ------------------------------------------------------------------------------------

    def wrong(self, names: Sequence[str]) -> list[str]:
        """What is not as it should be, with the nodes `names` expected to be well."""
        found = [f"{name} is not running, see {self.daemons.log(name)}" for name in self.daemons.dead()]
        api = self.control_plane.api()
        if not api.ready():
            return [*found, f"the API server at {self.control_plane.server} does not answer"]
        found += [f"{name} is not ready" for name in self._not_ready(api, names)]
        # One lost packet, or one server of the two, is no failure.
        if names and not any(dns.answers(self.slot.dns_address) for _ in range(_DNS_QUESTIONS)):
            found.append("DNS does not answer")
        return found

    def restart_dead(self, names: Sequence[str]) -> list[str]:
        """Starts again what has died; returns the names of it."""
        dead = self.daemons.dead()
        plane = self.control_plane
        if {"etcd", "kube-apiserver"} & {*dead}:
            plane.restart_api(self.daemons, dead)
        plane.restart_others(self.daemons, dead)
        for name, start in ((_STAND_INS, self._start_stand_ins), (_SIMULATOR, self._start_simulator)):
            if name in dead:
                start()
        for name in names:
            self._restart_node(self.node(name), dead)
        return dead

    def _restart_node(self, node: Node, dead: Sequence[str]) -> None:
        if node.daemon("containerd") in dead:
            # The others are in its mount namespace, and so are the pods: they begin anew with it.
            cgroups.kill(self.trees, node.group)
            node.start_containerd(self.daemons)
            self.start_services(node.name)
            return
        if node.daemon("kubelet") in dead:
            node.start_kubelet(self.daemons)
        if node.daemon("kube-proxy") in dead:
            node.start_proxy(self.daemons)

    def _not_ready(self, api: Api, names: Sequence[str]) -> list[str]:
        nodes = {node["metadata"]["name"]: node for node in api.items("/api/v1/nodes", resourceVersion="0")}
        return [name for name in names if name not in nodes or not simulated.is_ready(nodes[name])]
