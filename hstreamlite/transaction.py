"""Transactions: appends to any streams and acks, staged as one frame.

All or nothing, also across a crash: the frame is either whole in the log or not there. Nothing is
visible to anybody before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

from hstreamlite._native import fast
from hstreamlite.config import CODECS, STREAMS_MAX, check_name
from hstreamlite.consumer import ConsumerBase, by_consumer
from hstreamlite.engine import Engine, Pending
from hstreamlite.errors import BatchTooLarge, StreamExists, StreamNotFound
from hstreamlite.feed import Feed
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import Change, StreamState
from hstreamlite.log.journal import CATALOG, Op, Run
from hstreamlite.log.routing import ids_order
from hstreamlite.records import Payload, Record, RecordIds
from hstreamlite.spans import Span, spans_of

_PIECE_RECORDS = 64
"""Taken from an iterator at a time: of the largest records, twice what goes into one append."""


class Collected:
    """What a transaction is to do. Used by one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._appends: dict[str, list[Record]] = {}
        self._creates: dict[str, dict[str, Any]] = {}
        self._deletes: dict[str, None] = {}
        self._acks: dict[str, tuple[Feed, dict[str, list[Span]]]] = {}
        self.ended = False

    def check(self) -> None:
        self.engine.check_open()
        if self.ended:
            raise ValueError("the transaction has ended; begin another with store.transaction()")

    def append(self, stream: str, record: Record) -> None:
        self._stream(stream)
        self._appends.setdefault(stream, []).append(record)

    def _stream(self, name: str) -> None:
        """Raise StreamNotFound unless the stream exists at this point of the transaction."""
        self.check()
        if not isinstance(name, str):
            check_name("stream", name)
        if name in self._deletes:
            raise StreamNotFound(name)
        if name not in self._creates:
            self.engine.stream(name)

    def create_stream(self, name: str, options: dict[str, Any]) -> None:
        self.check()
        with self.engine.lock:
            self.engine.new_stream(name, **options)
            if name in self._creates or name in self.engine.catalog.streams:
                raise StreamExists(name)
        self._creates[name] = options

    def delete_stream(self, name: str) -> None:
        self._stream(name)
        if name in self._creates:
            raise ValueError(f"stream {name!r} is created in this transaction; leave both out")
        self._deletes[name] = None

    def ack(self, deliveries: object) -> None:
        for consumer, items in by_consumer(deliveries, ConsumerBase):
            self.ack_spans(consumer._feed, consumer.name, spans_of(items))

    def ack_spans(self, feed: Feed, consumer: str, spans: list[Span]) -> None:
        self.check()
        _, consumers = self._acks.setdefault(feed.state.name, (feed, {}))
        consumers.setdefault(consumer, []).extend(spans)

    def commit(self) -> Pending:
        """Stage everything in one frame; the value is the ids of the appends, stream by stream.

        LeaseLost, StreamNotFound, TransactionTooLarge, StorageFull: nothing happened.
        """
        self.check()
        self.ended = True
        engine = self.engine
        feeds = [feed for _, (feed, _) in sorted(self._acks.items())]
        with engine.lock, fast.Held(feed.lock for feed in feeds):
            for feed, consumers in self._acks.values():
                for consumer, spans in consumers.items():
                    feed.check_held(consumer, spans)
            deleted = [engine.stream(name) for name in self._deletes]
            created = self._new_states()
            changes = [catalogs.stream_change(state) for state in created.values()]
            changes += [engine.deletion_of(state, force=False) for state in deleted]
            ops, parts = self._append_ops(created)
            stored = [op for feed in feeds for op in feed.progress.ops(self._spans(feed))]
            system = bool(changes or stored) and not ops
            if changes:
                stored.append((CATALOG, [catalogs.encode(c) for c in changes], None))
            then = partial(self._carry_out, changes, deleted)
            ticket, runs = engine.journal.stage_then(ops + stored, 2, then, system=system)
        by_shard: dict[int, list[Run]] = {}
        for run in runs:
            by_shard.setdefault(run.shard, []).append(run)
        return Pending(
            {name: _ids(by_shard, shards, order) for name, (shards, order) in parts.items()}, ticket
        )

    def commit_and_wait(self) -> dict[str, RecordIds]:
        """Commit, and return the ids of the appends when all is on disk."""
        pending = self.commit()
        self.engine.journal.wait(pending.ticket)
        ids: dict[str, RecordIds] = pending.value
        return ids

    def _carry_out(self, changes: list[Change], deleted: list[StreamState], *_: object) -> None:
        """Have memory know of what was staged, perhaps once more. Locks held."""
        self.engine.apply(changes)
        for state in deleted:
            self.engine.retire(state, archived=False)
        for feed, consumers in self._acks.values():
            feed.progress.stored()
            feed.ack_spans(self._spans(feed), may_block=False)
            for consumer in consumers:
                feed.note_ack(consumer)

    def _spans(self, feed: Feed) -> list[Span]:
        _, consumers = self._acks[feed.state.name]
        return [span for spans in consumers.values() for span in spans]

    def _new_states(self) -> dict[str, StreamState]:
        engine = self.engine
        states: dict[str, StreamState] = {}
        shards = 0
        for name, options in self._creates.items():
            if name in engine.catalog.streams:
                raise StreamExists(name)
            state = engine.new_stream(name, **options)
            state = replace(
                state,
                id=state.id + len(states),
                shard_ids=tuple(shard + shards for shard in state.shard_ids),
            )
            shards += len(state.shard_ids)
            engine.open_stream(state)
            states[name] = state
        if len(engine.catalog.streams) + len(states) > STREAMS_MAX:
            raise ValueError(f"a store holds at most {STREAMS_MAX} streams")
        return states

    def _append_ops(
        self, created: dict[str, StreamState]
    ) -> tuple[list[Op], dict[str, tuple[list[int], list[int] | None]]]:
        """Return the ops of all appends and, per stream, its shards in their order with the place
        of each record's shard among them."""
        engine = self.engine
        ops: list[Op] = []
        parts = {}
        for name, records in self._appends.items():
            state = created.get(name) or engine.stream(name)
            part, order = engine.ops_of(state, records, None, CODECS["none"])
            ops += part
            parts[name] = ([op[0] for op in part], order)
        return ops, parts


