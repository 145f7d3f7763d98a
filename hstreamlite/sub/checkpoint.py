"""Stored progress of a group: pieces of bytes, each a snapshot or a delta, replayed in order.

A piece holds entries of shards. An entry says where the window stands and which runs above low are
acked; a full entry starts the shard afresh, another adds to it. Since acks only ever accumulate
within a generation (a seek starts another one), any prefix of the pieces is a state the group was
in or behind: replaying less means delivering again, never losing. Long lists are spread over
entries and pieces, so that a piece fits into a block.

``next`` is the delivered mark: what lies below it and is not acked was delivered once, unless the
attempts say otherwise (0: never handed out; 2 and more), so that after a restart it comes as the
attempt after that.

All integers are little-endian; runs are relative to the entry's low.

```
piece   +---------+-------+--------+--------------+-----------
        | version | kind  | 0: u32 | entries: u32 | entries ..
        |   u8    |  u8   |        |              |
        +---------+-------+--------+--------------+-----------
          kind: 0 delta, 1 snapshot (forget every shard first)

entry   +------------+------------+-------------+----------+----------+----------+
        | shard: u64 | flags: u32 | generation  | origin   | low      | next     |
        |            |            |     u32     |   u64    |   u64    |   u64    |
        +------------+------------+-------------+----------+----------+----------+
        | runs: u32  | attempts: u32 | first, end: u32 u32 .. | first, end, count: u32 u32 u32 ..
        +------------+---------------+------------------------+-------------------
          flags: 1 full, 2 forget the attempts known so far,
                 4 what the attempts do not list was never handed out
```
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from hstreamlite._native import fast
from hstreamlite.sub.ackmap import LSN_MAX, AckMap, Run
from hstreamlite.sub.window import SPAN_LIMIT

VERSION = 1
PIECE_BYTES_MAX = 512 << 10

_DELTA, _SNAPSHOT = 0, 1
_FULL, _FORGET_ATTEMPTS, _LISTED = 1, 2, 4
_HEAD = struct.Struct("<BBII")
_ENTRY = struct.Struct("<QIIQQQII")
_RUN, _ATTEMPT = 8, 12
_LIST_BYTES_MAX = 128 << 10

AttemptRun = tuple[int, int, int]


class MalformedProgress(ValueError):
    """A piece of stored progress is not one that `encode` makes, or does not fit those before."""


@dataclass(slots=True, kw_only=True)
class ShardProgress:
    """One entry; ``attempts`` are runs (first, end, deliveries), added to those known so far.

    What they do not list was delivered once, or, if ``listed``, never.
    """

    shard: int
    full: bool
    generation: int
    origin: int
    low: int
    next: int
    acked: list[Run]
    attempts: list[AttemptRun]
    forget_attempts: bool
    listed: bool


def encode(
    shards: Iterable[ShardProgress],
    *,
    snapshot: bool = False,
    piece_bytes: int = PIECE_BYTES_MAX,
) -> tuple[bytes, ...]:
    """Encode entries as pieces of about ``piece_bytes`` at most, to be stored in order."""
    pieces: list[bytes] = []
    entries: list[bytes] = []
    size = 0

    def close() -> None:
        kind = _SNAPSHOT if snapshot and not pieces else _DELTA
        pieces.append(b"".join((_HEAD.pack(VERSION, kind, 0, len(entries)), *entries)))
        entries.clear()

    for shard in shards:
        for entry in _entries(shard, min(piece_bytes, _LIST_BYTES_MAX)):
            if entries and size + len(entry) > piece_bytes:
                close()
                size = 0
            entries.append(entry)
            size += len(entry)
    if entries or not pieces:
        close()
    return tuple(pieces)


def _entries(shard: ShardProgress, list_bytes: int) -> Iterable[bytes]:
    listed = shard.listed * _LISTED
    flags = shard.full * _FULL | shard.forget_attempts * _FORGET_ATTEMPTS | listed
    runs, attempts = shard.acked, shard.attempts
    runs_at_once = max(1, list_bytes // _RUN)
    attempts_at_once = max(1, list_bytes // _ATTEMPT)
    while True:
        yield _entry(shard, flags, runs[:runs_at_once], attempts[:attempts_at_once])
        runs, attempts = runs[runs_at_once:], attempts[attempts_at_once:]
        flags = listed
        if not runs and not attempts:
            return


def _entry(shard: ShardProgress, flags: int, runs: list[Run], attempts: list[AttemptRun]) -> bytes:
    low = shard.low
    head = _ENTRY.pack(
        shard.shard,
        flags,
        shard.generation,
        shard.origin,
        low,
        shard.next,
        len(runs),
        len(attempts),
    )
    return head + fast.pack_below(low, runs, 2) + fast.pack_below(low, attempts, 2)


@dataclass(slots=True)
class KeptShard:
    """What the pieces say of one shard."""

    generation: int
    acks: AckMap
    listed: bool
    attempts: list[AttemptRun] = field(default_factory=list)

    def counts(self) -> "array[int]":
        """Return the number of deliveries of each record from low to next; the last told counts."""
        state = self.acks.state
        low, end = state.low, state.next
        found = array("I", [0 if self.listed else 1]) * (end - low)
        for first, stop, count in self.attempts:
            begin, behind = max(first, low) - low, min(stop, end) - low
            if begin < behind:
                found[begin:behind] = array("I", [count]) * (behind - begin)
        return found

    def delivered_counts(self) -> list[AttemptRun]:
        """Return runs that cover all from low to next, each with its number of deliveries."""
        state = self.acks.state
        at = state.low
        runs: list[AttemptRun] = []
        for begin, stop, count in sorted(self.attempts):
            first, end = max(begin, at), min(stop, state.next)
            if first >= end:
                continue
            if at < first:
                runs.append((at, first, 1))
            runs.append((first, end, count))
            at = end
        if at < state.next:
            runs.append((at, state.next, 1))
        return runs


class Progress:
    """The state that stored pieces add up to."""

    def __init__(self) -> None:
        self.shards: dict[int, KeptShard] = {}

    def apply(self, piece: bytes) -> None:
        """Replay one piece; `MalformedProgress` leaves the state as it was before the bad entry."""
        snapshot, entries = decode(piece)
        if snapshot:
            self.shards.clear()
        for entry in entries:
            self._apply(entry)

    def _apply(self, entry: ShardProgress) -> None:
        if entry.full:
            acks = AckMap(entry.origin, SPAN_LIMIT)
            acks.skip(entry.low)
            self.shards[entry.shard] = KeptShard(entry.generation, acks, entry.listed)
        kept = self.shards.get(entry.shard)
        if kept is None or kept.generation != entry.generation:
            raise MalformedProgress(f"shard {entry.shard} has a delta without what it adds to")
        kept.acks.skip(entry.low)
        kept.acks.advance(max(entry.next, kept.acks.state.next), hold=False)
        for first, end in entry.acked:
            kept.acks.ack_range(first, end)
        if entry.forget_attempts:
            kept.attempts.clear()
        kept.attempts.extend(entry.attempts)


def forgets(piece: bytes) -> bool:
    """Say whether a piece begins a snapshot: those before it count no more."""
    return piece[1:2] == bytes([_SNAPSHOT])


def decode(piece: bytes) -> tuple[bool, list[ShardProgress]]:
    """Return whether the piece is a snapshot, and the entries."""
    try:
        version, kind, zero, entries = _HEAD.unpack_from(piece)
        if version != VERSION or kind not in (_DELTA, _SNAPSHOT) or zero:
            raise MalformedProgress(
                f"progress has version {version}, kind {kind} and {zero} behind them, expected "
                f"{VERSION}, {_DELTA} or {_SNAPSHOT}, and 0"
            )
        at = _HEAD.size
        found: list[ShardProgress] = []
        for _ in range(entries):
            entry, at = _decode_entry(piece, at)
            found.append(entry)
    except struct.error as error:
        raise MalformedProgress(f"progress of {len(piece)} bytes ends early ({error})") from None
    if at != len(piece):
        raise MalformedProgress(f"progress of {len(piece)} bytes has {len(piece) - at} too many")
    return kind == _SNAPSHOT, found


def _decode_entry(piece: bytes, at: int) -> tuple[ShardProgress, int]:
    shard, flags, generation, origin, low, end, runs, attempts = _ENTRY.unpack_from(piece, at)
    at += _ENTRY.size
    stop = at + runs * _RUN + attempts * _ATTEMPT
    if stop > len(piece):
        raise MalformedProgress(f"progress of {len(piece)} bytes ends early, needs {stop}")
    if not (1 <= origin <= low <= end <= LSN_MAX and end - low <= SPAN_LIMIT) or flags > 7:
        raise MalformedProgress(f"shard {shard} has origin {origin}, low {low}, next {end}")
    numbers = array("I", piece[at:stop])
    if sys.byteorder == "big":  # not reached: no such machine runs the tests
        numbers.byteswap()
    lsns = [low + number for number in numbers[: 2 * runs]]
    rest = numbers[2 * runs :]
    acked = list(zip(lsns[::2], lsns[1::2], strict=True))
    counts = [
        (low + first, low + last, count)
        for first, last, count in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    ]
    if any(not first < last <= end for first, last, *_ in [*acked, *counts]):
        raise MalformedProgress(f"shard {shard} has a run outside of its window")
    entry = ShardProgress(
        shard=shard,
        full=bool(flags & _FULL),
        generation=generation,
        origin=origin,
        low=low,
        next=end,
        acked=acked,
        attempts=counts,
        forget_attempts=bool(flags & _FORGET_ATTEMPTS),
        listed=bool(flags & _LISTED),
    )
    return entry, stop
