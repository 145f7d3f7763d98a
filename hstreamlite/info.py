"""What a store tells about itself: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from hstreamlite.engine import Engine
from hstreamlite.feed import Feed, backoff_of
from hstreamlite.feeds import Feeds
from hstreamlite.log.catalog import StreamState
from hstreamlite.meters import Meters
from hstreamlite.metrics.histogram import Distribution
from hstreamlite.metrics.rates import Rates
from hstreamlite.metrics.traffic import (
    StreamRates,
    StreamTraffic,
    SubscriptionRates,
    SubscriptionTraffic,
)
from hstreamlite.sub.effects import ConsumerStats, GroupStats
from hstreamlite.sub.retry import Backoff


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """A stream: settings, and the records and bytes kept of it (as stored)."""

    name: str
    created: datetime
    backlog: timedelta
    max_bytes: int
    protect: tuple[str, ...]
    records: int
    bytes: int
    shards: int

    @classmethod
    def of(cls, engine: Engine, state: StreamState) -> Self:
        records, size = engine.stream_bytes(state)
        return cls(
            name=state.name,
            created=_time(state.created_ms),
            backlog=timedelta(seconds=state.backlog),
            max_bytes=state.max_bytes,
            protect=state.protect,
            records=records,
            bytes=size,
            shards=len(state.shard_ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRange:
    """A shard: the hashes of its keys, both ends included, and the records kept of it."""

    id: int
    start: int
    end: int
    records: int


def shard_ranges(engine: Engine, name: str) -> list[ShardRange]:
    """Return the shards of a stream, in the order of their hashes."""
    with engine.lock:
        kept = [(shard, engine.journal.info(shard.id)) for shard in engine.stream(name).shards]
    return [
        ShardRange(id=s.id, start=s.start, end=s.end, records=max(0, i.durable_next - i.first))
        for s, i in kept
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionInfo:
    """A subscription: settings, who is attached, and how far the group is."""

    name: str
    stream: str
    created: datetime
    mode: str
    ack_timeout: float
    max_unacked: int
    consumers: tuple[str, ...]
    unacked: int
    backlog: int
    paused: bool
    max_attempts: int
    dead_letter: str | None
    backoff: Backoff | None
    max_unacked_bytes: int | None
    max_unacked_per_consumer: int | None
    max_unacked_bytes_per_consumer: int | None
    unit: str
    damaged: int
    """Records that were set aside because they cannot be read."""

    @classmethod
    def of(cls, feed: Feed) -> Self:
        state, stats = feed.state, feed.counts()
        return cls(
            name=state.name,
            stream=feed.engine.catalog.stream_name(state.stream_id),
            created=_time(state.created_ms),
            mode=state.mode,
            ack_timeout=state.ack_timeout,
            max_unacked=state.max_unacked,
            consumers=stats.consumers,
            unacked=stats.unacked,
            backlog=stats.backlog,
            paused=stats.paused,
            max_attempts=state.max_attempts,
            dead_letter=state.dead_letter or None,
            backoff=backoff_of(state),
            max_unacked_bytes=state.max_unacked_bytes or None,
            max_unacked_per_consumer=state.max_unacked_per_consumer or None,
            max_unacked_bytes_per_consumer=state.max_unacked_bytes_per_consumer or None,
            unit=state.unit,
            damaged=stats.damaged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """Counters since the store was opened, and sizes now.

    `log` holds those of the shared log (frames, syncs, bytes written, segments and others);
    `subscriptions` the state of each group, with `blocked` saying why nothing can be delivered.
    `stream_traffic` and `subscription_traffic` tell what passed through each, and how fast.

    `append_latency` is how long records waited until they were on disk, from the begin of the frame
    they were gathered in; `append_request_latency` how long a server took to answer; `append_size`
    what calls appended to a shard at a time; `read_latency` how long reads of segment files took.
    """

    streams: int
    records: int
    bytes: int
    disk_bytes: int
    log: dict[str, int]
    subscriptions: dict[str, GroupStats]
    stream_traffic: dict[str, StreamTraffic]
    subscription_traffic: dict[str, SubscriptionTraffic]
    append_latency: Distribution
    append_request_latency: Distribution
    append_size: Distribution
    read_latency: Distribution


def stats_facts(stats: StoreStats) -> dict[str, Any]:
    """Return stats as JSON has them; streams that nothing passed through are told by name only."""
    idle = [name for name, traffic in stats.stream_traffic.items() if traffic == StreamTraffic()]
    used = {n: t for n, t in stats.stream_traffic.items() if t != StreamTraffic()}
    return asdict(replace(stats, stream_traffic=used)) | {"idle": idle}


def stats_from(facts: Mapping[str, Any]) -> StoreStats:
    """Return the stats that `stats_facts` told."""
    told = dict(facts)
    streams: dict[str, StreamTraffic] = dict.fromkeys(told.pop("idle"), StreamTraffic())
    for name, traffic in told["stream_traffic"].items():
        rates = traffic["rates"]
        streams[name] = StreamTraffic(
            **traffic | {"rates": rates and StreamRates(**_rates_in(rates))}
        )
    measured = {
        field.name: Distribution(**told[field.name] | {"counts": tuple(told[field.name]["counts"])})
        for field in fields(StoreStats)
        if field.type == "Distribution"
    }
    return StoreStats(
        **told
        | measured
        | {
            "subscriptions": {n: _group_from(group) for n, group in told["subscriptions"].items()},
            "stream_traffic": streams,
            "subscription_traffic": {
                name: SubscriptionTraffic(
                    **traffic | {"rates": SubscriptionRates(**_rates_in(traffic["rates"]))}
                )
                for name, traffic in told["subscription_traffic"].items()
            },
        }
    )


def _rates_in(told: Mapping[str, Any]) -> dict[str, Rates]:
    return {name: Rates(**rates) for name, rates in told.items()}


def _group_from(told: Mapping[str, Any]) -> GroupStats:
    attached = tuple(ConsumerStats(**consumer) for consumer in told["attached"])
    return GroupStats(**{**told, "consumers": tuple(told["consumers"]), "attached": attached})


def streams_of(engine: Engine) -> list[StreamInfo]:
    """Return what is known of each stream, by name."""
    engine.check_open()
    with engine.lock:
        states = sorted(engine.catalog.streams.values(), key=lambda state: state.name)
        return [StreamInfo.of(engine, state) for state in states]


def stats_of(engine: Engine, feeds: Feeds, meters: Meters) -> StoreStats:
    with engine.lock:
        states = list(engine.catalog.streams.values())
        sizes = [engine.stream_bytes(state) for state in states]
    counters = engine.journal.stats()
    return StoreStats(
        streams=len(sizes),
        records=sum(records for records, _ in sizes),
        bytes=sum(size for _, size in sizes),
        disk_bytes=counters["disk_bytes"],
        log=counters,
        subscriptions=dict(feeds.told(lambda feed: (feed.state.name, feed.stats()))),
        stream_traffic=meters.streams(states),
        subscription_traffic=dict(
            feeds.told(lambda feed: (feed.state.name, meters.subscription(feed)))
        ),
        append_latency=meters.append_latency(),
        append_request_latency=meters.append_request.distribution(),
        append_size=meters.append_size(),
        read_latency=meters.read_latency(),
    )
