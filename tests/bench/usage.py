"""What a process takes of the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds since its start, and the most memory that it ever had, in bytes."""

    cpu: float
    peak: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu - earlier.cpu, self.peak)


def usage(pid: int) -> Usage:
    place = Path(f"/proc/{pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in (place / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) * 1024)
