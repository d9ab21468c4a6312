"""The model as TorchServe takes it: a directory that torch-model-archiver makes, with links to the model's files.

Nothing is copied, however large the model is. `handler.py` goes into it, which reads the model as `muster-worker serve`
does, and says by two files beside it how it is: one that it holds locked while it can compute, and one with its last
words.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCKED, LAST_WORDS = "locked", "last-words.json"

_HANDLER = Path(__file__).with_name("handler.py")


@dataclass(frozen=True, slots=True)
class Archive:
    """`name`: how TorchServe calls the model; `version`: the checksum of the model directory that it is made of."""

    directory: Path
    name: str
    version: str


def archive(model: Path, files: Iterable[str], name: str, sha256: str, place: Path) -> Archive:
    """Makes one of `files` of the model directory, below `place`; raises ConfigurationError for a wrong name."""
    store, scratch = place / "store", place / "archiver"
    for directory in (store, scratch):
        directory.mkdir()
    command = [
        *("torch-model-archiver", "--model-name", name, "--version", sha256, "--handler", str(_HANDLER)),
        *("--archive-format", "no-archive", "--export-path", str(store)),
    ]
    # It empties a directory of the model's name below TMPDIR, whoever's that is.
    environment = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"--name: TorchServe takes no model that is called {name}: {done.stderr.strip()}")
    for file in files:
        (store / name / file).symlink_to(model.resolve() / file)
    return Archive(store / name, name, sha256)
