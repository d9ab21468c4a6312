"""The cgroups of a cluster: where its processes are kept, counted and found again.

Version 1 has one tree for each controller and a process is in all of them; version 2 has a single tree
in which a group with children holds no processes itself. So daemons always get a leaf of their own.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from local_cluster import interrupts
from local_cluster.errors import ClusterError

_WANTED = ("cpuset", "cpu", "io", "memory", "pids")


@dataclass(frozen=True)
class Hierarchies:
    """The mounted trees. `unified` tells version 2; then there is exactly one.

    In the hybrid layout, `bystanders` is the version-2 tree beside: it limits nothing, so nothing is made
    there, but runc makes groups in it that must go again.
    """

    roots: tuple[Path, ...]
    unified: bool
    bystanders: tuple[Path, ...] = ()

    def paths(self, group: str) -> list[Path]:
        return [root / group for root in self.roots]

    def traces(self, group: str) -> list[Path]:
        """Wherever something of a group may be left."""
        return [root / group for root in (*self.roots, *self.bystanders)]

    def entrances(self, group: str) -> list[Path]:
        """The files to which a process writes itself to be in the group."""
        return [path / "cgroup.procs" for path in self.paths(group)]


def mounted(mounts: str | None = None) -> Hierarchies:
    """Reads /proc/mounts. In the hybrid layout the version-1 trees have the controllers, so they count."""
    lines = [line.split() for line in (mounts or Path("/proc/self/mounts").read_text()).splitlines()]
    version_1 = {fields[1] for fields in lines if fields[2] == "cgroup"}
    version_2 = [fields[1] for fields in lines if fields[2] == "cgroup2"]
    if version_1:
        return Hierarchies(tuple(map(Path, sorted(version_1))), unified=False, bystanders=tuple(map(Path, version_2)))
    if not version_2:
        raise ClusterError("no cgroups are mounted: mount cgroup2 on /sys/fs/cgroup")
    return Hierarchies((Path(version_2[0]),), unified=True)


def create(trees: Hierarchies, group: str) -> None:
    """Makes a group in every tree, able to hold processes or to have controlled children."""
    for root in trees.roots:
        path = root
        for part in Path(group).parts:
            if trees.unified:
                _delegate(path)
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            _inherit_cpuset(parent, path)


def _delegate(path: Path) -> None:
    """Version 2: lets the children of `path` be limited."""
    there = (path / "cgroup.controllers").read_text().split()
    switched_on = (path / "cgroup.subtree_control").read_text().split()
    for controller in _WANTED:
        if controller in there and controller not in switched_on:
            try:
                (path / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as error:
                raise ClusterError(
                    f"the controller {controller} cannot be handed down from {path} ({error.strerror}): "
                    "processes in that group stand in the way; inside of a container, start it with "
                    "--cgroupns=host or move them to a child group"
                ) from error


def _inherit_cpuset(parent: Path, child: Path) -> None:
    """Version 1: a cpuset is born empty and takes no process until it is filled."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (child / name).exists() and not (child / name).read_text().strip():
            inherited = (parent / name).read_text().strip()
            if inherited:
                (child / name).write_text(inherited)


def processes(trees: Hierarchies, group: str) -> set[int]:
    """All processes in a group and the groups below it."""
    found: set[int] = set()
    for top in trees.traces(group):
        for directory, _children, files in os.walk(top):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):  # the group went away meanwhile
                    found.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return found - {0}


def kill(trees: Hierarchies, group: str, limit: float = 20) -> None:
    """Ends every process in the group by SIGKILL, those that they start meanwhile too."""

    def empty() -> bool:
        living = processes(trees, group)
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not living

    interrupts.wait_for(f"the processes in cgroup {group} end", empty, limit, every=0.05)


def remove(trees: Hierarchies, group: str, limit: float = 10) -> None:
    """Removes an emptied group with all below it, the deepest first."""

    def gone() -> bool:
        for top in trees.traces(group):
            for directory, _children, _files in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # busy for a moment after its last process
                    Path(directory).rmdir()
        return not any(path.exists() for path in trees.traces(group))

    interrupts.wait_for(f"the cgroup {group} can be removed", gone, limit, every=0.05)
