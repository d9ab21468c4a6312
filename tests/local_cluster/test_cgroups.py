"""Which cgroup trees are used, in all layouts that machines have."""

from pathlib import Path

import pytest

from local_cluster.errors import ClusterError
from local_cluster.native import cgroups
from tests.local_cluster.places import names

VERSION_1 = """\
tmpfs /sys/fs/cgroup tmpfs ro 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
HYBRID = VERSION_1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


def test_version_1_uses_every_tree():
    trees = cgroups.mounted(VERSION_1)
    assert not trees.unified
    assert [path.name for path in trees.paths("muster0")] == ["muster0"] * 3
    assert trees.entrances("a/b")[0] == Path("/sys/fs/cgroup/cpu,cpuacct/a/b/cgroup.procs")


def test_version_2_uses_its_only_tree():
    trees = cgroups.mounted(UNIFIED)
    assert trees.unified
    assert trees.paths("muster0/node-1") == [Path("/sys/fs/cgroup/muster0/node-1")]


def test_the_hybrid_layout_uses_version_1_and_sweeps_version_2_too():
    trees = cgroups.mounted(HYBRID)
    assert not trees.unified
    assert Path("/sys/fs/cgroup/unified/muster0") not in trees.paths("muster0")
    assert Path("/sys/fs/cgroup/unified/muster0") in trees.traces("muster0")


def test_a_machine_without_cgroups_is_told_so():
    with pytest.raises(ClusterError, match="mount cgroup2"):
        cgroups.mounted("proc /proc proc rw 0 0\n")


def tree_of_version_2(root: Path) -> cgroups.Hierarchies:
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids hugetlb\n")
    (root / "cgroup.subtree_control").write_text("memory\n")
    return cgroups.Hierarchies((root,), unified=True)


def test_version_2_hands_controllers_down(tmp_path, monkeypatch):
    trees, handed_down = tree_of_version_2(tmp_path), []
    monkeypatch.setattr(Path, "write_text", lambda path, text: handed_down.append((path.parent, text)))
    cgroups.create(trees, "muster0")
    wanted = {"+cpuset", "+cpu", "+io", "+pids"}  # memory is handed down already, hugetlb nobody asks for
    assert {text for parent, text in handed_down if parent == tmp_path} == wanted


def test_a_controller_that_cannot_be_handed_down_is_named(tmp_path, monkeypatch):
    trees = tree_of_version_2(tmp_path)

    def busy(_path: Path, _text: str) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "write_text", busy)
    with pytest.raises(ClusterError, match=r"controller cpuset .* processes in that group stand in the way"):
        cgroups.create(trees, "muster0")


def test_version_1_fills_a_cpuset_from_its_parent(tmp_path):
    trees = cgroups.Hierarchies((tmp_path,), unified=False)
    child = tmp_path / "muster0"
    child.mkdir()
    for name, value in (("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")):
        (tmp_path / name).write_text(value)
        (child / name).write_text("\n")
    cgroups.create(trees, "muster0")
    assert (child / "cpuset.cpus").read_text() == "0-1"
    assert (child / "cpuset.mems").read_text() == "0"


def test_processes_are_found_in_all_groups_below(tmp_path):
    (tmp_path / "muster0" / "node-1" / "kubepods").mkdir(parents=True)
    (tmp_path / "muster0" / "cgroup.procs").write_text("")
    (tmp_path / "muster0" / "node-1" / "cgroup.procs").write_text("12\n")
    (tmp_path / "muster0" / "node-1" / "kubepods" / "cgroup.procs").write_text("0\n13\n14\n")
    assert cgroups.processes(cgroups.Hierarchies((tmp_path,), unified=True), "muster0") == {12, 13, 14}


def test_groups_go_the_deepest_first(tmp_path):
    (tmp_path / "muster0" / "node-1" / "kubepods" / "pod").mkdir(parents=True)
    cgroups.remove(cgroups.Hierarchies((tmp_path,), unified=False), "muster0")
    assert names(tmp_path) == []
