"""What a rank of a training finds out about itself: how long its steps take, and what it sends."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMES = "BENCH_TIMES"
"""The variable that names the folder where each rank that updates parameters leaves what its clock found."""

_ACKNOWLEDGED = struct.Struct("120x Q Q")
"""Where struct tcp_info of linux/tcp.h has tcpi_bytes_acked and tcpi_bytes_received."""


class Clock:
    """Times `steps` updates of the parameters after `warm_up` of them."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self._warm_up, self._steps = warm_up, steps
        self._count = 0
        self._begun, self._before = 0.0, (0, 0)

    def watch(self, optimizer: Any) -> Any:
        """Looks at the clock whenever this optimizer has made its update: in the same place, whoever has it do so."""
        optimizer.register_step_post_hook(lambda *_: self._tick())
        return optimizer

    def _tick(self) -> None:
        self._count += 1
        if self._count == self._warm_up:
            self._begun, self._before = time.perf_counter(), traffic()
        elif self._count == self._warm_up + self._steps:
            seconds = time.perf_counter() - self._begun
            sent, received = (now - before for now, before in zip(traffic(), self._before, strict=True))
            found = {"steps": self._steps, "seconds": seconds, "sent": sent, "received": received}
            place = Path(os.environ[TIMES]) / f"{os.environ['RANK']}.json"
            unfinished = place.with_suffix(".part")
            unfinished.write_text(json.dumps(found))
            unfinished.rename(place)


def traffic() -> tuple[int, int]:
    """The bytes that the TCP connections which this process has now have sent and received so far."""
    sent = received = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    information = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
                    of_one = _ACKNOWLEDGED.unpack(information)
                    sent, received = sent + of_one[0], received + of_one[1]
    return sent, received
