"""What a store tells about itself: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from hstreamlite.engine import Engine
from hstreamlite.feed import Feed, backoff_of
from hstreamlite.feeds import Feeds
from hstreamlite.log.catalog import StreamState
from hstreamlite.sub.effects import GroupStats
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
        )


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

    @classmethod
    def of(cls, feed: Feed) -> Self:
        state, stats = feed.state, feed.stats()
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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """Counters since the store was opened, and sizes now.

    `log` holds those of the shared log (frames, syncs, bytes written, segments and others);
    `subscriptions` the state of each group, with `blocked` saying why nothing can be delivered.
    """

    streams: int
    records: int
    bytes: int
    disk_bytes: int
    log: dict[str, int]
    subscriptions: dict[str, GroupStats]


def stats_of(engine: Engine, feeds: Feeds) -> StoreStats:
    with engine.lock:
        sizes = [engine.stream_bytes(state) for state in engine.catalog.streams.values()]
    counters = engine.journal.stats()
    return StoreStats(
        streams=len(sizes),
        records=sum(records for records, _ in sizes),
        bytes=sum(size for _, size in sizes),
        disk_bytes=counters["disk_bytes"],
        log=counters,
        subscriptions=dict(feeds.told(lambda feed: (feed.state.name, feed.stats()))),
    )
