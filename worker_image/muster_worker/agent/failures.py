"""Why a rank ended: its exit code, its signal, and what it printed last."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from muster_worker.agent.protocol import Failure

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

DONE = 0
REFORM = 75
"""The rank is healthy and has saved its state; the group must form anew."""
TERMINATED = 143
"""The rank left after SIGTERM and has saved its state."""
BAD_USAGE = 2
"""Of argparse, Python and recipes, where a job is written wrongly: whatever its message says, no peer has done that."""
IN_GOOD_ORDER = frozenset({DONE, REFORM, TERMINATED})

LONGEST_MESSAGE = 1000

# What gloo, NCCL and torch's store say in the ranks that are left when another rank goes away.
_A_PEER_WENT_AWAY = re.compile(
    r"Connection (was likely )?(closed|reset|refused)|Broken pipe|timed out|[Tt]imeout|failed to recv, got 0 bytes|"
    r"connectFullMesh|pair closure|ncclRemoteError|ncclSystemError|remote process exited|"
    r"NCCL communicator was aborted|DistNetworkError|DistStoreError",
)
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ")
"""torch puts it before each line of a traceback when a process group exists."""


def exit_code(status: int) -> int:
    """A process's status as a shell tells it: 128 + n for signal n."""
    return status if status >= 0 else 128 - status


def explain(rank: int, pod: str, status: int, tail: Sequence[str], permanent: Collection[int]) -> Failure:
    """The failure of a rank with this status that printed these lines last."""
    code = exit_code(status)
    killed_from_outside = status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    said = "" if killed_from_outside else last_words(tail)
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        message = f"rank {rank} was killed by {name}"
    else:
        message = f"rank {rank} ended with exit code {code}"
    if said:
        message = f"{message}: {said}"
    return Failure(
        rank=rank,
        pod=pod,
        cause="Signal" if status < 0 else "ExitCode",
        exit_code=code,
        message=message[:LONGEST_MESSAGE],
        secondary=not killed_from_outside and code != BAD_USAGE and _A_PEER_WENT_AWAY.search(said) is not None,
        permanent=code in permanent,
    )


def last_words(tail: Sequence[str]) -> str:
    """What ended a program, from the last lines that it printed: an exception, else the last line; "" without any."""
    start = max(
        (number for number, line in enumerate(tail) if "Traceback (most recent call last):" in line), default=-1
    )
    if start < 0:
        return next((line.strip() for line in reversed(tail) if line.strip()), "")
    for number in range(start + 1, len(tail)):
        line = _RANK_PREFIX.sub("", tail[number])
        if line and not line[0].isspace():
            following = (_RANK_PREFIX.sub("", later).strip() for later in tail[number : number + 3])
            return " ".join(words for words in following if words)
    return ""
