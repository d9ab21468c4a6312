"""What a cluster could leave behind on a machine, in one comparable set."""

import contextlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

# What other clusters and the system itself change meanwhile.
_RESTLESS = re.compile(r"/process_api/|/user\.slice|/system\.slice|/init\.scope")
_DIRECTORIES = ("/run", "/run/netns", "/run/muster", "/var/lib", "/var/log", "/opt", "/etc/cni", "/tmp")


def traces(of: Path, slot: str) -> set[str]:
    """Everything on the machine that belongs to a cluster: by its checkout's path or by its slot's name."""
    found = {*_output("ip", "-oneline", "link"), *_output("ip", "netns", "list"), *_output("ip", "route")}
    found |= {*_output("iptables-save"), *Path("/proc/mounts").read_text().splitlines()}
    found |= {str(path) for path in Path("/sys/fs/cgroup").glob("**/") if not _RESTLESS.search(str(path))}
    found |= {text.replace("\0", " ") for text in _of_processes("cmdline")}
    found |= {str(path) for path in Path("/run/muster").glob("*")}
    mine = re.compile(rf"{re.escape(str(of))}/\.cluster|\b{slot}\b|slot-{slot.removeprefix('muster')}\.json")
    return {line for line in found if mine.search(line)}


def settings() -> dict[str, str]:
    """What must be the same before and after: directories of the machine, its forwarding and its firewall."""
    names = {directory: "\n".join(sorted(_names(Path(directory)))) for directory in _DIRECTORIES}
    rules = [line for line in _output("iptables-save") if not line.startswith(("#", ":"))]
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    return {**names, "iptables": "\n".join(rules), "ip_forward": forwarding}


def proportional_memory(slot: str) -> float:
    """MB of all processes in a cluster's cgroups, shared pages counted once."""
    groups = [path for root in Path("/sys/fs/cgroup").glob(f"**/{slot}") for path in root.glob("**/cgroup.procs")]
    pids = {pid for path in groups for pid in path.read_text().split()}
    rollups = _of_processes("smaps_rollup", pids)
    found = [re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE) for text in rollups]
    return sum(int(match[1]) for match in found if match) / 1024


def _names(directory: Path) -> Iterator[str]:
    """Without what the test and other clusters make: their checkouts, namespaces and claims."""
    if not directory.exists():
        return
    for path in directory.iterdir():
        if not re.match(r"muster|slot-|pytest-|tmp|\.", path.name):
            yield path.name


def _of_processes(file: str, pids: Iterable[str] = ("[0-9]*",)) -> Iterator[str]:
    """Read the file of each process, without those that end between being listed and being read."""
    for path in (path for pid in pids for path in Path("/proc").glob(f"{pid}/{file}")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes().decode(errors="replace")


def _output(*words: str) -> list[str]:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
