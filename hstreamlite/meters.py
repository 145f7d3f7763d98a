"""The meters of an open store: reads its counters now and then, so that there are rates.

Nothing here is on the way of a record. The native core counts what is appended and read, per shard,
and tells which shards were used; subscriptions count what they hand out. Every second, or less
often if that takes long, the store's own thread notes what they say. Thread-safe.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection
from typing import Any, Final

from hstreamlite._native import ffi, lib
from hstreamlite.engine import Engine
from hstreamlite.feed import Feed
from hstreamlite.feeds import Feeds
from hstreamlite.log.catalog import StreamState
from hstreamlite.metrics.histogram import Distribution, Histogram, measured
from hstreamlite.metrics.rates import SECOND, History
from hstreamlite.metrics.traffic import (
    NO_STREAM_RATES,
    StreamRates,
    StreamTraffic,
    SubscriptionRates,
    SubscriptionTraffic,
)

STREAMS_RATED_MAX: Final = 10_000
"""So many streams have rates at a time; those whose rates are all 0 make room."""

_REST: Final = 50
"""After a look at all counters comes a pause so many times as long, and of a second at least."""
_IDLE_LOOKS_NS: Final = 4 * SECOND
_COLUMNS: Final = 7
"""The id of a shard, and its counters."""
_ROW: Final = struct.Struct(f"={_COLUMNS}Q")
_GROUP: Final = 256
NS: Final = 1e-9
_UNUSED: Final = (0,) * (_COLUMNS - 1)


class Outgoing:
    """What a subscription sent, and its recent past."""

    __slots__ = ("bytes", "history", "mean", "sent")

    def __init__(self) -> None:
        self.bytes = 0
        self.mean = 0.0
        self.sent = 0
        self.history = History(5)
        self.history.add((0, 0, 0, 0, 0))

    def note(self, feed: Feed, now: int) -> bool:
        """Take in what it sent by now; return whether that has grown."""
        sent, acks = feed.sent(), feed.acks()
        size, records = feed.fetcher.handed_size()
        if records:
            self.mean = size / records
        if sent != self.sent:
            self.bytes += int((sent - self.sent) * (self.mean or feed.stored_size()))
        self.sent = sent
        out = feed.outflow
        totals = array("Q", (self.bytes, sent, acks, out.requests, out.responses))
        return self.history.note(totals, now)


class Meters:
    """Traffic and latencies of one store."""

    def __init__(self, engine: Engine, feeds: Feeds) -> None:
        self._engine = engine
        self._feeds = feeds
        self._lock = engine.env.threads.lock()
        self._begin_ns = engine.env.clock.mono_ns()
        self._due_ns = self._begin_ns + SECOND
        self._rows: dict[int, int] = {}
        self._history = History(_COLUMNS)
        self._unrated: set[int] = set()
        self._outgoing: dict[int, Outgoing] = {}
        self._used = ffi.new("struct hsl_meter[]", _GROUP)
        self.append_request = Histogram(NS)
        """How long a server took to answer appends; who serves them adds the ns of each."""

    # Looking.

    def tick(self, now: int) -> int:
        """Note the counters if it is time; return when it is next."""
        if now >= self._due_ns:
            with self._lock:
                moved = self._look(now)
            took = self._engine.env.clock.mono_ns() - now
            self._due_ns = now + max(SECOND if moved else _IDLE_LOOKS_NS, took * _REST)
        return self._due_ns

    def _look(self, now: int) -> bool:
        """Note what the counters say; tell whether any had moved. Lock held."""
        moved = self._look_at_shards(now)
        feeds = self._feeds.all()
        for feed in feeds:
            if feed.roster.count or feed.state.id in self._outgoing:
                moved = self._note_outgoing(feed, now) or moved
        there = {feed.state.id for feed in feeds}
        if len(self._outgoing) > len(there):
            for gone in self._outgoing.keys() - there:
                del self._outgoing[gone]
        return moved

    def _look_at_shards(self, now: int) -> bool:
        log = self._engine.journal.log
        used: set[int] = set()
        count = _GROUP
        while count == _GROUP:
            count = lib.hsl_log_meters_used(log, self._used, _GROUP)
            used.update(_numbers(self._used, count)[::_COLUMNS])
        if used:
            self._admit(used - self._rows.keys(), now)
            self._history.note(self._told(self._rows), now)
        return bool(used)

    def _admit(self, shards: set[int], now: int) -> None:
        """Begin to keep the past of shards: of as many as there is room for, or can be made."""
        lacking = len(self._rows) + len(shards) - STREAMS_RATED_MAX
        if lacking > 0:
            self._make_room(self._history.idle(now)[:lacking])
        room = STREAMS_RATED_MAX - len(self._rows)
        for number, shard in enumerate(sorted(shards)):
            if number >= room:
                self._unrated.add(shard)
                continue
            # What was counted before belongs to no window that can be told.
            counted = shard in self._unrated
            self._unrated.discard(shard)
            self._history.add(self._told([shard]) if counted else (shard, *_UNUSED))
            self._rows[shard] = len(self._rows)

    def _make_room(self, rows: list[int]) -> None:
        """Keep the past of these rows no longer."""
        if not rows:
            return
        self._history.drop(rows)
        gone = set(rows)
        self._unrated.update(shard for shard, row in self._rows.items() if row in gone)
        kept = [shard for shard, row in self._rows.items() if row not in gone]
        self._rows = {shard: row for row, shard in enumerate(kept)}

    def _note_outgoing(self, feed: Feed, now: int) -> bool:
        return self._outgoing_of(feed).note(feed, now)

    def _outgoing_of(self, feed: Feed) -> Outgoing:
        outgoing = self._outgoing.get(feed.state.id)
        if outgoing is None:
            outgoing = self._outgoing[feed.state.id] = Outgoing()
        return outgoing

    def refused(self, state: StreamState) -> None:
        """Count an append that was refused before it came to the log, which counts those there."""
        lib.hsl_log_append_refused(self._engine.journal.log, state.shard_ids[0])

    # Telling.

    def streams(self, states: list[StreamState]) -> dict[str, StreamTraffic]:
        """Return the traffic of streams by name, up to now."""
        now = self._engine.env.clock.mono_ns()
        shards = [shard for state in states for shard in state.shard_ids]
        with self._lock:
            self._look_at_shards(now)
            told = _ROW.iter_unpack(self._told(shards))
            totals = {shard: tuple(counts) for shard, *counts in told}
            return {state.name: self._traffic(state, totals, now) for state in states}

    def stream_rates(self, state: StreamState, interval_ns: int) -> tuple[float, ...]:
        """Return the rates of a stream over an interval until now, per second, in the order of the
        fields of `StreamRates`."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            self._look_at_shards(now)
            rates = [
                self._history.per_second(self._rows[shard], interval_ns, self._begin_ns, now)[1:]
                for shard in state.shard_ids
                if shard in self._rows
            ]
        return tuple(map(sum, zip(_UNUSED, *rates, strict=True)))

    def subscription(self, feed: Feed) -> SubscriptionTraffic:
        """Return the traffic of a subscription, up to now."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            self._note_outgoing(feed, now)
            history = self._outgoing_of(feed).history
            size, sent, acks, requests, responses = history.totals(0)
            rates = SubscriptionRates(*history.rates(0, self._begin_ns, now))
        out = feed.outflow
        return SubscriptionTraffic(
            size, sent, feed.resent(), out.failed, acks, requests, responses, rates
        )

    def subscription_rates(self, feed: Feed, interval_ns: int) -> tuple[float, ...]:
        """Return the rates of a subscription as `stream_rates` does, in the order of the fields of
        `SubscriptionRates`."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            self._note_outgoing(feed, now)
            history = self._outgoing_of(feed).history
            return history.per_second(0, interval_ns, self._begin_ns, now)

    def append_latency(self) -> Distribution:
        """Return how long records waited until they were on disk, from the begin of their frame."""
        return measured(self._engine.journal.log, lib.HSL_APPEND_LATENCY, NS)

    def append_size(self) -> Distribution:
        """Return how much calls appended to a shard at a time, in bytes as stored."""
        return measured(self._engine.journal.log, lib.HSL_APPEND_SIZE, 1.0)

    def read_latency(self) -> Distribution:
        """Return how long reads of segment files took; what lies in memory needs none."""
        return measured(self._engine.journal.log, lib.HSL_READ_LATENCY, NS)

    def _told(self, shards: Collection[int]) -> array[int]:
        """Return what the counters of shards are now, `_COLUMNS` numbers of each."""
        ids = array("Q", shards)
        rows = ffi.new("struct hsl_meter[]", len(ids))
        lib.hsl_log_meters(
            self._engine.journal.log, ffi.from_buffer("uint64_t[]", ids), len(ids), rows
        )
        return _numbers(rows, len(ids))

    def _traffic(
        self, state: StreamState, totals: dict[int, tuple[int, ...]], now: int
    ) -> StreamTraffic:
        used = [shard for shard in state.shard_ids if any(totals[shard])]
        if not used:
            return _IDLE
        sums = [sum(counts) for counts in zip(*(totals[shard] for shard in used), strict=True)]
        rates: StreamRates | None = None
        if all(shard in self._rows for shard in used):
            rates = NO_STREAM_RATES
            for shard in used:
                rates += StreamRates(
                    *self._history.rates(self._rows[shard], self._begin_ns, now)[1:]
                )
        return StreamTraffic(sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], rates)


def _numbers(rows: Any, count: int) -> array[int]:
    """Return the numbers in an array of C's, `_COLUMNS` of each row."""
    numbers = array("Q")
    numbers.frombytes(ffi.buffer(rows, count * _ROW.size))
    return numbers


_IDLE: Final = StreamTraffic()
