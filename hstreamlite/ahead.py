"""Records that were read and that nobody has got yet.

While the group has nothing to decide its hatch is open: then a consumer takes the next records
there, in one call and without the lock. They were read ahead, which is nobody's business: they are
delivered when they are taken. All consumers of a subscription take from the same excerpt, so that
what one of them read is not read again by another that comes next.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hstreamlite._native import fast
from hstreamlite.errors import HStreamError

if TYPE_CHECKING:
    from hstreamlite.env import Lock
    from hstreamlite.feed import Feed

_RECORDS_MAX: Final = 2048
_CALLS: Final = 4
"""How many calls what is read ahead is to last for at first."""
_WAITS: Final = 16
"""How many reads of others who comes too late waits for."""
_KEPT: Final = 4
"""One in so many of what was read is left when somebody reads on."""
_SLICE_SECONDS: Final = 0.25

_Stock = tuple[fast.Excerpt, int]
"""What was read, and the LSN of its first record."""


class Ahead:
    """What was read ahead of a subscription, and the way to its hatch, if it has one."""

    def __init__(self, feed: Feed, hatch: fast.Hatch | fast.KeyHatch | None) -> None:
        self._feed = feed
        self._hatch = hatch
        self._shard = feed.shards[0] if hatch is not None else 0
        self._clock = feed.engine.env.clock
        self._count = 0
        self._kept = 0
        self._threads = feed.engine.env.threads
        self._reading = self._threads.lock()
        self._waiting: list[Lock] = []

    def take(
        self, gate: fast.AckGate, number: int, max_records: int, *, may_block: bool
    ) -> fast.DeliveryBatch | None:
        """Take the next records at the hatch; None if the group has to be asked.

        Who finds but a little left reads on. Others take of that meanwhile, and wait when nothing
        is left; who is too late too often asks the group, which lets nobody go without. Nobody
        waits for the lock: who is woken with it waits for Python's own lock next, and would hold up
        all others meanwhile.
        """
        for _ in range(_WAITS):
            now = self._clock.mono_ns()
            batch = self._take(gate, number, max_records, now, keep=self._kept)
            if batch is not None or self._hatch is None:
                return batch
            if self._hatch.wants(gate, max_records + self._kept, now) is None:
                return None
            read = self._refill(gate, max_records, now, may_block=may_block)
            batch = self._take(gate, number, max_records, now, keep=0)
            if read or batch is not None or not may_block:
                return batch
            self._wait()
        return None

    def _refill(self, gate: fast.AckGate, max_records: int, now: int, *, may_block: bool) -> bool:
        """Read on, unless another thread has just done so; False if one is about it now."""
        assert self._hatch is not None
        with fast.Held([self._reading], blocking=False) as mine:
            if mine:
                lsn = self._hatch.wants(gate, max_records + self._kept, now)
                if lsn is not None:
                    self._read(lsn, max_records, may_block=may_block)
        if mine:
            self._wake()
        return mine

    def _wake(self) -> None:
        """Let those go on who wait for the reading, which is done."""
        for bell in list(self._waiting):
            with suppress(RuntimeError):  # it rings
                bell.release()

    def _wait(self) -> None:
        """Wait until the reading is done; look now and then, for who does it may be interrupted."""
        bell = self._threads.lock()
        bell.acquire()
        self._waiting.append(bell)
        try:
            while self._reading.locked() and not bell.acquire(timeout=_SLICE_SECONDS):
                pass
        finally:
            self._waiting.remove(bell)

    def _take(
        self, gate: fast.AckGate, number: int, max_records: int, now: int, *, keep: int
    ) -> fast.DeliveryBatch | None:
        """Take the next records out of what was read, if so many are left besides. Without a hatch
        there are none."""

    def _read(self, lsn: int, max_records: int, *, may_block: bool) -> None:
        """Read on, unless there is enough from an LSN on. Without a hatch nobody asks for it."""

    def _read_on(self, lsn: int, max_records: int, *, into: fast.Excerpt, may_block: bool) -> None:
        """Read on what lasts for some calls."""
        self._count = min(
            max(self._count * 2, _CALLS * max_records), max(_RECORDS_MAX, max_records)
        )
        with suppress(HStreamError):  # who is to get it will be told
            self._feed.fetcher.read_on(
                self._shard, lsn, self._count, into=into, may_block=may_block
            )
        self._kept = len(into) // _KEPT

    def shut(self) -> None:
        """Have the group asked by whoever takes next."""
        if self._hatch is not None:
            self._hatch.close()

    def clear(self) -> None:
        """Forget what was read: nobody is there who would take it."""
        self._count = self._kept = 0


class RunAhead(Ahead):
    """What comes next in the log goes to whoever comes next."""

    def __init__(self, feed: Feed, hatch: fast.Hatch) -> None:
        super().__init__(feed, hatch)
        self._runs = hatch
        self._stock: _Stock = fast.Excerpt(), 0

    def _take(
        self, gate: fast.AckGate, number: int, max_records: int, now: int, *, keep: int
    ) -> fast.DeliveryBatch | None:
        return self._runs.take(gate, *self._stock, keep, max_records, number, now)

    def _read(self, lsn: int, max_records: int, *, may_block: bool) -> None:
        before, base = self._stock
        end = base + len(before)
        left = end - lsn if base <= lsn <= end else 0
        if left >= max_records + self._kept:
            return
        excerpt = before.rest(lsn - base) if left else fast.Excerpt()
        self._read_on(lsn + left, max_records, into=excerpt, may_block=may_block)
        self._stock = excerpt, lsn

    def clear(self) -> None:
        super().clear()
        self._stock = fast.Excerpt(), 0


class KeyAhead(Ahead):
    """Who comes gets what the order of keys lets it have; the hatch keeps what was read."""

    def __init__(self, feed: Feed, hatch: fast.KeyHatch) -> None:
        super().__init__(feed, hatch)
        self._keys = hatch

    def _take(
        self, gate: fast.AckGate, number: int, max_records: int, now: int, *, keep: int
    ) -> fast.DeliveryBatch | None:
        return self._keys.take(gate, keep, max_records, number, now)

    def _read(self, lsn: int, max_records: int, *, may_block: bool) -> None:
        excerpt = fast.Excerpt()
        excerpt.hash_keys(self._feed.fetcher.key_seed)
        self._read_on(lsn, max_records, into=excerpt, may_block=may_block)
        self._keys.add(excerpt, lsn, excerpt.key_hashes())

    def clear(self) -> None:
        super().clear()
        self._keys.clear()


def ahead_of(feed: Feed) -> Ahead:
    """Return what reads ahead of a subscription, as its group lets records be taken."""
    hatch = feed.group.hatch()
    if isinstance(hatch, fast.Hatch):
        return RunAhead(feed, hatch)
    return Ahead(feed, None) if hatch is None else KeyAhead(feed, hatch)
