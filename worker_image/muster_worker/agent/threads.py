"""How many threads each rank gives to a computation on the CPU."""

from __future__ import annotations

import os
from pathlib import Path


def threads_per_rank(processes: int, world_size: int, cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The value for OMP_NUM_THREADS; None leaves it to torch.

    With a CPU limit, each rank gets its share. Without one a rank cannot know who else is on the node: then, as
    torchrun does, one thread each, unless it is the only rank of the job.
    """
    limit = cpu_limit(cgroup)
    if limit is not None:
        return max(1, int(min(limit, len(os.sched_getaffinity(0))) / processes))
    return 1 if world_size > 1 else None


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPUs this container may use at once, by cgroup v2 or v1; None without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
