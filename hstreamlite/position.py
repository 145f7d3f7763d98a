"""Where a subscription stands: moved by a seek, held by a pause, told by its lag.

Seek and pause are staged before they are made, under the lock that orders all progress of the
subscription, so that a store without room for them stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from hstreamlite.config import LEVELS
from hstreamlite.errors import SubscriptionNotFound
from hstreamlite.feed import Feed
from hstreamlite.feeds import Feeds
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import SubscriptionState
from hstreamlite.sub.effects import Lag

_SYNC = LEVELS["sync"]


def seek(feed: Feed, to: object) -> int:
    """Move a subscription to a place, which is fixed now; return the ticket.

    Everything delivered before is void, and every attached consumer is told. A place is refused as
    by `Engine.resolve`, and nothing is done then.
    """
    feed.check()
    engine, state = feed.engine, feed.state
    stream = engine.catalog.by_id.get(state.stream_id)
    if stream is None:
        raise SubscriptionNotFound(state.name)
    positions = engine.resolve(stream, "to", to)
    with feed.lock:
        feed.check()
        ops = feed.progress.sought_ops(positions)
        then = partial(_move, feed, positions, to)
        ticket, _ = feed.journal.stage_then(ops, _SYNC, then, system=True)
    feed.journal.poke()
    return ticket


def _move(feed: Feed, positions: Mapping[int, int], to: object, *_: object) -> None:
    feed.seeks += 1
    feed.group.seek(positions, to)


def set_paused(feeds: Feeds, name: str, *, paused: bool) -> int:
    """Hold a subscription, or let it go on; return the ticket."""
    engine = feeds.engine
    engine.check_open()
    with engine.lock:
        feed = feeds.get(name)
        with feed.lock:
            feed.check()
            state = replace(feed.state, paused=paused)
            ticket = engine.stage_changes(
                [catalogs.subscription_change(state)], follow=partial(_put_state, feed, state)
            )
    engine.journal.poke()
    return ticket


def _put_state(feed: Feed, state: SubscriptionState, _: int) -> None:
    feed.state = state
    if state.paused:
        feed.group.pause()
    else:
        feed.group.resume()


def lag(feed: Feed) -> Lag:
    """Return how far a subscription is behind; costs O(shards), and reads no record.

    Parts of indexes may be read from files, so no lock is held meanwhile.
    """
    counts, stands = feed.stand()
    journal = feed.journal
    size = 0
    times = []
    for stand in stands:
        first = journal.bounds(stand.shard)[0]
        low = max(stand.low, first)
        following = max(stand.next, low)
        if low >= stand.tail:
            continue
        beyond = journal.bytes_from(stand.shard, following)
        size += beyond
        if following > low:
            out = max(0, journal.bytes_from(stand.shard, low) - beyond)
            size += out * min(stand.outstanding, following - low) // (following - low)
        block = journal.block_of(stand.shard, low)
        if block is not None:
            times.append(block.time_ms)
    age_ms = feed.engine.env.clock.wall_ms() - min(times) if times else 0
    return replace(counts, bytes=size, age=max(0, age_ms) / 1000)
