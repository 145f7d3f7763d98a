"""Regrouping: which segments are worth writing anew, and which of them count afterwards. Pure.

Segments of level 0 hold what was appended in the order of appending, so that the records of one log
lie scattered over all of them. A segment of level 1 takes the place of some neighbours: it holds
their live blocks sorted by log, without padding. A file that has its final name is complete, so the
one rule of recovery is that it counts and what it covers does not.

What is written for that is bounded. Every byte is regrouped once; after that a file is written anew
only when that frees at least as much as it writes, so at most three bytes are written for each one
appended, and at most two while nothing is trimmed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

LEVEL_1 = 1 << 31
"""Set in the numbers of segments of level 1."""
SHARE_MAX = 0.8
"""A segment of which one log has this much is read well enough as it is."""
GROUP_MAX = 16
"""So many small neighbours are regrouped without waiting for a file's worth."""
FILE_SEGMENTS = 4
"""A new file larger than a segment holds at most so many segments' worth,"""
FILE_SHARE = 4
"""no more than one part in so many of the store,"""
FILE_BYTES_MAX = 2 << 30
"""no more than this,"""
FILE_BLOCKS_MAX = 1 << 20
"""and no more than so many blocks: until a file is written its index is in memory."""
_FILE_BYTES = 16384
"""Header, footer and padding of a file."""


@dataclass(frozen=True, slots=True)
class Span:
    """A segment, and the segments of level 0 in whose place it stands: [first, last]."""

    number: int
    first: int
    last: int


def arrange(spans: Iterable[Span]) -> tuple[list[Span], list[Span]]:
    """Return the segments that count, in the order of their content, and those replaced.

    A segment is replaced by one of level 1 with a higher number that covers all it covers.
    ValueError, naming both, where two overlap in any other way.
    """
    counting: list[Span] = []
    replaced: list[Span] = []
    for span in sorted(spans, key=lambda s: s.number, reverse=True):
        at = bisect_right(counting, span.first, key=lambda s: s.first)
        before = counting[at - 1] if at else None
        after = counting[at] if at < len(counting) else None
        if before is not None and span.last <= before.last:
            replaced.append(span)
        elif before is not None and span.first <= before.last:
            raise ValueError(_overlap(before, span))
        elif after is not None and after.first <= span.last:
            raise ValueError(_overlap(after, span))
        else:
            counting.insert(at, span)
    return counting, replaced


def _overlap(one: Span, other: Span) -> str:
    return (
        f"segment {one.number:x} for {one.first:x} to {one.last:x} and "
        f"segment {other.number:x} for {other.first:x} to {other.last:x}"
    )


def absent(counting: Iterable[Span], last: int) -> list[int]:
    """Return the numbers of level 0 up to `last` in whose place no segment stands."""
    numbers: list[int] = []
    following = 1
    for span in counting:
        numbers.extend(range(following, span.first))
        following = span.last + 1
    numbers.extend(range(following, last + 1))
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What is known of a sealed segment; sizes in bytes, `quiet` in seconds."""

    number: int
    bytes: int
    live: int
    """Bytes of its live blocks."""
    shards: int
    """Logs that have live blocks in it."""
    largest: int
    """Bytes that the log with the most of them has."""
    quiet: float
    """Time since it was sealed or last lost a live block."""
    apart: bool = False
    """A log goes on in it behind a hole, which no file may have inside: it can begin one only."""

    @property
    def level(self) -> int:
        return self.number // LEVEL_1

    @property
    def anew(self) -> int:
        """Most bytes that the live blocks take in a file of their own."""
        return self.live + self.live // 8 + _FILE_BYTES

    @property
    def scattered(self) -> bool:
        return (
            self.level == 0
            and self.live > 0
            and self.shards > 1
            and self.largest < SHARE_MAX * self.live
        )

    @property
    def hollow(self) -> bool:
        """Writing it anew frees at least as much as it writes."""
        return self.live > 0 and 2 * self.anew <= self.bytes


def file_bytes(sealed: Iterable[Sealed], segment_bytes: int, blocks: int) -> int:
    """Return how many live bytes a new file may hold in a store of these sealed segments.

    `blocks` are all blocks of the store. A log is read from as many places as there are files, so
    they grow with the store. But retention drops whole files, a new one needs its room beside the
    old ones, and its index needs memory.
    """
    live = sum(s.live for s in sealed)
    indexed = FILE_BLOCKS_MAX * live // max(blocks, 1)
    most = min(live // FILE_SHARE, FILE_SEGMENTS * segment_bytes, FILE_BYTES_MAX, indexed)
    return max(segment_bytes, most)


@dataclass(frozen=True, slots=True)
class Plan:
    """Neighbouring segments to be replaced by one new one of at most `bytes`."""

    numbers: tuple[int, ...]
    bytes: int


def plan(
    sealed: Sequence[Sealed],
    *,
    most: int,
    free: int,
    keep: int,
    rest: float,
    now: bool = False,
    except_for: Collection[int] = (),
) -> Plan | None:
    """Choose what to write anew next; None if nothing is worth it or nothing fits.

    `sealed` are all sealed segments in the order of their content. A new file has at most `most`
    bytes of live blocks, unless one segment alone has more. Regrouping leaves `keep` of the `free`
    disk alone; what frees more than it takes may use that too, and does not wait while the disk is
    that full. Segments that have not been quiet for `rest` seconds are let alone: they may be on
    their way out, or their log may have more to come. `now` is for those who do not want to wait.
    """
    short = free < keep
    ready = [s.number not in except_for and (now or s.quiet >= rest) for s in sealed]
    hollow = [
        s.hollow and (ready[i] or (short and s.number not in except_for))
        for i, s in enumerate(sealed)
    ]
    best = min(
        (g for g in _groups(sealed, hollow, most, free) if g),
        key=lambda g: sum(s.anew for s in g) / sum(s.bytes for s in g),
        default=None,
    )
    if best is not None:
        return _plan(best)
    scattered = [ready[i] and s.scattered for i, s in enumerate(sealed)]
    for group in _groups(sealed, scattered, most, free - keep):
        if now or _complete(group, sealed, most):
            return _plan(group)
    return None


def _plan(group: Sequence[Sealed]) -> Plan:
    return Plan(tuple(s.number for s in group), sum(s.anew for s in group))


def _groups(
    sealed: Sequence[Sealed], wanted: Sequence[bool], most: int, room: int
) -> Iterator[list[Sealed]]:
    """Yield neighbours that are wanted, as many as fit into one file and into the room."""
    group: list[Sealed] = []
    live = anew = 0
    for segment, fits in zip(sealed, wanted, strict=True):
        full = live + segment.live > most or anew + segment.anew > room
        if group and (full or not fits or segment.apart):
            yield group
            group, live, anew = [], 0, 0
        if fits and segment.anew <= room:
            group.append(segment)
            live += segment.live
            anew += segment.anew
    if group:
        yield group


def _complete(group: Sequence[Sealed], sealed: Sequence[Sealed], most: int) -> bool:
    """Whether waiting would add nothing to the group: it is large, or what follows stays apart."""
    live = sum(s.live for s in group)
    if len(group) >= GROUP_MAX or 2 * live >= most:
        return True
    at = next(i for i, s in enumerate(sealed) if s is group[-1])
    following = sealed[at + 1] if at + 1 < len(sealed) else None
    return following is not None and (
        following.apart or not following.scattered or live + following.live > most
    )
