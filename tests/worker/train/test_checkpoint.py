"""Checkpoints are whole or not there; the newest whole one is found."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from muster_worker.train import checkpoint, durable
from muster_worker.train.checkpoint import Checkpoints
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.storage import Storage


@pytest.fixture
def saved():
    """What `on_saved` was told."""
    return []


@pytest.fixture
def checkpoints(tmp_path, lone_rank, saved):
    (tmp_path / "checkpoints").mkdir()
    return Checkpoints(Storage(tmp_path, dist.group.WORLD, "run"), keep=3, on_saved=saved.append)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


def save(checkpoints, step, *, asynchronous=False):
    checkpoints.save(
        step, {"model": {"weight": torch.full((1000,), float(step))}}, {"step": step}, asynchronous=asynchronous
    )


def loaded(checkpoints):
    """Step, state and a weight of the newest intact checkpoint."""
    found = checkpoints.newest_intact()
    tensors = {"model": {"weight": torch.zeros(1000)}}
    checkpoints.load(found, tensors)
    return found.step, found.state["step"], tensors["model"]["weight"][0].item()


def test_the_newest_is_found_and_loaded(checkpoints):
    for step in (5, 10):
        save(checkpoints, step)
    assert loaded(checkpoints) == (10, 10, 10.0)


def test_without_any_there_is_none(checkpoints):
    assert checkpoints.newest_intact() is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, lengthen, remove, empty])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "manifest.json"])
def test_a_damaged_one_is_skipped_for_the_one_before(checkpoints, directory, damage, name, caplog):
    for step in (5, 10):
        save(checkpoints, step)
    damage(directory / "step-00000010" / name)
    if (damage, name) == (lengthen, "manifest.json"):
        (directory / "step-00000010" / name).write_text("{}")
    assert loaded(checkpoints) == (5, 5, 5.0)
    assert checkpoints.broken == 1
    assert f"skipped the broken checkpoint {directory / 'step-00000010'}: {name}" in caplog.text


@pytest.mark.long
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "manifest.json"])
def test_torn_or_changed_at_any_byte_it_is_skipped_for_the_one_before(checkpoints, directory, name):
    for step in (5, 10):
        checkpoints.save(step, {"weight": torch.full((4,), float(step))}, {"step": step}, asynchronous=False)
    path = directory / "step-00000010" / name
    whole = path.read_bytes()
    logging.disable(logging.WARNING)  # it says so each time
    try:
        for place in range(len(whole.rstrip(b"\n"))):
            path.write_bytes(whole[:place])
            assert checkpoints.newest_intact().step == 5, f"torn at byte {place}"
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            assert checkpoints.newest_intact().step == 5, f"changed at byte {place}"
    finally:
        logging.disable(logging.NOTSET)
    path.write_bytes(whole)
    assert checkpoints.newest_intact().step == 10


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(checkpoints, directory):
    save(checkpoints, 5)
    path = directory / "step-00000005" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["state"]["step"] = 6
    path.write_text(json.dumps(manifest))
    assert checkpoints.newest_intact() is None


def test_when_all_are_damaged_there_is_none(checkpoints, directory):
    for step in (5, 10):
        save(checkpoints, step)
        flip_a_byte(directory / f"step-{step:08d}" / "__0_0.distcp")
    assert checkpoints.newest_intact() is None
    assert checkpoints.broken == 2


@pytest.mark.parametrize("name", ["__0_0.distcp", "manifest.json"])
def test_what_cannot_be_read_is_skipped_but_never_forgotten(checkpoints, directory, monkeypatch, name):
    """As by a network's file system that has lost its server for a moment: it is not known to be broken."""
    save(checkpoints, 5)
    save(checkpoints, 10)
    lost = {directory / "step-00000010" / name}

    whole = Path.open

    def read(path, *words, **more):
        if path in lost:
            raise OSError(errno.ESTALE, "Stale file handle")
        return whole(path, *words, **more)

    monkeypatch.setattr(Path, "open", read)
    assert loaded(checkpoints)[0] == 5
    lost.add(directory / "step-00000005" / name)
    with pytest.raises(StorageError, match=rf"{name} cannot be read: Stale file handle: it may be whole, and no other"):
        checkpoints.newest_intact()
    lost.clear()
    assert loaded(checkpoints)[0] == 10


