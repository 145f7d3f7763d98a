"""How much each consumer has in its hands, and what its windows let it have.

Windows in records are looked up here and kept by the dispatchers. Windows in bytes are kept here: a
record goes out while what is out has fewer bytes than the window. So it is overstepped by a part of
one record at most, and a record that is larger than the window goes out when nothing else is out.
Bytes are those of records as they are stored, uncompressed.

Acks lower the totals by themselves (``load_api.h``); they are counted only if a window needs it.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence

from hstreamlite.sub.ackmap import Totals
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.window import Window

_ALL = 0


class Loads:
    """The windows of one subscription and of its consumers."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._totals: Totals | None = None
        self._windows: dict[int, Window] = {}
        self._records: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        if limits.max_unacked_bytes or limits.max_unacked_bytes_per_consumer:
            self._totals = Totals()

    @property
    def weighs(self) -> bool:
        """Whether bytes are counted."""
        return self._totals is not None

    @property
    def narrow(self) -> bool:
        """Whether a consumer may have a window of its own."""
        limits = self._limits
        return bool(
            limits.max_unacked_per_consumer
            or limits.max_unacked_bytes_per_consumer
            or self._records
            or self._bytes
        )

    def adopt(self, window: Window) -> None:
        """Count what is handed out of a shard."""
        self._windows[window.shard] = window
        if self._totals is not None:
            window.acks.weigh(self._totals)

    # Consumers

    def attach(self, consumer: str, number: int, records: int, size: int) -> None:
        """Add a consumer with windows of its own; 0 takes that of the subscription.

        After a MemoryError it can be done again.
        """
        if size:
            if self._totals is None:
                self._totals = Totals()
            for window in self._windows.values():
                window.acks.weigh(self._totals)
            self._bytes[consumer] = size
        if records:
            self._records[consumer] = records
        if self._totals is not None:
            self._totals.reserve(number)
            self._numbers[consumer] = number

    def detach(self, consumer: str) -> None:
        """Remove a consumer from whom all was taken back."""
        self._records.pop(consumer, None)
        self._bytes.pop(consumer, None)
        self._numbers.pop(consumer, None)

    # Windows

    def most_records(self, consumer: str) -> int:
        """Return how many records the consumer may have; 0 is no limit but the group's."""
        return self._records.get(consumer) or self._limits.max_unacked_per_consumer

    def most_bytes(self, consumer: str) -> int:
        """Return how many bytes the consumer may have; 0 is no limit but the group's."""
        return self._bytes.get(consumer) or self._limits.max_unacked_bytes_per_consumer

    def bytes_of(self, consumer: str) -> int | None:
        """Return the bytes in the hands of a consumer; None where they are not counted."""
        number = self._numbers.get(consumer)
        return None if self._totals is None or number is None else self._totals.of(number)

    def bytes_of_all(self) -> int | None:
        """Return the bytes in the hands of all; None where they are not counted."""
        return None if self._totals is None else self._totals.of(_ALL)

    def full(self) -> bool:
        """Tell whether the window in bytes of the subscription is full."""
        most = self._limits.max_unacked_bytes
        return most > 0 and (self.bytes_of_all() or 0) >= most

    def full_of(self, consumer: str) -> bool:
        """Tell whether the own window in bytes of a consumer is full."""
        most = self.most_bytes(consumer)
        return most > 0 and (self.bytes_of(consumer) or 0) >= most

    def quota(self, consumer: str, count: Callable[[str], int]) -> int:
        """Return how many records more a consumer may have, of which ``count`` tells how many it
        has."""
        if self.full_of(consumer):
            return 0
        most = self.most_records(consumer)
        return max(0, most - count(consumer)) if most else self._limits.max_unacked

    def room(self, consumer: str) -> int | None:
        """Return how many bytes are free for a consumer, at least; None is no limit."""
        found = None
        for most, out in (
            (self._limits.max_unacked_bytes, self.bytes_of_all()),
            (self.most_bytes(consumer), self.bytes_of(consumer)),
        ):
            if most and out is not None:
                free = max(0, most - out)
                found = free if found is None else min(found, free)
        return found

    def fitting(self, consumer: str, sizes: Iterable[int]) -> int:
        """Return how many records of these sizes may go out now, from the first on."""
        room = self.room(consumer)
        count = 0
        for size in sizes:
            if room is not None:
                if room <= 0:
                    break
                room -= size
            count += 1
        return count

    def reserve(self, shard: int, end: int) -> None:
        """Make room for `hand` of records below ``end``."""
        if self._totals is not None:
            self._windows[shard].acks.reserve_load(end)

    def hand(self, consumer: str, shard: int, first: int, sizes: Sequence[int]) -> None:
        """Count records from ``first`` on at a consumer."""
        number = self._numbers.get(consumer)
        if number is not None:
            self._windows[shard].acks.load(first, array("I", sizes).tobytes(), number)

    def take(self, shard: int, first: int, end: int) -> None:
        """Count records at nobody any more."""
        if self._totals is not None:
            self._windows[shard].acks.unload(first, end)
