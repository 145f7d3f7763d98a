"""The meters of an open store: reads its counters now and then, so that there are rates.

Nothing here is on the way of a record. The native core counts what is appended and read, per shard,
and tells which shards were used; subscriptions count what they hand out. Every second, or less
often if that takes long, the store's own thread notes what they say. Thread-safe.
"""

from __future__ import annotations

import struct
from typing import Final

from hstreamlite._native import ffi, lib
from hstreamlite.engine import Engine
from hstreamlite.feed import Feed
from hstreamlite.feeds import Feeds
from hstreamlite.log.catalog import StreamState
from hstreamlite.metrics.histogram import Distribution, Histogram, measured
from hstreamlite.metrics.rates import SECOND, Series
from hstreamlite.metrics.traffic import (
    NO_STREAM_RATES,
    StreamRates,
    StreamTraffic,
    SubscriptionRates,
    SubscriptionTraffic,
)

STREAMS_RATED_MAX: Final = 10_000
"""So many streams have rates at a time; who was idle for ten minutes makes room."""

_IDLE_NS: Final = 600 * SECOND
_REST: Final = 50
"""After a look at all counters comes a pause so many times as long, and of a second at least."""
_IDLE_LOOKS_NS: Final = 4 * SECOND
_ROW: Final = struct.Struct("<7Q")
_GROUP: Final = 256
NS: Final = 1e-9
_UNUSED: Final = (0, 0, 0, 0, 0, 0)


class Outgoing:
    """What a subscription sent, and its recent past."""

    __slots__ = ("bytes", "mean", "sent", "series")

    def __init__(self) -> None:
        self.bytes = 0
        self.mean = 0.0
        self.sent = 0
        self.series = Series((0, 0, 0, 0, 0))

    def note(self, feed: Feed, now: int) -> None:
        sent, acks = feed.sent(), feed.acks()
        size, records = feed.fetcher.handed_size()
        if records:
            self.mean = size / records
        if sent != self.sent:
            self.bytes += int((sent - self.sent) * (self.mean or feed.stored_size()))
        self.sent = sent
        out = feed.outflow
        self.series.note((self.bytes, sent, acks, out.requests, out.responses), now)


class Meters:
    """Traffic and latencies of one store."""

    def __init__(self, engine: Engine, feeds: Feeds) -> None:
        self._engine = engine
        self._feeds = feeds
        self._lock = engine.env.threads.lock()
        self._begin_ns = engine.env.clock.mono_ns()
        self._due_ns = self._begin_ns + SECOND
        self._shards: dict[int, Series] = {}
        self._dropped: set[int] = set()
        self._outgoing: dict[int, Outgoing] = {}
        self._rows = ffi.new("struct hsl_meter[]", _GROUP)
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
                moved = self._outgoing_of(feed, now).series.touched_ns == now or moved
        there = {feed.state.id for feed in feeds}
        if len(self._outgoing) > len(there):
            for gone in self._outgoing.keys() - there:
                del self._outgoing[gone]
        return moved

    def _look_at_shards(self, now: int) -> bool:
        log = self._engine.journal.log
        moved = False
        while True:
            count = lib.hsl_log_meters_used(log, self._rows, _GROUP)
            moved = moved or count > 0
            for shard, *totals in _ROW.iter_unpack(ffi.buffer(self._rows, count * _ROW.size)):
                series = self._shards.get(shard) or self._admit(shard, totals, now)
                if series is not None:
                    series.note(totals, now)
            if count < _GROUP:
                return moved

    def _admit(self, shard: int, totals: list[int], now: int) -> Series | None:
        """Begin to keep the past of a shard, if there is room or can be made."""
        if len(self._shards) >= STREAMS_RATED_MAX:
            idle = [s for s, series in self._shards.items() if now - series.touched_ns > _IDLE_NS]
            for old in idle:
                del self._shards[old]
            self._dropped.update(idle)
            if not idle:
                return None
        # What was counted before a shard was dropped lies back longer than any window.
        series = Series(totals if shard in self._dropped else _UNUSED)
        series.touched_ns = now
        self._dropped.discard(shard)
        self._shards[shard] = series
        return series

    def _outgoing_of(self, feed: Feed, now: int) -> Outgoing:
        outgoing = self._outgoing.get(feed.state.id)
        if outgoing is None:
            outgoing = self._outgoing[feed.state.id] = Outgoing()
        outgoing.note(feed, now)
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
            totals = self._totals(shards)
            return {state.name: self._traffic(state, totals, now) for state in states}

    def stream_rates(self, state: StreamState, interval_ns: int) -> tuple[float, ...]:
        """Return the rates of a stream over an interval until now, per second, in the order of the
        fields of `StreamRates`."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            self._look_at_shards(now)
            rates = [
                self._shards[shard].per_second(interval_ns, self._begin_ns, now)
                for shard in state.shard_ids
                if shard in self._shards
            ]
        return tuple(map(sum, zip(_UNUSED, *rates, strict=True)))

    def subscription(self, feed: Feed) -> SubscriptionTraffic:
        """Return the traffic of a subscription, up to now."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            series = self._outgoing_of(feed, now).series
        size, sent, acks, requests, responses = series.totals
        rates = SubscriptionRates(*series.rates(self._begin_ns, now))
        out = feed.outflow
        return SubscriptionTraffic(
            size, sent, feed.resent(), out.failed, acks, requests, responses, rates
        )

    def subscription_rates(self, feed: Feed, interval_ns: int) -> tuple[float, ...]:
        """Return the rates of a subscription as `stream_rates` does, in the order of the fields of
        `SubscriptionRates`."""
        now = self._engine.env.clock.mono_ns()
        with self._lock:
            series = self._outgoing_of(feed, now).series
            return series.per_second(interval_ns, self._begin_ns, now)

    def append_latency(self) -> Distribution:
        """Return how long records waited until they were on disk, from the begin of their frame."""
        return measured(self._engine.journal.log, lib.HSL_APPEND_LATENCY, NS)

    def append_size(self) -> Distribution:
        """Return how much calls appended to a shard at a time, in bytes as stored."""
        return measured(self._engine.journal.log, lib.HSL_APPEND_SIZE, 1.0)

    def read_latency(self) -> Distribution:
        """Return how long reads of segment files took; what lies in memory needs none."""
        return measured(self._engine.journal.log, lib.HSL_READ_LATENCY, NS)

    def _totals(self, shards: list[int]) -> dict[int, tuple[int, ...]]:
        rows = ffi.new("struct hsl_meter[]", len(shards) + 1)
        lib.hsl_log_meters(self._engine.journal.log, shards, len(shards), rows)
        told = _ROW.iter_unpack(ffi.buffer(rows, len(shards) * _ROW.size))
        return {row[0]: row[1:] for row in told}

    def _traffic(
        self, state: StreamState, totals: dict[int, tuple[int, ...]], now: int
    ) -> StreamTraffic:
        used = [shard for shard in state.shard_ids if any(totals[shard])]
        if not used:
            return _IDLE
        sums = [sum(counts) for counts in zip(*(totals[shard] for shard in used), strict=True)]
        rates: StreamRates | None = None
        if all(shard in self._shards for shard in used):
            rates = NO_STREAM_RATES
            for shard in used:
                rates += StreamRates(*self._shards[shard].rates(self._begin_ns, now))
        return StreamTraffic(sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], rates)


_IDLE: Final = StreamTraffic()
