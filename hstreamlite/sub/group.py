"""The group: the consumers of one subscription, what each holds, and what comes next.

A pure state machine that a shell drives under one lock, with the time in nanoseconds as an
argument of every call that needs it. The shell

1. tells the durable tail (`offer`) and who is there (`attach`, `detach`); who may go without a word
   has a lease, which it keeps by `renew`, and `gone` tells whose has run out;
2. asks for work (`fetch`, or in mode "ordered" `describe` and `fetch_parcels`), reads those records
   from the log without the lock, reports a trimmed prefix (`gap`) and what cannot be read
   (`set_aside`), and says what it is about to hand out (`confirm`), which starts the deadline; or
   takes new records at the `hatch`, without the lock; it takes back what nobody saw (`unsend`);
3. passes acks on (`ack`, `ack_range`, `ack_runs`), or calls the fast functions on `ack_address`
   without the lock and comes back only when the answer holds more than NEW or DUPLICATE:
   with UNKNOWN or VOID to `ack`, with ATTENTION to `attend`;
4. calls `tick` at `next_deadline`, then serves `next_in_line`;
5. moves what is `doomed` to the dead-letter stream, and acks it in the same breath;
6. stores `delta`s, or a `snapshot`, and feeds them to `checkpoint.Progress` at the next start.

What holds: a record is in flight at one consumer at most; it is sent again only after its deadline,
a release, or the loss of its consumer, and never more than ``max_attempts`` times; an ack counts
whoever holds the record, also after its deadline or its doom, and then nothing is sent again or
moved; records outstanding never exceed ``max_unacked``, so with everything delivered acked or timed
out, something can always move.

After `seek` the leases from before are gone: their `confirm` hands out nothing, their releases
touch nothing. Acks of records that the group delivered before the seek, but not since, are void;
an ack of a record that it delivered again counts, whichever delivery it answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import add
from typing import Final, TypeVar

from hstreamlite._native import fast
from hstreamlite.errors import ConsumerClosed, ConsumerExists, UnknownRecord
from hstreamlite.sub.ackmap import LSN_MAX, AckCounts, AckFlag, AckMap, Run
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.dispatch import Line, SharedDispatcher
from hstreamlite.sub.effects import (
    Assignment,
    Damaged,
    Doomed,
    Event,
    Gap,
    GroupStats,
    Holding,
    Lag,
    Parcel,
    Sought,
    Stand,
)
from hstreamlite.sub.events import EventLog
from hstreamlite.sub.keytab import runs_of
from hstreamlite.sub.limits import TIME_MAX_NS, Limits, check_range
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.mending import mended
from hstreamlite.sub.modes import DISPATCHERS
from hstreamlite.sub.names import BY_LSN, Names
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.ordered import OrderedDispatcher
from hstreamlite.sub.presence import Presence
from hstreamlite.sub.recorder import Recorder
from hstreamlite.sub.retry import Cause
from hstreamlite.sub.sharded import ShardDispatcher
from hstreamlite.sub.survey import Survey, lag_of
from hstreamlite.sub.window import Window

FETCH_MAX = 1_000_000
LEASE_NS_MIN = 1_000_000
Part = TypeVar("Part", Assignment, Parcel)
_UNKNOWN: Final = int(AckFlag.UNKNOWN)


class Group:
    """Shared progress of one subscription, in one of the `modes`."""

    def __init__(self, name: str, limits: Limits, mode: str = "shared") -> None:
        self.name = name
        self.limits = limits
        self.paused = False
        self.unburied = ""
        self._windows: dict[int, Window] = {}
        self._line = Line()
        changed: set[int] = set()
        self._loads = Loads(limits)
        self._numbers = Numbering()
        dispatcher = DISPATCHERS[mode]
        self._dispatch = dispatcher(limits, self._windows, changed, self._loads, self._numbers)
        self._consumers = Presence()
        if isinstance(self._dispatch, ShardDispatcher):
            self._dispatch.meet(self._line.names, self._consumers.__len__)
        self._gone: list[str] = []
        self._events = EventLog()
        self._recorder = Recorder(self._windows, self._dispatch, changed)
        self._survey = Survey(limits, self._windows, self._dispatch, self._events, self._loads)
        self._eager = False
        self._shut = False
        self._now = 0
        self.struck = False
        """Whether a call ended midway, so that the next one has to `mend`."""

    def mend(self) -> None:
        """Let all tables agree again, after a call was struck amid them.

        Nothing is lost: what is lost sight of comes again after its ack timeout.
        """
        self._close_hatch()
        self._consumers.mend()
        self._line.mend()
        self._dispatch.mend(self._now)
        self.struck = False

    # Shards and positions

    def add_shard(self, shard: int, start: int) -> None:
        """Let the group deliver a shard from LSN ``start`` on."""
        check_range("shard", shard, 0, (1 << 64) - 1)
        if shard in self._windows:
            raise ValueError(f"shard is {shard}, which the group {self.name!r} has already")
        self._adopt(Window(shard, start, self.limits.span_records))

    def _adopt(self, window: Window) -> None:
        self._windows[window.shard] = window
        self._loads.adopt(window)
        self._dispatch.adopt(window)
        window.acks.attention(self._attention())

    def restore(self, progress: Progress) -> None:
        """Take over stored progress, before the first consumer attaches.

        Records delivered and not acked come again at once, as attempt 2 or more, or are doomed.
        """
        assert not self._windows, "restore comes before add_shard"
        for shard, kept in progress.shards.items():
            state = kept.acks.state
            window = Window(shard, state.origin, self.limits.span_records)
            window.acks = kept.acks
            window.acks.drain()
            window.generation = kept.generation
            window.mark_saved()
            self._adopt(window)
            self._dispatch.restore(window, kept)

    @mended
    def offer(self, shard: int, tail: int) -> None:
        """Let records below ``tail`` be delivered; they must be durable. Never moves back."""
        window = self._window(shard)
        check_range("tail", tail, 1, LSN_MAX)
        if tail > window.tail:
            window.tail = tail
            self._dispatch.offer(shard)

    @mended
    def seek(self, positions: Mapping[int, int], to: object = None) -> None:
        """Deliver these shards from the given LSNs on, whatever was acked or is in flight.

        Every consumer is told of it, by `Sought` with ``to``.
        """
        for shard, lsn in positions.items():
            self._window(shard)
            check_range("lsn", lsn, 1, LSN_MAX)
        for shard, lsn in positions.items():
            window = self._windows[shard]
            self._dispatch.forget(shard)
            window.seek(lsn)
            self._dispatch.adopt(window)
            self._dispatch.offer(shard)
        self._events.add(Sought(to, tuple(sorted(positions.items()))))

    @mended
    def gap(self, shard: int, first_kept: int) -> Gap | None:
        """Pass over the records below ``first_kept``, which no longer exist.

        Returns the gap, also queued for every consumer, or None if all of them were acked.
        """
        window = self._window(shard)
        check_range("first_kept", first_kept, 1, LSN_MAX)
        self._close_hatch()
        state = window.acks.state
        if first_kept <= state.low:
            return None
        undelivered = self._dispatch.undelivered_below(window, min(first_kept, state.next))
        beyond = max(0, first_kept - state.next)
        records = window.acks.skip(first_kept) + beyond
        self._dispatch.pass_over(window, state.low, first_kept)
        window.tail = max(window.tail, first_kept)
        self._dispatch.offer(shard)
        if not records:
            return None
        gap = Gap(shard, state.low, first_kept, records, undelivered + beyond)
        self._events.add(gap)
        return gap

    @mended
    def pass_edge(self, shard: int, first_kept: int) -> Gap | None:
        """As `gap`, but only up to what is in flight: its consumer may still ack that."""
        window = self._window(shard)
        self._close_hatch()
        lsn = self._dispatch.first_in_flight(window, first_kept)
        return self.gap(shard, first_kept if lsn is None else min(lsn, first_kept))

    def gaps(self, consumer: str | None = None) -> tuple[Gap, ...]:
        """Return the last gaps of the group, or those a consumer has not asked for yet."""
        if consumer is None:
            return self._events.last_gaps()
        self._require(consumer)
        return self._events.take_gaps(consumer)

    def events(self, consumer: str) -> tuple[Event, ...]:
        """Return what happened that a consumer has not asked for yet, gaps included."""
        self._require(consumer)
        return self._events.take(consumer)

    # Consumers

    @mended
    def attach(
        self,
        consumer: str,
        now: int = 0,
        lease_ns: int | None = None,
        *,
        max_unacked: int = 0,
        max_unacked_bytes: int = 0,
    ) -> None:
        """Add a consumer; its name must not be in use.

        With ``lease_ns`` it has to `renew` before so long has passed, and is `gone` if it does not.
        It may have windows of its own, in place of those that `limits` has for each.
        """
        if lease_ns is not None:
            check_range("lease_ns", lease_ns, LEASE_NS_MIN, TIME_MAX_NS)
        self._miss(now)
        self._close_hatch()
        if consumer in self._consumers:
            raise ConsumerExists(self.name, consumer)
        number = self._numbers.give(consumer)
        self._loads.attach(consumer, number, max_unacked, max_unacked_bytes)
        self._events.attach(consumer)
        self._consumers.enter(consumer, lease_ns, now)

    @mended
    def renew(self, consumer: str, now: int) -> int | None:
        """Note that a consumer is still there; return when its lease runs out, if it has one.

        ConsumerClosed if it has run out: what the consumer held went out again, or may.
        """
        self._miss(now)
        self._require(consumer)
        return self._consumers.renew(consumer, now)

    @mended
    def detach(self, consumer: str, now: int) -> int:
        """Remove a consumer; what it held may go out again at once. Returns its unacked count."""
        self._miss(now)
        self._require(consumer)
        return self._remove(consumer, Cause.LEFT, now)

    @mended
    def gone(self, now: int) -> tuple[str, ...]:
        """Return the consumers whose leases have run out since the last call: they are detached."""
        self._miss(now)
        found = tuple(self._gone)
        self._gone.clear()
        return found

    def _miss(self, now: int) -> None:
        """Let go of consumers whose leases have run out."""
        self._now = now
        for consumer in self._consumers.gone(now):
            self._remove(consumer, Cause.GONE, now)
            self._gone.append(consumer)

    def _remove(self, consumer: str, cause: Cause, now: int) -> int:
        self._close_hatch()  # there it has its number, which somebody else may get
        returned = self._dispatch.take_all_back(consumer, cause, now)
        self._loads.detach(consumer)
        self._line.forget(consumer)
        self._events.detach(consumer)
        self._consumers.leave(consumer)
        self._numbers.take_back(consumer)
        return returned

    # Dispatch

    @mended
    def fetch(
        self, consumer: str, max_records: int, now: int, *, queue: bool = False
    ) -> tuple[Assignment, ...]:
        """Reserve up to ``max_records`` for a consumer; each lease needs a `confirm`.

        Empty when there is nothing, or when it is another consumer's turn; with ``queue`` the
        consumer then stands in line, until it is served or calls `leave_line`.
        """
        assert isinstance(self._dispatch, SharedDispatcher)
        return self._serve(consumer, max_records, now, self._dispatch.assign, queue=queue)

    @mended
    def fetch_parcels(
        self,
        consumer: str,
        max_records: int,
        now: int,
        *,
        queue: bool = False,
        batches: int = 0,
    ) -> tuple[Parcel, ...]:
        """Reserve as `fetch` does, where there is order; each lease needs a `confirm_parcel`.

        With ``batches`` in mode "sharded" these are so many of them, the last however large.
        """
        assert isinstance(self._dispatch, OrderedDispatcher)
        assign = self._dispatch.assign
        if batches and isinstance(self._dispatch, ShardDispatcher):
            assign = partial(self._dispatch.assign_batches, batches)
        return self._serve(consumer, max_records, now, assign, queue=queue)

    def _serve(
        self,
        consumer: str,
        max_records: int,
        now: int,
        assign: Callable[[str, int], tuple[Part, ...]],
        *,
        queue: bool,
    ) -> tuple[Part, ...]:
        check_range("max_records", max_records, 1, FETCH_MAX)
        self._close_hatch()  # nothing is taken between counting what may be and taking it
        self.tick(now)
        self._require(consumer)
        assigned = assign(consumer, max_records) if self._may_take(consumer, now) else ()
        if not assigned and not self._eager:
            # Acks take no lock: one that made room before every ack asks for attention is found
            # by looking again.
            self._set_eager(eager=True)
            assigned = assign(consumer, max_records) if self._may_take(consumer, now) else ()
        if assigned:
            self._line.serve(consumer, sum(part.records for part in assigned))
            self._call(now)
        elif queue:
            self._line.join(consumer)
            self._call(now)
        self._set_eager(eager=bool(self._line) or not assigned)
        if assigned and not (self._line or self.paused or self._shut):
            self._dispatch.open_hatch(self._consumers.next_end())
        return assigned

    # The hatch

    def hatch(self) -> fast.Hatch | fast.KeyHatch | None:
        """Return where records may be taken without a `fetch`; None if they may not.

        It is open between calls while `fetch` would have nothing to decide: then taking there does
        what `fetch` and `confirm` do, and its caller need not hold the lock. Else it is shut, and
        so it is when it is in doubt.
        """
        return self._dispatch.hatch()

    @mended
    def hatch_number(self, consumer: str) -> int:
        """Return the number that stands for a consumer at the hatch."""
        self._require(consumer)
        return self._numbers.of(consumer)

    @mended
    def took(self, consumer: str, records: int) -> None:
        """Note how many records a consumer took at the hatch since it was last told."""
        self._line.serve(consumer, records)

    def shut(self, *, shut: bool) -> None:
        """Shut the hatch for good, or let it be opened again."""
        self._shut = shut
        if shut:
            self._close_hatch()

    def _close_hatch(self) -> None:
        self._dispatch.close_hatch()

    def _may_take(self, consumer: str, now: int) -> bool:
        return not self.paused and (self._line.comes_first(consumer) or not self._call(now))

    def _call(self, now: int) -> bool:
        """Begin the turn of the first in line if it can be served."""
        head = self._line.head()
        if head is None or self.paused or not self._dispatch.can_assign(head):
            self._line.rest()
            return False
        self._line.call(now)
        return True

    @property
    def anyone_waits(self) -> bool:
        return bool(self._line)

    @mended
    def next_in_line(self, now: int) -> str | None:
        """Return a waiting consumer to wake: the first in line, if there is work for it.

        Or else the first for which there is, where only the holder of a key may get it, or the
        window of the first in line is full.
        """
        if self._call(now):
            return self._line.head()
        if self.paused or not self._line or not (self._loads.narrow or self._dispatch.owned()):
            return None
        return next(filter(self._dispatch.can_assign, self._line.names()), None)

    @mended
    def leave_line(self, consumer: str) -> None:
        """Stop waiting, as when a receive times out."""
        self._line.leave(consumer)

    @property
    def weighs(self) -> bool:
        """Whether `confirm` has to be told the sizes of records."""
        return self._loads.weighs

    def room(self, consumer: str) -> int | None:
        """Return how many bytes the windows have free for a consumer; None is no limit."""
        return self._loads.room(consumer)

    @mended
    def confirm(self, lease: int, end: int, now: int, sizes: Sequence[int] = ()) -> Run | None:
        """Say that a lease's records below ``end`` are handed out; return those that may be.

        ``sizes`` are the bytes of each of them, the last one ending at ``end``. The rest of the
        lease goes back as if it had never been fetched. None means that all of it is lost (its
        consumer left, a seek, a gap), or that the windows in bytes have become full, and must not
        be handed out.
        """
        assert isinstance(self._dispatch, SharedDispatcher)
        return self._dispatch.confirm(lease, end, now, sizes)

    @mended
    def confirm_parcel(
        self, lease: int, count: int, now: int, sizes: Sequence[int] = ()
    ) -> tuple[int, bytes]:
        """Say that the first ``count`` records of a parcel are handed out; return how many may be,
        and their runs, as `confirm` does."""
        assert isinstance(self._dispatch, OrderedDispatcher)
        return self._dispatch.confirm_parcel(lease, count, now, sizes)

    def undescribed(self, max_records: int) -> list[tuple[int, int, int]]:
        """Return (shard, first LSN, count) of the keys that are needed before a `fetch`."""
        if isinstance(self._dispatch, OrderedDispatcher):
            return self._dispatch.undescribed(max_records)
        return []

    @mended
    def describe(self, shard: int, first: int, hashes: bytes) -> None:
        """Take in hashes of keys, 8 bytes a record; 0 is no key."""
        assert isinstance(self._dispatch, OrderedDispatcher)
        self._dispatch.describe(shard, first, hashes)

    @mended
    def describe_batches(self, shard: int, first: int, ends: list[int]) -> None:
        """Take in the ends of batches in the place of keys, in mode "sharded"."""
        assert isinstance(self._dispatch, ShardDispatcher)
        self._dispatch.describe_batches(shard, first, ends)

    # Acks

    def ack_address(self, shard: int) -> int:
        """Return what the fast functions need; good as long as the group lives."""
        return self._window(shard).acks.address

    def ack(self, shard: int, lsn: int) -> AckFlag:
        """Ack one record; UnknownRecord if the group never delivered it."""
        flags = self._window_of(shard, lsn).ack(lsn)
        if flags & AckFlag.UNKNOWN:
            raise UnknownRecord(self.name, f"{shard}-{lsn}")
        return flags

    def ack_range(self, shard: int, first: int, end: int) -> AckCounts:
        """Ack ``[first, end)``; UnknownRecord, and nothing done, if any was never delivered."""
        _check_run(first, end)
        counts = self._window_of(shard, first).ack_range(first, end)
        if counts.flags & _UNKNOWN:
            raise UnknownRecord(self.name, _run_name(shard, first, end))
        return counts

    def ack_runs(self, shard: int, runs: bytes) -> AckCounts:
        """Ack the runs of a parcel, each as `ack_range` does."""
        window = self._window_of(shard, 0)
        counts = window.acks.ack_runs(runs)
        if not counts.flags & _UNKNOWN:
            return counts
        total = AckCounts(0, 0, 0, 0)
        for run in runs_of(runs):
            part = self.ack_range(shard, run.first, run.first + run.size)
            new, duplicate, void = map(add, total[:3], part[:3])
            total = AckCounts(new, duplicate, void, total.flags | part.flags)
        return total

    @mended
    def held_by(self, consumer: str, shard: int, first: int, end: int) -> bool:
        """Tell whether a consumer holds all of ``[first, end)``, none of it acked.

        What a transaction asks before it acks, so that no two of them commit the same record.
        """
        self._window_of(shard, first)
        return self._dispatch.held_by(consumer, shard, first, end)

    @mended
    def release(
        self,
        consumer: str,
        shard: int,
        first: int,
        end: int,
        after_ns: int | None,
        now: int,
        reason: str = "",
    ) -> int:
        """Give back what the consumer holds of ``[first, end)``, to be sent after a delay.

        Without ``after_ns`` that is what the back-off says. Returns the number of records given
        back; those it does not hold are left alone.
        """
        if after_ns is not None:
            check_range("after_ns", after_ns, 0, TIME_MAX_NS)
        self._check_held(consumer, shard, first, end, now)
        return self._dispatch.release(consumer, shard, (first, end), now, after_ns, reason)

    @mended
    def unsend(self, consumer: str, shard: int, first: int, end: int, now: int) -> int:
        """Take back what the consumer holds of ``[first, end)``, which nobody has seen yet.

        That was no attempt: it goes out again at once, with the same number. Returns how many.
        """
        self._check_held(consumer, shard, first, end, now)
        return self._dispatch.unsend(consumer, shard, (first, end), now)

    @mended
    def extend(self, consumer: str, shard: int, first: int, end: int, by_ns: int, now: int) -> int:
        """Set the deadline of what the consumer holds of ``[first, end)`` to ``by_ns`` from now.

        A deadline that lies later stays. Returns the number of records the consumer holds there.
        """
        check_range("by_ns", by_ns, 1, TIME_MAX_NS)
        self._check_held(consumer, shard, first, end, now)
        return self._dispatch.extend(consumer, shard, (first, end), now + by_ns)

    def _check_held(self, consumer: str, shard: int, first: int, end: int, now: int) -> None:
        self._miss(now)
        self._require(consumer)
        _check_run(first, end)
        self._window_of(shard, first)

    # The doomed

    @property
    def dooms(self) -> int:
        """How often something was doomed: more than before means that there is work to do."""
        return self._dispatch.dooms

    @mended
    def doomed(self, limit: int) -> tuple[Doomed, ...]:
        """Return up to ``limit`` records that are to be moved to the dead-letter stream.

        They stay doomed until they are acked: the shell copies them, and acks what it copied if
        it `is_doomed` still.
        """
        check_range("limit", limit, 1, FETCH_MAX)
        return self._dispatch.doomed(limit)

    @mended
    def is_doomed(self, shard: int, first: int, end: int) -> bool:
        """Tell whether all of ``[first, end)`` is doomed and none of it acked."""
        return shard in self._windows and self._dispatch.is_doomed(shard, first, end)

    @mended
    def put_off(self, shard: int, lsn: int) -> None:
        """Let the doomed run that holds a record, which could not be moved, be the last of them."""
        self._dispatch.put_off(shard, lsn)

    # The damaged

    @mended
    def set_aside(
        self, consumer: str, shard: int, first: int, end: int, reason: str, now: int
    ) -> Damaged | None:
        """Hand out no more of ``[first, end)``, which cannot be read; every consumer is told.

        They stay unacked. None if nobody waits for any of them.
        """
        window = self._window(shard)
        self._close_hatch()
        count = self._dispatch.set_aside(consumer, window, first, end, now)
        if not count:
            return None
        damaged = Damaged(shard, first, end, count, reason)
        self._events.add(damaged)
        return damaged

    @mended
    def skip_damaged(self) -> tuple[Gap, ...]:
        """Let what was set aside count as acked; return the gaps, also queued for everyone."""
        gaps = []
        for shard, first, end in self._dispatch.damaged():
            acks = self._windows[shard].acks
            held = sum(stop - at for at, stop in acks.held_runs(first, end))
            acks.free(first, end)
            gap = Gap(shard, first, end, acks.ack_range(first, end).new, held)
            self._dispatch.settle(self._windows[shard], acks.state.low)
            self._events.add(gap)
            gaps.append(gap)
        return tuple(gaps)

    # Time

    @mended
    def tick(self, now: int) -> None:
        """Take back what is past its deadline or its consumer's lease, and let delayed records be
        ready."""
        self._miss(now)
        self._dispatch.expire(now)
        self._line.tick(now)

    @mended
    def next_deadline(self) -> int | None:
        """Return when `tick` is next needed, or None."""
        times = (self._dispatch.next_due(), self._line.turn_end(), self._consumers.next_end())
        return min((time for time in times if time is not None), default=None)

    def pause(self) -> None:
        """Deliver nothing until `resume`; acks and deadlines go on."""
        self.paused = True
        self._close_hatch()

    def resume(self) -> None:
        self.paused = False

    # Progress

    @mended
    def attend(self) -> bool:
        """Do what an ack with ATTENTION asks for: drop settled leases, tell if a delta is due.

        The shell then also serves `next_in_line`, since acks make room.
        """
        due = False
        for window in self._dispatch.open_windows():
            if window.acks.acked_since >= self.limits.checkpoint_acks:
                due = True  # and a delta drops them, too
            else:
                self._dispatch.settle(window, window.low)
        self._set_eager(eager=bool(self._line))
        return due

    def save_by(self, saver: Callable[[AckMap, int], fast.Saver]) -> None:
        """Let acks store themselves, with a saver of each shard: from `arm` on, while nobody waits
        for room, until `delta` or `snapshot` is called. What else there is to tell waits for these.
        """
        for window in self._windows.values():
            window.saver = saver(window.acks, window.shard)

    @mended
    def arm(self) -> None:
        """Note that what `delta` or `snapshot` returned is stored."""
        if not self._eager:
            for window in self._windows.values():
                self._dispatch.arm(window)

    def _attention(self) -> int:
        return 1 if self._eager else self.limits.checkpoint_acks

    def _set_eager(self, *, eager: bool) -> None:
        """While somebody waits, every ack may make room and so asks for attention."""
        if eager != self._eager:
            self._eager = eager
            for window in self._windows.values():
                window.acks.attention(self._attention())
                window.disarm()

    @mended
    def delta(self) -> tuple[bytes, ...]:
        """Return what changed since the last call, to be stored in this order; () if nothing did.

        It then counts as stored: if storing fails, the next thing to store is a `snapshot`.
        """
        return self._recorder.delta()

    @mended
    def acked_delta(self, runs: Mapping[int, list[Run]]) -> tuple[bytes, ...]:
        """Return what to store behind a `delta` so that ``runs`` count as acked.

        For a transaction, which stores its acks before it makes them: nothing changes here.
        """
        return self._recorder.acked_delta(runs)

    @mended
    def sought_delta(self, positions: Mapping[int, int]) -> tuple[bytes, ...]:
        """Return what to store so that a `seek` to ``positions`` counts, which comes after it."""
        return self._recorder.sought_delta(positions)

    @mended
    def snapshot(self) -> tuple[bytes, ...]:
        """Return the whole progress, which makes everything stored before it superfluous."""
        return self._recorder.snapshot()

    # Looking

    def position(self, shard: int) -> tuple[int, int]:
        """Return the oldest unacked LSN and the first never delivered one."""
        state = self._window(shard).acks.state
        return state.low, state.next

    def stands(self) -> tuple[Stand, ...]:
        """Return where the group stands in each shard."""
        return tuple(
            Stand(window.shard, window.low, window.next, window.tail, window.outstanding())
            for window in self._windows.values()
        )

    @mended
    def lag(self) -> Lag:
        return lag_of(self._windows.values(), self._dispatch)

    @mended
    def blocked(self, names: Names = BY_LSN) -> str:
        """Return why nothing new can be dispatched, or an empty text."""
        return self._survey.blocked(
            self._consumers, names, paused=self.paused, unburied=self.unburied
        )

    @mended
    def holdings(self) -> tuple[Holding, ...]:
        """Return what each consumer has in flight; linear in that."""
        return self._survey.holdings(self._consumers, self._line.names(), paused=self.paused)

    def done(self) -> int:
        """Return a number that changes whenever a record is acked."""
        return self._survey.done()

    @mended
    def stats(self, names: Names = BY_LSN) -> GroupStats:
        return self._survey.stats(
            tuple(self._consumers), names, paused=self.paused, unburied=self.unburied
        )

    def _window(self, shard: int) -> Window:
        window = self._windows.get(shard)
        if window is None:
            raise ValueError(f"shard is {shard}, which the group {self.name!r} does not have")
        return window

    def _window_of(self, shard: int, lsn: int) -> Window:
        window = self._windows.get(shard)
        if window is None:
            raise UnknownRecord(self.name, f"{shard}-{lsn}", "it is of another stream")
        return window

    def _require(self, consumer: str) -> None:
        if consumer not in self._consumers:
            raise ConsumerClosed(self.name, consumer)

    def check_invariants(self) -> None:
        self._line.check_invariants()
        self._consumers.check_invariants()
        self._numbers.check_invariants()
        self._dispatch.check_invariants()
        assert set(self._line.names()) <= set(self._consumers)
        for window in self._windows.values():
            window.check_invariants()


def _check_run(first: int, end: int) -> None:
    if first >= end:
        raise ValueError(f"end is {end}, must be above first, which is {first}")


def _run_name(shard: int, first: int, end: int) -> str:
    """Return how an error names the records ``[first, end)``: by LSN, which any id of them has."""
    return f"{shard}-{first}" if end == first + 1 else f"{shard}-{first} to {shard}-{end - 1}"
