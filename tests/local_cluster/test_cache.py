"""The cache: whole or absent, made once, and by its inputs."""

import multiprocessing
import re
from pathlib import Path

import pytest

from local_cluster import cache, go_builds
from local_cluster.errors import ClusterError
from tests.local_cluster.places import names


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_key_tells_content_order_and_boundaries_apart(tmp_path):
    file = tmp_path / "go.mod"
    file.write_text("module x\n")
    keys = {cache.key("ab", "c"), cache.key("a", "bc"), cache.key("c", "ab"), cache.key(file, "c")}
    assert len(keys) == 4
    assert cache.key(file) == cache.key("module x\n")


def test_an_entry_is_made_once():
    made = []

    def build(place: Path) -> None:
        made.append(place)
        (place / "program").write_text("x")

    assert cache.make("builds", "a-1", build) == cache.make("builds", "a-1", build)
    assert len(made) == 1
    assert (cache.entry("builds", "a-1") / "program").read_text() == "x"


def test_a_failed_build_leaves_nothing_and_is_made_again():
    def fail(place: Path) -> None:
        (place / "half").write_text("x")
        raise ClusterError("no")

    with pytest.raises(ClusterError):
        cache.make("builds", "a-1", fail)
    assert list((cache.root() / "builds").iterdir()) == []
    assert cache.make("builds", "a-1", lambda place: (place / "whole").touch()).is_dir()


def test_what_a_killed_build_left_is_thrown_away():
    partial = cache.root() / "builds" / ".partial-a-1"
    partial.mkdir(parents=True)
    (partial / "half").touch()
    place = cache.make("builds", "a-1", lambda place: (place / "whole").touch())
    assert names(place) == ["whole"]


def _build_once(name: str) -> None:
    def build(place: Path) -> None:
        with (cache.root() / "log").open("a") as log:
            log.write("built\n")
        (place / "whole").touch()

    cache.make("builds", name, build)


def test_of_many_processes_one_builds():
    cache.root().mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build_once, args=("a-1",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (cache.root() / "log").read_text() == "built\n"


def test_versions_come_from_go_mod():
    assert go_builds.KUBERNETES.version().startswith("v1.34.")
    assert go_builds.KUBECONFORM.version() == "v0.7.0"
    with pytest.raises(ClusterError, match=r"go\.mod does not name example\.org/x"):
        go_builds.required_version("module y\n", "example.org/x")


@pytest.mark.parametrize("folder", sorted(path.name for path in go_builds.MODULES.iterdir()))
def test_modules_are_pinned_and_name_no_mirror(folder):
    go_mod = (go_builds.MODULES / folder / "go.mod").read_text()
    assert go_mod.startswith(f"module muster.dev/local-cluster/{folder}\n")
    assert (go_builds.MODULES / folder / "go.sum").exists()
    assert not re.search(r"=>\s+(\.|/|https?:)", go_mod)  # nothing from a folder of somebody's machine


def test_a_missing_go_is_answered_with_what_to_type(monkeypatch):
    monkeypatch.setattr(go_builds.commands, "find", lambda _program: None)
    with pytest.raises(ClusterError, match=r"curl -fL https://go\.dev/dl/go1\.26"):
        go_builds.build(go_builds.PAUSE)


@pytest.mark.parametrize(("found", "toolchain"), [("go1.26.8", "local"), ("go1.22.1", "go1.26.0")])
def test_a_go_that_can_bring_a_newer_one_does(monkeypatch, found, toolchain):
    monkeypatch.setattr(go_builds.commands, "find", lambda _program: "/usr/bin/go")
    monkeypatch.setattr(go_builds.commands, "run", lambda *_words, **_settings: found + "\n")
    assert go_builds._toolchain(go_builds.PAUSE)["GOTOOLCHAIN"] == toolchain


def test_a_go_that_is_too_old_is_answered_with_what_to_type(monkeypatch):
    monkeypatch.setattr(go_builds.commands, "find", lambda _program: "/usr/bin/go")
    monkeypatch.setattr(go_builds.commands, "run", lambda *_words, **_settings: "go1.19.8\n")
    with pytest.raises(ClusterError, match=r"found 1\.19\.8; type:"):
        go_builds._toolchain(go_builds.PAUSE)
