"""The network of a cluster: a switch in a namespace of its own, with the host, the control plane and the nodes on it.

The bridge is not on the host: so neither the host's firewall nor its forwarding settings are in the path,
nothing of them is changed, and one link and its routes are all that the host gets.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from local_cluster import commands
from local_cluster.errors import CommandFailedError
from local_cluster.native.slots import Slot

SWITCH = "switch"
CONTROL_PLANE = "cp"
_UP = ["link set lo up", "link set eth0 up"]


@dataclass(frozen=True)
class Batch:
    """Commands for `ip -batch` in one namespace (None: the host's)."""

    namespace: str | None
    lines: tuple[str, ...]


def node_place(number: int) -> str:
    return f"node-{number}"


def enter(slot: Slot, place: str) -> list[str]:
    """The prefix that runs a command in a namespace. `ip netns exec` would remount /sys and hide the cgroups."""
    return ["nsenter", f"--net=/run/netns/{slot.namespace(place)}", "--"]


def create(slot: Slot) -> None:
    """Switch, host and control plane."""
    _run(foundation(slot))
    _sysctl(slot, SWITCH, {"net/bridge/bridge-nf-call-iptables": "0"})
    _sysctl(slot, CONTROL_PLANE, {"net/ipv4/ip_forward": "1"})


def join(slot: Slot, number: int, others: Iterable[int]) -> None:
    """One more node, and the ways between its pods and everybody else."""
    _run(node_batches(slot, number, sorted(others)))
    _sysctl(
        slot,
        node_place(number),
        # Pods of one node reach each other through a Service's address only if the bridge asks iptables.
        {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"},
    )


def foundation(slot: Slot) -> list[Batch]:
    switch, control_plane = slot.namespace(SWITCH), slot.namespace(CONTROL_PLANE)
    size = slot.machines.prefixlen
    return [
        Batch(
            None,
            (
                f"netns add {switch}",
                f"netns add {control_plane}",
                f"link add {slot.name} type veth peer name host netns {switch}",
                f"address add {slot.host_address}/{size} dev {slot.name}",
                f"link set {slot.name} up",
                f"route add {slot.services} via {slot.control_plane_address}",
            ),
        ),
        Batch(
            switch,
            (
                "link add bridge type bridge",
                "link set bridge up",
                "link set host master bridge up",
                *_port(CONTROL_PLANE, control_plane),
            ),
        ),
        Batch(control_plane, _machine(slot, slot.control_plane_address)),
    ]


def node_batches(slot: Slot, number: int, others: list[int]) -> list[Batch]:
    place = node_place(number)
    namespace = slot.namespace(place)
    way_here = f"route add {slot.node_pods(number)} via {slot.node_address(number)}"
    ways_there = tuple(f"route add {slot.node_pods(other)} via {slot.node_address(other)}" for other in others)
    return [
        Batch(None, (f"netns add {namespace}", way_here)),
        Batch(slot.namespace(SWITCH), _port(place, namespace)),
        Batch(namespace, (*_machine(slot, slot.node_address(number)), *ways_there)),
        Batch(slot.namespace(CONTROL_PLANE), (way_here,)),
        *(Batch(slot.namespace(node_place(other)), (way_here,)) for other in others),
    ]


def _port(name: str, namespace: str) -> tuple[str, ...]:
    return (
        f"link add {name} type veth peer name eth0 netns {namespace}",
        f"link set {name} master bridge up",
    )


def _machine(slot: Slot, address: str) -> tuple[str, ...]:
    default = f"route add default via {slot.host_address}"
    return (f"address add {address}/{slot.machines.prefixlen} dev eth0", *_UP, default)


def cut(slot: Slot, number: int) -> None:
    """Takes the switch's end of the cable out: the node keeps its addresses and routes and reaches nobody."""
    commands.run("ip", "-netns", slot.namespace(SWITCH), "link", "set", node_place(number), "down")


def mend(slot: Slot, number: int) -> None:
    commands.run("ip", "-netns", slot.namespace(SWITCH), "link", "set", node_place(number), "up")


def remove(slot: Slot) -> None:
    """Takes away whatever of the network is there."""
    try:
        commands.run("ip", "link", "delete", slot.name)
    except CommandFailedError as error:
        if "Cannot find device" not in error.output:
            raise
    for namespace in namespaces(slot, commands.run("ip", "netns", "list")):
        commands.run("ip", "netns", "delete", namespace)


def namespaces(slot: Slot, listing: str) -> list[str]:
    """Those of `ip netns list` that are the slot's; muster1 is not muster10."""
    names = [line.split()[0] for line in listing.splitlines() if line.strip()]
    return [name for name in names if name.startswith(f"{slot.name}-")]


def _run(batches: Iterable[Batch]) -> None:
    for batch in batches:
        where = ["-netns", batch.namespace] if batch.namespace else []
        commands.run("ip", *where, "-batch", "-", stdin="\n".join(batch.lines) + "\n")


def _sysctl(slot: Slot, place: str, values: dict[str, str]) -> None:
    # A kernel without the bridge filter has no such file and needs none.
    script = "".join(f"if [ -e /proc/sys/{n} ]; then echo {v} > /proc/sys/{n}; fi\n" for n, v in values.items())
    commands.run(*enter(slot, place), "/bin/sh", "-ec", script)
