"""One machine can run clusters of several checkouts: each claims a slot, and all names and addresses follow from it.

The claim is written before the first thing is made and removed after the last is gone: it is the journal
that lets `down` tidy up after a command that was killed.
"""

import contextlib
import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import commands
from local_cluster.checkout import Checkout, read_json, write_json
from local_cluster.errors import ClusterError

CLAIMS = Path("/run/muster")
LAST_SLOT = 31


@dataclass(frozen=True)
class Slot:
    number: int

    @property
    def name(self) -> str:
        """The link on the host, the root of the cgroups, and what the namespaces' names begin with."""
        return f"muster{self.number}"

    def namespace(self, place: str) -> str:
        return f"{self.name}-{place}"

    @property
    def machines(self) -> ipaddress.IPv4Network:
        """Host, control plane and nodes."""
        return ipaddress.IPv4Network(f"10.89.{self.number}.0/24")

    @property
    def pods(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{144 + self.number}.0.0/16")

    @property
    def services(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{96 + self.number}.0.0/16")

    @property
    def host_address(self) -> str:
        return str(self.machines[1])

    @property
    def control_plane_address(self) -> str:
        return str(self.machines[10])

    @property
    def api_service_address(self) -> str:
        return str(self.services[1])

    @property
    def dns_address(self) -> str:
        return str(self.services[10])

    def node_address(self, number: int) -> str:
        return str(self.machines[10 + number])

    def node_pods(self, number: int) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{144 + self.number}.{number}.0/24")


def claim(checkout: Checkout) -> Slot:
    """The slot of this checkout: the one it has, or the first that is free and whose addresses nobody uses."""
    with _registry():
        claims = read_claims()
        for slot, owner in claims.items():
            if owner == checkout.root:
                return slot
        used = networks_in_use(commands.run("ip", "-4", "-json", "route", "show", "table", "all"))
        for slot in map(Slot, range(LAST_SLOT + 1)):
            if slot not in claims and not _overlaps(slot, used):
                write_json(_claim_file(slot), {"checkout": str(checkout.root)})
                return slot
    raise ClusterError(f"all {LAST_SLOT + 1} address ranges for clusters are in use on this machine: see `ip route`")


def release(slot: Slot) -> None:
    with _registry():
        _claim_file(slot).unlink(missing_ok=True)


def read_claims() -> dict[Slot, Path]:
    """Who has which slot on this machine."""
    found = {}
    for file in sorted(CLAIMS.glob("slot-*.json")):
        claimed = read_json(file)
        if claimed is not None:
            found[Slot(int(file.stem.removeprefix("slot-")))] = Path(claimed["checkout"])
    return found


def slot_of(checkout: Checkout) -> Slot | None:
    return next((slot for slot, owner in read_claims().items() if owner == checkout.root), None)


def networks_in_use(routes: str) -> list[ipaddress.IPv4Network]:
    """What `ip -json route show` says is reachable, the default route aside."""
    found = []
    for route in json.loads(routes or "[]"):
        with contextlib.suppress(ValueError):  # "default"
            found.append(ipaddress.IPv4Network(route["dst"]))
    return found


def _overlaps(slot: Slot, used: list[ipaddress.IPv4Network]) -> bool:
    wanted = (slot.machines, slot.pods, slot.services)
    return any(network.overlaps(other) for network in wanted for other in used)


def _claim_file(slot: Slot) -> Path:
    return CLAIMS / f"slot-{slot.number}.json"


@contextlib.contextmanager
def _registry() -> Iterator[None]:
    """Held while claims are read and changed. The directory itself is locked, and goes with its last claim."""
    while True:
        CLAIMS.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(CLAIMS, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if CLAIMS.exists() and os.fstat(descriptor).st_ino == CLAIMS.stat().st_ino:
            break
        os.close(descriptor)  # its last claim went, and the directory with it, while we waited
    try:
        yield
        with contextlib.suppress(OSError):
            CLAIMS.rmdir()
    finally:
        os.close(descriptor)
