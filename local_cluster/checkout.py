"""Which checkout this is, where its cluster's state lies, and the lock that lets one command at a time change it."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster.errors import ClusterError


@dataclass(frozen=True)
class Checkout:
    root: Path

    @property
    def state(self) -> Path:
        """Everything that belongs to the running cluster, and to nobody else. Git ignores it."""
        return self.root / ".cluster"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def storage(self) -> Path:
        """What the cluster's shared volumes hold."""
        return self.state / "storage"

    @property
    def record(self) -> Path:
        return self.state / "cluster.json"

    @property
    def identity(self) -> str:
        """A short name that no other checkout on this machine has."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:10]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One command at a time. The lock is on the directory itself, so that no file is left; it ends with us."""
        descriptor = os.open(self.root / "local_cluster", os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ClusterError(f"another local_cluster command is at work on {self.root}: wait for it to end") from None
        finally:
            os.close(descriptor)

    def read_record(self) -> dict[str, Any] | None:
        """What is known of this checkout's cluster, or None when there is none."""
        return read_json(self.record)

    def remove_state(self, *, keep_logs: bool = False) -> None:
        if not self.state.exists():
            return
        for entry in self.state.iterdir():
            if keep_logs and entry == self.logs:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if not keep_logs:
            self.state.rmdir()


def this_checkout() -> Checkout:
    return Checkout(Path(__file__).resolve().parent.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return loaded


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Readers see the old text or the new one, also when the machine stops half-way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1) + "\n")
