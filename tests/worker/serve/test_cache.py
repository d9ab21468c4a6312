"""A model is fetched once for all servers of a machine, and goes when room is wanted and nobody uses it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from muster_worker.serve.cache import filling
from muster_worker.serve.fetch import fetch
from muster_worker.train.errors import StorageError
from muster_worker.train.model_directory import load_model, summary


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "cache"
    path.mkdir()
    return path


@pytest.fixture
def disk(cache, monkeypatch):
    """A disk of 100 bytes on which the cache is all that there is."""

    def usage(_):
        return SimpleNamespace(free=100 - sum(file.stat().st_size for file in cache.glob("*/*")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def fill(cache, name, size):
    with filling(cache, name, size) as (directory, _):
        (directory / "weights").write_bytes(b"x" * size)


def models(cache):
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_the_second_server_fetches_nothing(web, affine, cache, tmp_path):
    fetch(web.uri, tmp_path / "one", None, cache)
    web.asked.clear()
    fetch(web.uri, tmp_path / "two", None, cache)
    assert {name for name, _ in web.asked} == {"model.json"}
    for place in ("one", "two"):
        assert summary(load_model(tmp_path / place)) == summary(load_model(affine))


def test_of_several_at_once_one_fetches_and_the_others_wait_for_it(web, affine, cache, tmp_path):
    with ThreadPoolExecutor(4) as many:
        list(many.map(lambda number: fetch(web.uri, tmp_path / str(number), None, cache), range(4)))
    begun = [name for name, begin in web.asked if begin == 0 and name != "model.json"]
    assert sorted(begun) == sorted(set(begun))
    assert summary(load_model(tmp_path / "3")) == summary(load_model(affine))


def test_what_has_changed_in_the_cache_is_fetched_anew(web, affine, cache, tmp_path):
    fetch(web.uri, tmp_path / "one", None, cache)
    (kept,) = cache.glob("*/model.safetensors")
    kept.write_bytes(bytes(kept.stat().st_size))
    fetch(web.uri, tmp_path / "two", None, cache)
    assert summary(load_model(tmp_path / "two")) == summary(load_model(affine))


@pytest.mark.parametrize("fault", ["there is none", "no room"])
def test_without_a_cache_that_can_be_used_it_is_fetched_all_the_same(
    web, affine, cache, tmp_path, fault, request, caplog
):
    if fault == "there is none":
        cache.rmdir()
    else:
        request.getfixturevalue("disk")
    with caplog.at_level(logging.WARNING):
        fetch(web.uri, tmp_path / "model", None, cache)
    assert "the node's cache of models cannot be used" in caplog.text
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


def test_of_another_users_files_in_a_directory_for_all_the_locks_are_taken(cache, monkeypatch):
    """What the kernel does there (fs.protected_regular, on by default where systemd or procps set it up)."""
    fill(cache, "model", 20)
    opened = os.open

    def as_another_user(path, flags, *mode):
        if flags & os.O_CREAT and not flags & os.O_EXCL and path.exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", as_another_user)
    with filling(cache, "model", 20) as (directory, _):
        assert (directory / "weights").stat().st_size == 20


def test_room_is_made_by_those_that_nobody_uses_the_oldest_first(cache, disk):
    for age, name in enumerate(("newest", "used", "old", "oldest")):
        fill(cache, name, 20)
        os.utime(cache / f"{name}.used", (time.time() - 100 * age,) * 2)
    with subprocess.Popen([sys.executable, "-c", _USES, str(cache), "used"], stdout=subprocess.PIPE) as user:
        user.stdout.readline()
        os.utime(cache / "used.used", (1, 1))  # and still it stays
        fill(cache, "next", 30)
        assert models(cache) == {"newest", "used", "old", "next"}
        fill(cache, "after", 50)
        assert models(cache) == {"used", "after", "next"}
        with pytest.raises(OSError, match="99 bytes wanted, 80 are free, and all other models there are in use"):
            fill(cache, "too large", 99)
        assert "used" in models(cache)
        user.kill()
    fill(cache, "large", 90)
    assert "used" not in models(cache)


_USES = """
import os, sys, time
from pathlib import Path
from muster_worker.serve.cache import filling
with filling(Path(sys.argv[1]), sys.argv[2], 0) as (_, lock):
    kept = os.dup(lock)
print("uses it", flush=True)
time.sleep(60)
"""


def test_nothing_is_taken_away_between_whoever_fetches_and_whoever_serves(web, affine, cache, tmp_path):
    line = [sys.executable, "-c", _FETCHES_WHILE_ROOM_IS_WANTED, web.uri, str(tmp_path / "model"), str(cache)]
    subprocess.run(line, check=True)
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


_FETCHES_WHILE_ROOM_IS_WANTED = """
import contextlib, os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from muster_worker.serve.cache import filling
from muster_worker.serve.fetch import fetch_apart

uri, directory, cache = sys.argv[1], *map(Path, sys.argv[2:])
waitpid = os.waitpid

def and_room_is_wanted(*words):
    ended = waitpid(*words)
    shutil.disk_usage = lambda _: SimpleNamespace(free=0)
    with contextlib.suppress(OSError), filling(cache, "another", 1):
        pass
    return ended

os.waitpid = and_room_is_wanted
sys.exit(fetch_apart(uri, directory, None, cache))
"""


def test_a_server_uses_what_is_in_the_cache_until_it_ends(web, cache, tmp_path, serve, disk):
    served = serve(tmp_path / "model", "--name", "affine", "--fetch", web.uri, "--cache", str(cache), ready=False)
    served.until("serving ")
    (name,) = models(cache)
    with contextlib.closing(served.client()) as client:
        assert client.get_model_metadata("affine")["versions"] == [name[:12]]
    with pytest.raises(OSError, match="in use"):
        fill(cache, "next", 101)
    assert models(cache) >= {name}
    served.stop()


def test_a_broken_model_is_told_as_without_a_cache(web, cache, tmp_path):
    (web.root / "affine" / "model.safetensors").write_bytes(b"x" * 10)
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        fetch(web.uri, tmp_path / "model", None, cache)
