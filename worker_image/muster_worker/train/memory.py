"""What a rank has freed, it keeps: the next step needs as much again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

_NEVER = 2**31 - 1
_LARGEST = (1 << 30, 1 << 25)
"""Bytes up to which memory is taken from the heap; older versions of glibc take no more than the second."""


def keep_memory() -> None:
    """Has glibc give no memory back to the kernel, as it does by default with what is large or at the end of the heap.

    Each page would come back by a fault, and be cleared, in every step: for a small transformer on a CPU a sixth of its
    time. What the process holds is no more, since it is at its most in every step. Other C libraries stay as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return
    set_option(_TRIM_THRESHOLD, _NEVER)
    any(set_option(_MMAP_THRESHOLD, size) for size in _LARGEST)
