"""The shards of streams, which the API leaves out on purpose: HStreamDB's clients need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from hstreamlite.info import ShardRange
    from hstreamlite.remote.way import Way
    from hstreamlite.store import Store


def create_stream(store: Store, name: str, **options: Any) -> None:
    """Create a stream of so many shards; on disk when this returns."""
    way = _way_of(store)
    if way is not None:
        from hstreamlite.remote import shards

        way.run(shards.create_stream, way.link, name, **options)
        return
    pending = store._engine.create_stream(name, **options)
    store._engine.journal.wait(pending.ticket)


def ranges_of(store: Store, name: str) -> list[ShardRange]:
    """Return the shards of a stream, in the order of their hashes."""
    way = _way_of(store)
    if way is not None:
        from hstreamlite.remote import shards

        return way.run(shards.shard_ranges, way.link, name)
    from hstreamlite.info import shard_ranges

    return shard_ranges(store._engine, name)


def _way_of(store: Store) -> Way | None:
    """Return the way to the server of a store that is not open here."""
    return cast("Way | None", getattr(store, "_way", None))