def _ids(by_shard: dict[int, list[Run]], shards: list[int], order: list[int] | None) -> RecordIds:
    """Return the ids of one stream's records, in the order they were appended."""
    own = [run for shard in dict.fromkeys(shards) for run in by_shard[shard]]
    return RecordIds(own, ids_order(own, order, shards))


class Collects(Protocol):
    """What a transaction is to do, of a store here or elsewhere."""

    ended: bool

    def check(self) -> None: ...
    def append(self, stream: str, record: Record) -> None: ...
    def ack(self, deliveries: object) -> None: ...
    def create_stream(self, name: str, options: dict[str, Any]) -> None: ...
    def delete_stream(self, name: str) -> None: ...


class TransactionBase:
    """What a transaction does before its commit, blocking or not."""

    def __init__(self, collected: Collects) -> None:
        self._collected = collected
        self.ids: dict[str, RecordIds] = {}

    def append(
        self,
        stream: str,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Append a record to a stream at the commit; its id is then in `ids[stream]`."""
        self._collected.append(stream, record_of(payload, key, attributes))

    def append_many(
        self, stream: str, records: Iterable[Payload | Record], *, key: str | None = None
    ) -> None:
        """Append records to a stream at the commit."""
        for record in item_list(records):
            self._collected.append(
                stream, record if isinstance(record, Record) else record_of(record, key, None)
            )

    def ack(self, deliveries: object) -> None:
        """Ack deliveries at the commit: LeaseLost then, and nothing done, if one is not held."""
        self._collected.ack(deliveries)

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
    ) -> None:
        """Create a stream at the commit; options as `Store.create_stream`."""
        self._collected.create_stream(
            name, {"backlog": backlog, "max_bytes": max_bytes, "protect": protect}
        )

    def delete_stream(self, name: str) -> None:
        """Delete a stream at the commit."""
        self._collected.delete_stream(name)

    def __repr__(self) -> str:
        return f"<Transaction {'ended' if self._collected.ended else 'open'}>"


class Transaction(TransactionBase):
    """Collects appends, acks and catalog changes; commits at the end of the `with` block.

    An exception in the block abandons it. One thread at a time. Of a remote store: ConnectionLost
    with outcome "unknown" when the connection breaks at the commit, and it may have happened. Where
    Ctrl-C strikes there it may have, too: whole or not at all.
    """

    def __init__(self, collected: Collects, commit: Callable[[], Mapping[str, RecordIds]]) -> None:
        super().__init__(collected)
        self._commit = commit

    def commit(self) -> None:
        """Commit now; on disk when this returns."""
        self.ids = dict(self._commit())

    def __enter__(self) -> Self:
        self._collected.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._collected.ended:
            self.commit()
        self._collected.ended = True


def record_of(payload: Payload | Record, key: str | None, attributes: object) -> Record:
    """Return the record to append for what a user passed."""
    if isinstance(payload, Record):
        if key is not None or attributes is not None:
            raise TypeError("a Record brings its own key and attributes")
        return payload
    return Record(payload, key=key, attributes=attributes)  # type: ignore[arg-type]


def item_list(
    records: Iterable[Payload | Record], limit: int | None = None
) -> list[Payload | Record]:
    """Return a list of the records of one append; TypeError for what is no collection of them.

    BatchTooLarge as soon as what an iterator gave cannot be encoded in so many bytes: it may never
    end.
    """
    if type(records) is list:
        return records
    if isinstance(records, str | bytes | bytearray | memoryview | dict | Record):
        raise TypeError(
            f"records must be an iterable of records, not one {type(records).__name__}; "
            "append takes a single one"
        )
    if not isinstance(records, Iterable):
        raise TypeError(f"records must be an iterable of records, not {type(records).__name__}")
    if limit is None or isinstance(records, Sized):
        return list(records)
    items: list[Payload | Record] = []
    size, rest = 0, iter(records)
    while piece := list(islice(rest, _PIECE_RECORDS)):
        items += piece
        size += sum(map(_least_bytes, piece))
        if size > limit:
            raise BatchTooLarge(size, limit)
    return items


def _least_bytes(item: object) -> int:
    """Return how many bytes the record takes at least."""
    payload = item.payload if isinstance(item, Record) else item
    if type(payload) is bytes or type(payload) is bytearray:
        return 2 + len(payload)
    return 2 + 8 * len(payload) if type(payload) is dict else 2
