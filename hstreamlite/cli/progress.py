"""A progress bar on standard error: one line redrawn on a terminal, a line now and then else."""

from __future__ import annotations

from time import monotonic
from typing import TextIO

_WIDTH = 32
_TERMINAL_INTERVAL = 0.1
_LOG_INTERVAL = 5.0


class Progress:
    """Shows how far one phase after the other has come."""

    def __init__(self, output: TextIO | None) -> None:
        self._output = output
        self._terminal = output is not None and output.isatty()
        self._interval = _TERMINAL_INTERVAL if self._terminal else _LOG_INTERVAL
        self._next = 0.0 if self._terminal else monotonic() + self._interval
        self._drawn = False

    def show(self, phase: str, count: int, total: int) -> None:
        """Show a count, unless the last one was shown a moment ago."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        percent = 100 * count // total if total else 100
        if self._terminal:
            bar = "=" * (_WIDTH * percent // 100)
            self._write(f"\r{phase:<10} [{bar:<{_WIDTH}}] {percent:3}% {count:>9,}\x1b[K")
            self._drawn = True
        else:
            self._write(f"{phase}: {count:,} of {total:,} ({percent}%)\n")

    def note(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._write(f"\r\x1b[K{text}\n" if self._drawn else f"{text}\n")
        self._drawn = False
        if self._terminal:
            self._next = 0.0

    def clear(self) -> None:
        """Remove the bar."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        """Write, if anybody listens: that nobody does ends no work."""
        if self._output is None:
            return
        try:
            self._output.write(text)
            self._output.flush()
        except OSError:
            self._output = None
