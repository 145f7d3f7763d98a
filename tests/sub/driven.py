"""A group that is driven as its shell drives it, in any mode, without a log: the records of a shard
are numbers, a function tells their keys, and batches end at the same places in all shards."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.group import Group
from hstreamlite.sub.keytab import runs_of
from hstreamlite.sub.limits import Limits

MODES = ("ordered", "shared")
CYCLE = 20
ENDS = (2, 5, 12, CYCLE + 1)
"""Where the batches of the first records end; those of the next as many end alike."""
Taken = tuple[int, int, int, int]
"""Shard, first LSN, end LSN, attempt."""


def batch_ends(first: int, stop: int) -> list[int]:
    """Return the ends of the batches from a record on, up to one behind another."""
    ends = []
    while first < stop:
        begin = first - (first - 1) % CYCLE - 1
        first = next(begin + end for end in ENDS if begin + end > first)
        ends.append(first)
    return ends


class Driven:
    """A group in a mode, and the keys of what it delivers."""

    def __init__(
        self, mode: str, limits: Limits, key_of: Callable[[int, int], int] = lambda _, __: 0
    ) -> None:
        self.mode = mode
        self.limits = limits
        self.key_of = key_of
        self.group = Group("billing", limits, mode)

    def describe(self, most: int) -> None:
        """Tell the keys that the group asks for, or the batches, all of them."""
        while wanted := self.group.undescribed(most):
            for shard, first, count in wanted:
                if self.mode == "sharded":
                    self.group.describe_batches(shard, first, batch_ends(first, first + count))
                    continue
                hashes = [self.key_of(shard, lsn) for lsn in range(first, first + count)]
                self.group.describe(shard, first, struct.pack(f"<{count}Q", *hashes))

    def take(
        self, consumer: str, most: int, now: int, *, queue: bool = False, batches: int = 0
    ) -> list[Taken]:
        """Hand out up to so many records, or batches."""
        group = self.group
        taken: list[Taken] = []
        if self.mode == "shared":
            for a in group.fetch(consumer, most, now, queue=queue):
                run = group.confirm(a.lease, a.end_lsn, now)
                taken += [(a.shard_id, *run, a.attempt)] if run else []
            return taken
        self.describe(most)
        for parcel in group.fetch_parcels(consumer, most, now, queue=queue, batches=batches):
            _, runs = group.confirm_parcel(parcel.lease, parcel.records, now)
            shard = parcel.shard_id
            taken += [(shard, r.first, r.first + r.size, r.attempt) for r in runs_of(runs)]
        return taken

    def restart(self, progress: Progress) -> None:
        """Begin anew from what was stored, without consumers and tails."""
        self.group = Group("billing", self.limits, self.mode)
        self.group.restore(progress)
