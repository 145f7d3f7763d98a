"""What a store counts, as tables for SQL: those that HStreamDB has, and more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from hstreamlite.engine import Engine
from hstreamlite.feed import Feed
from hstreamlite.feeds import Feeds
from hstreamlite.log.catalog import StreamState
from hstreamlite.meters import Meters
from hstreamlite.metrics.histogram import Distribution
from hstreamlite.metrics.rates import Rates
from hstreamlite.metrics.sql import Answer, Cell, Table, select
from hstreamlite.metrics.stalls import reason_of
from hstreamlite.metrics.traffic import StreamTraffic, SubscriptionTraffic
from hstreamlite.position import lag
from hstreamlite.ticker import Ticker

Row = tuple[Cell, ...]

_RATES: Final = ("throughput_4s", "throughput_1min", "throughput_5min", "throughput_10min")
_PERCENTILES: Final = ("p50", "p75", "p95", "p99")
COLUMNS: Final = {
    "streams": ("name", "replication_property", "shards", "backlog_seconds", "records", "bytes"),
    "append_throughput": (
        "stream_name", *_RATES, "appends_1min", "appends_5min", "appends_10min",
        "records_1min", "records_5min", "records_10min",
    ),
    "read_throughput": ("stream_name", *_RATES, "reads_1min", "reads_5min", "reads_10min"),
    "append_total_counter": ("stream_name", "append_total"),
    "append_failed_counter": ("stream_name", "append_failed"),
    "stream_counters": (
        "stream_name", "append_bytes", "append_records", "append_calls", "append_failed",
        "read_bytes", "read_batches",
    ),
    "subscriptions": (
        "id", "stream_name", "mode", "ack_timeout_seconds", "max_unacked", "consumers", "paused",
    ),
    "subscription_throughput": (
        "subscription_id", *_RATES, "sends_1min", "sends_5min", "sends_10min",
        "acks_1min", "acks_5min", "acks_10min",
    ),
    "subscription_counters": (
        "subscription_id", "sent_bytes", "sent_records", "resent_records", "failed_records", "acks",
        "requests", "responses",
    ),
    "lag": ("subscription_id", "records", "unacked", "backlog", "bytes", "age_seconds"),
    "stalls": ("subscription_id", "reason", "detail", "seconds"),
    "consumers": (
        "subscription_id", "name", "unacked", "oldest", "since_asked_seconds",
        "since_acked_seconds", "stalled",
    ),
    "server_append_latency": _PERCENTILES,
    "server_append_request_latency": _PERCENTILES,
    "server_read_latency": _PERCENTILES,
}  # fmt: skip
"""Columns by table. Throughputs are bytes a second, what is named after records, appends, reads,
sends and acks is their number a second, latencies are microseconds."""


class Counting(Protocol):
    """A store of whatever face."""

    _engine: Engine
    _feeds: Feeds
    _ticker: Ticker


def tables_of(store: Counting) -> Tables:
    return Tables(store._engine, store._feeds, store._ticker.meters)


class Tables:
    """Makes the rows of each table when they are asked for."""

    def __init__(self, engine: Engine, feeds: Feeds, meters: Meters) -> None:
        self._engine = engine
        self._feeds = feeds
        self._meters = meters

    def select(self, statement: str) -> Answer:
        """Run a SELECT; SqlError if it is none."""
        self._engine.check_open()
        return select(
            statement,
            {name: Table(columns, getattr(self, f"_{name}")) for name, columns in COLUMNS.items()},
        )

    # Streams.

    def _states(self) -> list[StreamState]:
        with self._engine.lock:
            return list(self._engine.catalog.streams.values())

    def _streams(self) -> Iterator[Row]:
        for state in self._states():
            records, size = self._engine.stream_bytes(state)
            yield state.name, state.replication, len(state.shard_ids), state.backlog, records, size

    def _traffic(self, row: Callable[[StreamTraffic], Row]) -> Iterator[Row]:
        for name, traffic in self._meters.streams(self._states()).items():
            yield name, *row(traffic)

    def _append_throughput(self) -> Iterator[Row]:
        def row(traffic: StreamTraffic) -> Row:
            rates = traffic.rates
            if rates is None:
                return (None,) * 10
            calls, records = rates.append_calls, rates.append_records
            return (*_four(rates.append_bytes), *_three(calls), *_three(records))

        return self._traffic(row)

    def _read_throughput(self) -> Iterator[Row]:
        def row(traffic: StreamTraffic) -> Row:
            rates = traffic.rates
            if rates is None:
                return (None,) * 7
            return (*_four(rates.read_bytes), *_three(rates.read_batches))

        return self._traffic(row)

    def _append_total_counter(self) -> Iterator[Row]:
        return self._traffic(lambda traffic: (traffic.append_calls,))

    def _append_failed_counter(self) -> Iterator[Row]:
        return self._traffic(lambda traffic: (traffic.append_failed,))

    def _stream_counters(self) -> Iterator[Row]:
        return self._traffic(
            lambda t: (
                t.append_bytes, t.append_records, t.append_calls, t.append_failed, t.read_bytes,
                t.read_batches,
            )
        )  # fmt: skip

    # Subscriptions.

    def _each(self, rows: Callable[[Feed], list[Row]]) -> Iterator[Row]:
        for found in self._feeds.told(lambda feed: (feed.state.name, rows(feed))):
            for row in found[1]:
                yield found[0], *row

    def _subscriptions(self) -> Iterator[Row]:
        def rows(feed: Feed) -> list[Row]:
            state = feed.state
            stream = self._engine.catalog.stream_name(state.stream_id)
            settings = (state.mode, state.ack_timeout, state.max_unacked)
            return [(stream, *settings, feed.roster.count, int(state.paused))]

        return self._each(rows)

    def _subscription_traffic(self, row: Callable[[SubscriptionTraffic], Row]) -> Iterator[Row]:
        return self._each(lambda feed: [row(self._meters.subscription(feed))])

    def _subscription_throughput(self) -> Iterator[Row]:
        return self._subscription_traffic(
            lambda t: (
                *_four(t.rates.sent_bytes), *_three(t.rates.sent_records), *_three(t.rates.acks),
            )
        )  # fmt: skip

    def _subscription_counters(self) -> Iterator[Row]:
        return self._subscription_traffic(
            lambda t: (
                t.sent_bytes, t.sent_records, t.resent_records, t.failed_records, t.acks,
                t.requests, t.responses,
            )
        )  # fmt: skip

    def _lag(self) -> Iterator[Row]:
        def rows(feed: Feed) -> list[Row]:
            found = lag(feed)
            return [(found.records, found.unacked, found.backlog, found.bytes, found.age)]

        return self._each(rows)

    def _stalls(self) -> Iterator[Row]:
        def rows(feed: Feed) -> list[Row]:
            stats = feed.stats()
            reason, detail = reason_of(stats.blocked)
            return [(reason, detail, stats.stalled)]

        return self._each(rows)

    def _consumers(self) -> Iterator[Row]:
        def rows(feed: Feed) -> list[Row]:
            return [
                (c.name, c.unacked, c.oldest, c.since_asked, c.since_acked, c.stalled)
                for c in feed.stats().attached
            ]

        return self._each(rows)

    # Latencies.

    def _server_append_latency(self) -> list[Row]:
        return [_microseconds(self._meters.append_latency())]

    def _server_append_request_latency(self) -> list[Row]:
        return [_microseconds(self._meters.append_request.distribution())]

    def _server_read_latency(self) -> list[Row]:
        return [_microseconds(self._meters.read_latency())]


def _four(rates: Rates) -> Row:
    return rates.over_4s, *_three(rates)


def _three(rates: Rates) -> Row:
    return rates.over_1min, rates.over_5min, rates.over_10min


def _microseconds(found: Distribution) -> Row:
    return tuple(value * 1e6 for value in (found.p50, found.p75, found.p95, found.p99))
