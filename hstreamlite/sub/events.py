"""What happened to a group besides deliveries, kept for those who ask: the group, each consumer.

Every asker has its own queue, and gaps have one more: asking for gaps takes no event from those who
ask for all of them. Gaps that nobody was there to hear of are for the next consumer that comes.
"""

from collections import deque
from typing import TypeVar

from hstreamlite.sub.effects import Event, Gap

EVENTS_KEPT = 1_000

T = TypeVar("T")


class EventLog:
    """The last `EVENTS_KEPT` events for each asker, and totals of all gaps."""

    def __init__(self) -> None:
        self.gaps = 0
        self.gap_records = 0
        self._last: deque[Gap] = deque(maxlen=EVENTS_KEPT)
        self._unheard: deque[Gap] = deque(maxlen=EVENTS_KEPT)
        self._untold: dict[str, deque[Event]] = {}
        self._untold_gaps: dict[str, deque[Gap]] = {}

    def attach(self, consumer: str) -> None:
        self._untold.setdefault(consumer, deque(self._unheard, EVENTS_KEPT))
        self._untold_gaps.setdefault(consumer, deque(self._unheard, EVENTS_KEPT))
        self._unheard.clear()

    def detach(self, consumer: str) -> None:
        self._untold.pop(consumer, None)
        self._untold_gaps.pop(consumer, None)

    def add(self, event: Event) -> None:
        for events in self._untold.values():
            events.append(event)
        if isinstance(event, Gap):
            self.gaps += 1
            self.gap_records += event.records
            heard = self._untold_gaps.values() or (self._unheard,)
            for gaps in (self._last, *heard):
                gaps.append(event)

    def last_gaps(self) -> tuple[Gap, ...]:
        return tuple(self._last)

    def take(self, consumer: str) -> tuple[Event, ...]:
        """Return the events that the consumer has not asked for yet."""
        return _taken(self._untold[consumer])

    def take_gaps(self, consumer: str) -> tuple[Gap, ...]:
        """Return the gaps that the consumer has not asked for yet."""
        return _taken(self._untold_gaps[consumer])


def _taken(queue: deque[T]) -> tuple[T, ...]:
    found = tuple(queue)
    queue.clear()
    return found
