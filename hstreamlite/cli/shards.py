"""The shards of streams, which the API leaves out on purpose: HStreamDB's clients need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hstreamlite.cli.exits import Exit, Refusal

if TYPE_CHECKING:
    from hstreamlite.cli.access import Access
    from hstreamlite.cli.wire import Wire
    from hstreamlite.store import Store


class Shards(Protocol):
    def create_stream(self, name: str, *, exists_ok: bool, **options: Any) -> None: ...
    def count(self, stream: str) -> int | None: ...
    def ranges(self, stream: str) -> list[dict[str, object]]: ...


class OpenShards:
    """Of a store that is open here."""

    def __init__(self, store: Store) -> None:
        self._engine = store._engine

    def create_stream(self, name: str, *, exists_ok: bool, **options: Any) -> None:
        """Create a stream of so many shards; on disk when this returns."""
        pending = self._engine.create_stream(name, exists_ok=exists_ok, **options)
        self._engine.journal.wait(pending.ticket)

    def count(self, stream: str) -> int | None:
        return len(self._engine.stream(stream).shard_ids)

    def ranges(self, stream: str) -> list[dict[str, object]]:
        """Return id, hash range (both ends included) and kept records of each shard."""
        found: list[dict[str, object]] = []
        for shard in self._engine.stream(stream).shards:
            info = self._engine.journal.info(shard.id)
            found.append(
                {
                    "id": shard.id,
                    "start": str(shard.start),
                    "end": str(shard.end),
                    "records": max(0, info.durable_next - info.first),
                }
            )
        return found


class WireShards:
    """Of a store that a server has, in HStreamDB's protocol; records are not told there."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self._store = store
        self._wire = wire
        self._counts: dict[str, int] | None = None

    def create_stream(self, name: str, *, exists_ok: bool, **options: Any) -> None:
        shards, replication = options.pop("shards"), options.pop("replication")
        if (shards, replication) == (1, 1):
            self._store.create_stream(name, exists_ok=exists_ok, **options)
            return
        if options["max_bytes"] or options["protect"]:
            raise Refusal(
                "--max-bytes and --protect need a stream of one shard at a server; make the "
                "others with --store where the server does not run",
                Exit.USAGE,
            )
        if exists_ok and name in self._wire.shard_counts():
            return
        self._wire.create_stream(
            name, shards=shards, backlog=options["backlog"], replication=replication
        )

    def count(self, stream: str) -> int | None:
        if self._counts is None:
            self._counts = self._wire.shard_counts()
        return self._counts.get(stream)

    def ranges(self, stream: str) -> list[dict[str, object]]:
        return [
            {
                "id": shard.shardId,
                "start": shard.startHashRangeKey,
                "end": shard.endHashRangeKey,
                "records": None,
            }
            for shard in self._wire.shards(stream)
        ]


@contextmanager
def shards_at(access: Access, store: Store) -> Iterator[Shards]:
    """Return the shards of a store that access opened."""
    if not access.service_url:
        yield OpenShards(store)
        return
    with access.wire() as wire:
        yield WireShards(store, wire)
