"""Removes every trace of a cluster from the machine, whatever state it was left in.

Nothing is remembered that could be lost: processes are found by their cgroups, the rest by the slot's name.
"""

from pathlib import Path

from local_cluster import commands
from local_cluster.checkout import Checkout
from local_cluster.native import cgroups, network, slots
from local_cluster.native.slots import Slot


def remove(checkout: Checkout, *, keep_logs: bool = False) -> None:
    """Takes down the cluster of a checkout and forgets it."""
    slot = slots.slot_of(checkout)
    if slot is not None:
        sweep(slot)
    for mountpoint in mounts_below(checkout.state, Path("/proc/self/mountinfo").read_text()):
        commands.run("umount", "--lazy", mountpoint)
    checkout.remove_state(keep_logs=keep_logs)
    if slot is not None:
        slots.release(slot)


def sweep(slot: Slot) -> None:
    trees = cgroups.mounted()
    # Kubelets, containerds, shims and pods at once: nobody is left who would restart another.
    cgroups.kill(trees, slot.name)
    network.remove(slot)
    cgroups.remove(trees, slot.name)


def mounts_below(directory: Path, mountinfo: str) -> list[str]:
    """Mount points at or below a directory, the deepest first."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines()]
    below = [point for point in points if Path(point).is_relative_to(directory)]
    return sorted(below, key=len, reverse=True)
