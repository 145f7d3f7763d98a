"""One segment of level 1 in the making: the Python face of the native copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hstreamlite._native import ffi, lib
from hstreamlite.errors import CorruptionError, LostRecords
from hstreamlite.log.journal import Journal, segment_path


class SegmentFacts(NamedTuple):
    """What memory knows of a segment; sizes in bytes."""

    number: int
    first: int
    last: int
    bytes: int
    live: int
    shards: int
    written: int
    largest: int
    sealed: bool


def segment_facts(journal: Journal) -> list[SegmentFacts]:
    """Return what is known of every segment, in the order of their content."""
    count = lib.hsl_log_segment_facts(journal.log, ffi.NULL, 0)
    out = ffi.new("struct hsl_segment_facts[]", count + 1)
    count = min(count, lib.hsl_log_segment_facts(journal.log, out, count))
    facts = [
        SegmentFacts(
            f.number, f.first, f.last, f.bytes, f.live, f.shards, f.written, f.largest, f.sealed
        )
        for f in out[0:count]
    ]
    return sorted(facts, key=lambda fact: (fact.first, fact.number))


class Swap:
    """Copies what lives in neighbouring segments, then takes their place. One thread at a time.

    Nothing of it is seen before `finish`, and all of it after. The ticket is to be waited for in
    between: what was trimmed when the copying began is left out.
    """

    def __init__(self, journal: Journal, native: Any, numbers: tuple[int, ...]) -> None:
        self._journal = journal
        self._native = ffi.gc(native, lib.hsl_swap_free)
        self.numbers = numbers
        self.ticket = journal.staged()

    @classmethod
    def begin(cls, journal: Journal, numbers: Sequence[int], window: int) -> Swap | None:
        """Reserve the new file; None if the segments are no live neighbours any more.

        StorageFull if the disk has no room for it.
        """
        out = ffi.new("struct hsl_swap **")
        uid = journal.env.rng.u64()
        status = lib.hsl_swap_begin(journal.log, list(numbers), len(numbers), uid, window, out)
        if status == lib.HSL_NOT_FOUND:
            return None
        journal.check(status)
        return cls(journal, out[0], tuple(numbers))

    def step(self, size: int) -> bool:
        """Copy about so many bytes; return whether all are copied.

        CorruptionError, naming the place, where a block does not verify.
        """
        status = lib.hsl_swap_step(self._native, size)
        if status == lib.HSL_DAMAGED:
            raise self._damage()
        if status != lib.HSL_AGAIN:
            self._journal.check(status)
        return bool(status == lib.HSL_OK)

    def finish(self) -> None:
        """Name the file and exchange it for the old ones, which nothing lives in then."""
        self._journal.check(lib.hsl_swap_finish(self._native))

    def close(self) -> None:
        """Let go; what is not finished leaves no trace."""
        ffi.release(self._native)

    def _damage(self) -> CorruptionError:
        at = ffi.new("struct hsl_swap_damage *")
        lib.hsl_swap_damaged(self._native, at)
        return CorruptionError(
            segment_path(self._journal.path, at.segment),
            at.offset,
            at.length,
            f"block {at.shard}-{at.first} with a matching CRC",
            "other bytes",
            (LostRecords(at.shard, at.first, at.end - 1),),
        )