def test_a_damaged_one_is_replaced_by_the_next_of_its_step_and_removed_by_a_later_one(checkpoints, directory):
    for step in (5, 10, 15):
        save(checkpoints, step)
    for step in (10, 15):
        truncate(directory / f"step-{step:08d}" / ".metadata")
    assert loaded(checkpoints)[0] == 5
    save(checkpoints, 10)
    assert loaded(checkpoints) == (10, 10, 10.0)
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000005", "step-00000010"]


def test_one_that_was_being_written_is_not_seen(checkpoints, directory):
    save(checkpoints, 5)
    shutil.copytree(directory / "step-00000005", durable.temporary_beside(directory / "step-00000010", "other-run"))
    (directory / "step-1").mkdir()
    assert loaded(checkpoints)[0] == 5
    durable.clear_leftovers(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000005", "step-1"]


def test_one_of_another_format_is_refused_and_stays(checkpoints, directory, monkeypatch):
    """Also where an older one could be gone on from: what comes after that would be removed."""
    save(checkpoints, 5)
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "FORMAT", 3)
        save(checkpoints, 10)
    with pytest.raises(ConfigurationError, match=r"step-00000010 .* its format is 3, wanted 2; use an image of that"):
        checkpoints.newest_intact()
    assert (directory / "step-00000010").is_dir()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_only_the_newest_are_kept(checkpoints, directory, asynchronous, saved):
    for step in range(1, 8):
        save(checkpoints, step, asynchronous=asynchronous)
    checkpoints.wait()
    assert sorted(path.name for path in directory.iterdir()) == [f"step-{step:08d}" for step in (5, 6, 7)]
    assert [one.step for one in saved] == list(range(1, 8))
    size = sum(path.stat().st_size for path in (directory / "step-00000007").iterdir() if path.name != "manifest.json")
    assert saved[-1] == checkpoint.Saved(7, size, "checkpoints/step-00000007")


def test_what_training_does_meanwhile_does_not_reach_an_asynchronous_checkpoint(checkpoints):
    weight = torch.ones(1000)
    checkpoints.save(5, {"model": {"weight": weight}}, {"step": 5}, asynchronous=True)
    weight.zero_()
    checkpoints.wait()
    assert loaded(checkpoints) == (5, 5, 1.0)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failing", ["record_of", "write_json", "publish"])
def test_a_storage_that_fails_is_named_and_nothing_half_is_left(
    checkpoints, directory, monkeypatch, asynchronous, failing
):
    save(checkpoints, 5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, failing, full)

    def save_and_wait():
        save(checkpoints, 10, asynchronous=asynchronous)
        checkpoints.wait()

    with pytest.raises(StorageError, match=r"checkpoint of step 10 could not be written .*No space left on device"):
        save_and_wait()
    assert [path.name for path in directory.iterdir()] == ["step-00000005"]
    monkeypatch.undo()
    save(checkpoints, 10)
    assert loaded(checkpoints)[0] == 10


def test_a_crash_between_two_renames_leaves_the_old_or_the_new(checkpoints, directory, monkeypatch):
    for step in (5, 10):
        save(checkpoints, step)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.shutil, "rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, 10)
    monkeypatch.undo()
    assert loaded(checkpoints) == (10, 10, 10.0)


def test_a_checkpoint_of_another_model_says_so(checkpoints):
    save(checkpoints, 5)
    found = checkpoints.newest_intact()
    with pytest.raises(StorageError, match=r"does not fit the recipe's model: .*bias"):
        checkpoints.load(found, {"model": {"bias": torch.zeros(3)}})


def state_of(*names):
    return {name: {"step": torch.ones(()), "sum": torch.ones(3)} for name in names}


def test_of_a_parameter_that_had_no_state_none_is_loaded(checkpoints):
    weight = {"weight": torch.ones(3)}
    checkpoints.save(5, {"model": weight, "optimizer": state_of("some.weight")}, {}, asynchronous=False)
    found = checkpoints.newest_intact()
    tensors = {"model": {"weight": torch.zeros(3)}, "optimizer": state_of("some.weight", "some.weight.other")}
    checkpoints.load(found, tensors, partial="optimizer")
    assert tensors["model"]["weight"].equal(torch.ones(3))
    assert set(tensors["optimizer"]) == {"some.weight"}
    tensors["optimizer"]["some.weight"]["mean"] = torch.zeros(3)
    with pytest.raises(StorageError, match=r"does not fit the recipe's model: .*mean"):
        checkpoints.load(found, tensors, partial="optimizer")
    tensors = {"model": {"bias": torch.zeros(3)}, "optimizer": {}}
    with pytest.raises(StorageError, match=r"does not fit the recipe's model: .*bias"):
        checkpoints.load(found, tensors, partial="optimizer")
