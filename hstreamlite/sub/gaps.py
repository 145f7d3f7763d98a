"""Gaps that a group ran into, kept for those who ask: the group as a whole, and each consumer."""

from collections import deque

from hstreamlite.sub.effects import Gap

GAPS_KEPT = 1_000


class GapLog:
    """The last `GAPS_KEPT` gaps for each asker, and totals of all."""

    def __init__(self) -> None:
        self.count = 0
        self.records = 0
        self._last: deque[Gap] = deque(maxlen=GAPS_KEPT)
        self._untold: dict[str, deque[Gap]] = {}

    def attach(self, consumer: str) -> None:
        self._untold[consumer] = deque(maxlen=GAPS_KEPT)

    def detach(self, consumer: str) -> None:
        del self._untold[consumer]

    def add(self, gap: Gap) -> None:
        self.count += 1
        self.records += gap.records
        for queue in (self._last, *self._untold.values()):
            queue.append(gap)

    def last(self) -> tuple[Gap, ...]:
        return tuple(self._last)

    def take(self, consumer: str) -> tuple[Gap, ...]:
        """Return the gaps that the consumer has not asked for yet."""
        queue = self._untold[consumer]
        found = tuple(queue)
        queue.clear()
        return found
