"""By how many threads this process computes.

The libraries that torch calls for products of matrices may have threads of their own, of which torch's number says
nothing (OpenBLAS, as Debian builds it). They wait for one another by spinning, just as torch's do.
"""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def set_threads(count: int) -> None:
    """From now on, for the whole process; of torch's own, a thread that has computed before keeps its number."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
