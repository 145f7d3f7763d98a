"""A rate that is kept: how long to wait before the next batch."""

from __future__ import annotations

BEHIND_NS_MAX = 1_000_000_000
"""What is missed beyond that is not made up for, so that a pause is followed by no flood."""


class Pace:
    """Decides when so many records a second may go out; 0 = at once. Time is told to it, in ns."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due: int | None = None

    def wait_ns(self, records: int, now: int) -> int:
        """Return how long the next records have to wait, and count them as sent then."""
        if not self._rate:
            return 0
        if self._due is None or self._due < now - BEHIND_NS_MAX:
            self._due = now
        wait = max(0, self._due - now)
        self._due += round(records * 1e9 / self._rate)
        return wait
