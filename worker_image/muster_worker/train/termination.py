"""SIGTERM: noticed at once, acted upon between two steps."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

LEFT_ON_SIGNAL = 143
"""Exit code of a rank that got SIGTERM and has saved its state: what a shell shows for SIGTERM."""

GROUP_MUST_REFORM = 75
"""Exit code of a healthy rank that left because another did, state saved: EX_TEMPFAIL."""


class Termination:
    """From `watch` on, SIGTERM sets `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False

    def watch(self) -> None:
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    @property
    def exit_code(self) -> int:
        return LEFT_ON_SIGNAL if self.requested else GROUP_MUST_REFORM


def until_there_is_something_to_save() -> None:
    """Before training has a state, SIGTERM simply ends the process, also inside of calls that wait for peers."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
