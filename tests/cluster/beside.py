"""Programs of others that run beside the control plane for a while: built from their Go modules, as they are."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from local_cluster import go_builds
from local_cluster.checkout import this_checkout
from local_cluster.native import network, slots
from tests.cluster.kube import ROOT, kubeconfig, kubectl, wait_for

LOGS = ROOT / "build" / "test"
_STOP_LIMIT = 20.0
# However the tests end, they end with them.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


def write(name: str, content: Any) -> Path:
    """A configuration file for one of them."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@contextlib.contextmanager
def definitions(of: go_builds.GoBuild) -> Iterator[None]:
    """The resource definitions that are in the module, until this ends."""
    files = [f"--filename={path}" for path in sorted(go_builds.build(of).glob("*.yaml"))]
    kubectl("apply", "--server-side", *files)
    try:
        kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=true", "--timeout=60s", *files)


@contextlib.contextmanager
def program(name: str, *words: str | Path, within: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run it where its ports are nobody else's, until this ends. `within`: a command that becomes it."""
    command = [*_place(), *within, *_WITH_US, *map(str, words)]
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
        assert process.poll() is None, f"{name} ended with {process.returncode}: see its log in {LOGS}"
    finally:
        _stop(process)


def answers(name: str, process: subprocess.Popen[bytes], url: str, limit: float = 60) -> None:
    """Wait until it answers 200 there."""

    def healthy() -> bool:
        assert process.poll() is None, f"{name} ended with {process.returncode}: see its log in {LOGS}"
        ask = ("curl", "--silent", "--fail", "--insecure", "--max-time", "2", "--noproxy", "*", url)
        return subprocess.run([*_place(), *ask], capture_output=True, check=False).returncode == 0

    wait_for(f"{name} is up", healthy, limit)


def certificate(name: str, *names: str) -> tuple[Path, Path]:
    """(certificate, key) of a server that is called so, signed by itself; tls.crt and tls.key of one directory."""
    directory = LOGS / name
    directory.mkdir(parents=True, exist_ok=True)
    files = directory / "tls.crt", directory / "tls.key"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "1", "-subj", f"/CN={name}"]
    new += ["-addext", f"subjectAltName={','.join(f'DNS:{one}' for one in names or (name,))}"]
    out = ["-out", files[0], "-keyout", files[1]]
    subprocess.run(["openssl", "req", "-x509", *new, *map(str, out)], check=True, capture_output=True)
    return files


def slot() -> slots.Slot | None:
    """Where the cluster's addresses come from, if it is this checkout's and made of namespaces."""
    is_ours = Path(kubeconfig()) == this_checkout().kubeconfig
    return slots.slot_of(this_checkout()) if is_ours else None


def _place() -> list[str]:
    """The control plane's network, where the cluster is made of namespaces; else this machine's."""
    found = slot()
    return network.enter(found, network.CONTROL_PLANE) if found is not None else []


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
