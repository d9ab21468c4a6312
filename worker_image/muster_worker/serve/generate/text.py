"""From tokens to text as it is given out: no half characters, and nothing of what it is to stop before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CUT = "\N{REPLACEMENT CHARACTER}"


class Text:
    """Grows by tokens. What may be the beginning of one of `stop` is kept until it is known not to be."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._tokens: list[int] = []  # of a character that is not whole
        self._kept = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be given out now."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(_CUT):
            return ""
        self._tokens.clear()
        self._kept += text
        return self._given_out()

    def rest(self) -> str:
        """At the end: whatever was kept, up to a stop that came with a character that is not whole."""
        if self.stopped:
            return ""
        self._kept += self._decode(self._tokens) if self._tokens else ""
        self._tokens.clear()
        text = self._given_out()
        if not self.stopped:
            text, self._kept = text + self._kept, ""
        return text

    def _given_out(self) -> str:
        found = [place for place in (self._kept.find(stop) for stop in self._stop) if place >= 0]
        self.stopped = bool(found)
        length = min(found) if found else len(self._kept) - self._begun()
        text, self._kept = self._kept[:length], self._kept[length:]
        return text

    def _begun(self) -> int:
        """Characters at the end with which a stop begins."""
        return max(
            (
                length
                for stop in self._stop
                for length in range(1, min(len(stop), len(self._kept) + 1))
                if self._kept.endswith(stop[:length])
            ),
            default=0,
        )
