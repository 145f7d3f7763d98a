"""Streams whose records are there while their name is lost with records of the catalog."""

from __future__ import annotations

from itertools import count

from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import SHARD_BASE, StreamState
from hstreamlite.log.journal import SYSTEM
from hstreamlite.tools.look import Look
from hstreamlite.tools.losses import catalog_whole, holes
from hstreamlite.tools.state import State


def name_unknown(seen: Look, state: State) -> bool:
    """Give shards that no stream owns one of their own; return whether there are any.

    Not those of deleted streams, as far as the catalog tells: where it lacks none of its records,
    it knows of every shard below the next one to be given.
    """
    catalog = state.catalog
    for subscription in catalog.subscriptions.values():
        if subscription.stream_id not in catalog.by_id:
            _name(state, tuple(sorted(subscription.start)), subscription.stream_id)
    shards = {run.shard for found in seen.segments.values() for run in found.runs}
    lost = sorted(shard for shard in shards - state.owners.keys() if shard < SYSTEM)
    if lost and catalog_whole(state, holes(seen, state)):
        lost = [shard for shard in lost if shard >= SHARD_BASE + catalog.next_shard]
    for shard in lost:
        _name(state, (shard,), catalog.next_stream)
    return bool(state.unnamed)


def _name(state: State, shards: tuple[int, ...], stream: int) -> None:
    catalog = state.catalog
    name = f"salvaged-{shards[0]}"
    if name in catalog.streams:
        name = next(n for i in count(2) if (n := f"{name}-{i}") not in catalog.streams)
    made = StreamState(id=stream, name=name, shard_ids=shards, created_ms=0)
    catalog.apply(catalogs.stream_change(made))
    state.owners.update(dict.fromkeys(shards, made))
    state.unnamed[stream] = made
