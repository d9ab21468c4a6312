"""Shows what is being done, how long it has taken so far and what is left."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

_REFRESH_TERMINAL = 0.5  # seconds
_REFRESH_LOG = 20.0  # seconds: in a file each refresh is a line


class Progress:
    """A list of steps known beforehand. Each is begun with `step`; the expected seconds give what is left."""

    def __init__(self, steps: dict[str, float], stream: TextIO | None = None) -> None:
        self._expected = steps
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._done: list[str] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(name, begun, stop), daemon=True)
        ticker.start()
        try:
            yield
        except BaseException:
            self._end(
                ticker, stop, f"  {self._position(name)} {name}: stopped after {_spell(time.monotonic() - begun)}"
            )
            raise
        self._end(ticker, stop, f"  {self._position(name)} {name}: {_spell(time.monotonic() - begun)}")
        self._done.append(name)

    def note(self, text: str) -> None:
        self._write(text, keep=True)

    def _tick(self, name: str, begun: float, stop: threading.Event) -> None:
        line = f"  {self._position(name)} {name} …"
        if self._terminal:
            self._write(line, keep=False)
        while not stop.wait(_REFRESH_TERMINAL if self._terminal else _REFRESH_LOG):
            so_far = time.monotonic() - begun
            self._write(f"{line} {_spell(so_far)} so far, {self._left(name, so_far)}", keep=not self._terminal)

    def _end(self, ticker: threading.Thread, stop: threading.Event, line: str) -> None:
        stop.set()
        ticker.join()
        self._write(line, keep=True)

    def _position(self, name: str) -> str:
        names = list(self._expected)
        return f"[{names.index(name) + 1}/{len(names)}]"

    def _left(self, name: str, so_far: float) -> str:
        names = list(self._expected)
        later = sum(self._expected[other] for other in names[names.index(name) + 1 :])
        now = self._expected[name] - so_far
        return f"about {_spell(max(now, 0) + later)} left" + (" (longer than expected)" if now < 0 else "")

    def _write(self, text: str, *, keep: bool) -> None:
        before = "\r\033[K" if self._terminal else ""
        self._stream.write(f"{before}{text}" + ("\n" if keep else ""))
        self._stream.flush()


def _spell(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
