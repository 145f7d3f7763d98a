"""The window of one shard: the bitmap, the tail it may read up to, and its history of seeks.

```
 origin        low                        next            tail
   |  all done  |  acked, unacked, held     |   backlog     |
```

Between low and next every unacked record belongs to exactly one slot of the leases; held records
are those that are on no consumer's hands yet (reserved, or cut off a batch before it was handed
out), so nobody can truly ack them. Low never moves back but by a seek, which starts a new
generation.
"""

from typing import Final

from hstreamlite._native import fast
from hstreamlite.sub.ackmap import LSN_MAX, AckCounts, AckFlag, AckMap, Run
from hstreamlite.sub.keytab import KeyTable
from hstreamlite.sub.limits import check_range

SPAN_LIMIT = 1 << 30
_UNKNOWN: Final = int(AckFlag.UNKNOWN)


class Window:
    """Progress of one shard."""

    __slots__ = (
        "acks",
        "generation",
        "saved",
        "saved_zeros",
        "saver",
        "seen",
        "shard",
        "span",
        "tail",
    )

    def __init__(self, shard: int, start: int, span: int) -> None:
        check_range("start", start, 1, LSN_MAX)
        self.shard = shard
        self.span = span
        self.acks = AckMap(start, SPAN_LIMIT)
        self.tail = 1
        self.generation = 0
        self.seen: Run = (start, start)
        self.saved: tuple[int, int, int] | None = None
        self.saved_zeros = False
        self.saver: fast.Saver | None = None

    @property
    def low(self) -> int:
        return self.acks.state.low

    @property
    def next(self) -> int:
        return self.acks.state.next

    def outstanding(self) -> int:
        """Return how many records are reserved or delivered and not acked."""
        state = self.acks.state
        return state.next - state.low - state.acked

    def room(self) -> int:
        """Return how many records the tail and the span allow to be handed out."""
        state = self.acks.state
        return max(0, min(self.tail, state.low + self.span) - state.next)

    def span_full(self) -> bool:
        state = self.acks.state
        return self.tail > state.next and state.next - state.low >= self.span

    def take(self, count: int) -> Run:
        """Move ``next`` over ``count`` records, held until they are handed out."""
        first = self.acks.state.next
        self.acks.advance(first + count, hold=True)
        return first, first + count

    def seek(self, lsn: int) -> None:
        state = self.acks.state
        self.seen = min(self.seen[0], state.origin), max(self.seen[1], state.next)
        self.disarm()
        self.acks.reset(lsn)
        self.generation += 1
        self.saved = None

    def ack(self, lsn: int) -> AckFlag:
        flags = AckFlag(self.acks.ack(lsn))
        if flags & AckFlag.UNKNOWN and self.stale(lsn):
            return AckFlag.VOID
        return flags

    def ack_range(self, first: int, end: int) -> AckCounts:
        """Ack ``[first, end)``, all or nothing; stale records are void."""
        counts = self.acks.ack_range(first, end)
        if not counts.flags & _UNKNOWN or not self.covers(first, end):
            return counts
        state = self.acks.state
        low, high = max(first, state.origin), min(end, state.next)
        done = self.acks.ack_range(low, high) if low < high else AckCounts(0, 0, 0, 0)
        return _with_void(done, end - first - max(0, high - low))

    def covers(self, first: int, end: int) -> bool:
        """Tell whether no record of ``[first, end)`` is unknown."""
        state = self.acks.state
        spans = sorted([self.seen, (state.origin, state.next)])
        at = first
        for low, high in spans:
            if low <= at < high:
                at = high
        return at >= end

    def stale(self, lsn: int) -> bool:
        """Tell whether ``lsn`` lies where this group delivered from before a seek."""
        return self.seen[0] <= lsn < self.seen[1]

    def unsaved(self) -> bool:
        state = self.acks.state
        return state.acked_since > 0 or self.saved != (self.generation, state.low, state.next)

    def arm(self, table: KeyTable | None = None) -> None:
        """Let acks store themselves, and what a table hands out, for there is nothing else to store
        of the shard."""
        if self.saver is not None and self.saved is not None:
            self.saver.arm(*self.saved, table)

    def disarm(self) -> None:
        """Let acks be stored by `save_acks`, or whatever says more."""
        if self.saver is not None:
            self.saved = self.saver.disarm() or self.saved

    def save_acks(self) -> bytes | None:
        """Return what changed since the last time as a piece to be stored, and count it as saved;
        empty if nothing did, None if there is more to say."""
        if self.saved is None:
            return None
        drained = self.acks.drain_piece(self.shard, *self.saved)
        if drained is None:
            return None
        piece, low, end = drained
        self.saved = self.generation, low, end
        return piece

    def mark_saved(self) -> None:
        state = self.acks.state
        self.saved = (self.generation, state.low, state.next)

    def check_invariants(self) -> None:
        self.acks.check_invariants()
        assert self.saved is None or self.saved[0] == self.generation, self.shard


def _with_void(counts: AckCounts, void: int) -> AckCounts:
    return counts._replace(void=counts.void + void, flags=counts.flags | AckFlag.VOID)
