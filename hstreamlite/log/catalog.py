"""The catalog: which streams and subscriptions exist, as a state machine over its own log.

Every change is one JSON record in the catalog's system log; applying the records in order gives the
state. A snapshot is the same thing again: a `snapshot` record that clears the state, then records
that rebuild it. The superblock points to the newest complete one. Pure: no I/O, no time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from hstreamlite.log.keyspace import Shard, split

Mode = Literal["ordered", "shared"]
Unit = Literal["key", "shard"]
DELETED_STREAM = "__deleted_stream__"
"""Name under which HStreamDB shows a stream that was deleted with force."""
CELL = 0
"""Upper 16 bits of a shard id's place; one store is one cell."""
SHARD_BASE = CELL << 40
_CHUNK = 2000

Change = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """A stream as the catalog knows it. backlog in seconds, 0 = unlimited; max_bytes 0 = none."""

    id: int
    name: str
    shard_ids: tuple[int, ...]
    created_ms: int
    backlog: float = 0.0
    max_bytes: int = 0
    replication: int = 1
    protect: tuple[str, ...] = ()
    archived: bool = False
    retired: bool = field(default=False, init=False, repr=False, compare=False)
    """The name stands for it no more. Set once, for whoever kept it instead of the name."""

    def retire(self) -> None:
        """Tell whoever kept it to look the name up again."""
        object.__setattr__(self, "retired", True)

    @property
    def shards(self) -> tuple[Shard, ...]:
        return split(self.shard_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionState:
    """A subscription as the catalog knows it. start maps shard to first LSN to deliver.

    max_attempts 0 = no limit, and so is 0 for the windows in bytes and per consumer; dead_letter is
    the name of a stream, "" = none; backoff is (first, most, factor), in seconds; redriven maps
    shards of the dead-letter stream to the first LSN that was not redriven yet; unit is what mode
    "ordered" keeps in order; origin how start was named, "earliest" or "latest", if it was.
    """

    id: int
    name: str
    stream_id: int
    created_ms: int
    start: Mapping[int, int]
    mode: Mode = "shared"
    ack_timeout: float = 60.0
    max_unacked: int = 10_000
    paused: bool = False
    max_attempts: int = 0
    dead_letter: str = ""
    backoff: tuple[float, float, float] | None = None
    redriven: Mapping[int, int] = field(default_factory=dict)
    max_unacked_bytes: int = 0
    max_unacked_per_consumer: int = 0
    max_unacked_bytes_per_consumer: int = 0
    unit: Unit = "key"
    origin: str = ""


@dataclass(slots=True)
class Catalog:
    """The state after all changes applied so far."""

    streams: dict[str, StreamState] = field(default_factory=dict)
    by_id: dict[int, StreamState] = field(default_factory=dict)
    by_shard: dict[int, int] = field(default_factory=dict)
    """Id of the stream of each shard."""
    subscriptions: dict[str, SubscriptionState] = field(default_factory=dict)
    by_stream: dict[int, set[str]] = field(default_factory=dict)
    by_dead_letter: dict[str, set[str]] = field(default_factory=dict)
    next_stream: int = 1
    next_shard: int = 1
    next_subscription: int = 1
    trims: dict[int, int] = field(default_factory=dict)
    logs: dict[int, tuple[int, int]] = field(default_factory=dict)
    lost: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Records [first, end) of each log that a salvage could not save."""
    live: set[int] = field(default_factory=set)
    known_segment: int = 0
    regrouped: int = 0
    """Highest number that a segment of level 1 had when a file was dropped; 0 = there was none."""
    draft: Catalog | None = field(default=None, repr=False, compare=False)
    """What the snapshot being read adds up to so far."""

    def apply(self, change: Change) -> None:
        """Advance by one record. ValueError on a record of an unknown kind.

        A snapshot counts when its end was read: its writer may have died half-way, and a follower
        may be half-way through. Until then its records repeat what is known already.
        """
        if change["op"] == "snapshot" and (self.by_id or self.subscriptions):
            self.draft = Catalog()
            self.draft._reset(change)
        elif change["op"] == "snapshot_end" and self.draft is not None:
            draft = self.draft
            for name in self.__slots__:
                setattr(self, name, getattr(draft, name))
        else:
            self._apply(change)
            self._apply_to_draft(change)

    def _apply_to_draft(self, change: Change) -> None:
        try:
            if self.draft is not None:
                self.draft._apply(change)
        except KeyError:
            self.draft = None  # it ended half-way: this change is of what it did not come to

    def _apply(self, change: Change) -> None:
        kind = change["op"]
        if kind == "stream":
            self._put_stream(stream_of(change))
        elif kind == "delete_stream":
            self._delete_stream(change["id"], archive=change["archive"])
        elif kind == "subscription":
            self._put_subscription(_subscription_from(change))
        elif kind == "delete_subscription":
            self._delete_subscription(change["name"])
        elif kind == "trim":
            for shard, first in change["shards"]:
                self.trims[shard] = max(first, self.trims.get(shard, 1))
        elif kind == "lost":
            for shard, first, end in change["shards"]:
                self.lost.setdefault(shard, []).append((first, end))
        elif kind == "drop":
            self.live = set(change["live"])
            self.known_segment = change["known"]
            self.regrouped = max(self.regrouped, change.get("regrouped", 0))
        elif kind == "logs":
            for shard, next_lsn, last_time, first in change["logs"]:
                self.logs[shard] = (next_lsn, last_time)
                self.trims[shard] = max(first, self.trims.get(shard, 1))
        elif kind == "snapshot":
            self._reset(change)
        elif kind != "snapshot_end":
            raise ValueError(f"unknown catalog record {kind!r}")

    def _reset(self, change: Change) -> None:
        self.__init__()  # type: ignore[misc]
        self.next_stream = change["next_stream"]
        self.next_shard = change["next_shard"]
        self.next_subscription = change["next_subscription"]
        self.live = set(change["live"])
        self.known_segment = change["known"]
        self.regrouped = change.get("regrouped", 0)

    def _put_stream(self, stream: StreamState) -> None:
        before = self.by_id.get(stream.id)
        self.by_id[stream.id] = stream
        self.by_shard.update(dict.fromkeys(stream.shard_ids, stream.id))
        if not stream.archived:
            self.streams[stream.name] = stream
        if before is not None:
            before.retire()
        self.next_stream = max(self.next_stream, stream.id + 1)
        self.next_shard = max(self.next_shard, *(s - SHARD_BASE + 1 for s in stream.shard_ids))

    def _delete_stream(self, stream_id: int, *, archive: bool) -> None:
        stream = self.by_id[stream_id]
        self.streams.pop(stream.name, None)
        stream.retire()
        if archive:
            self.by_id[stream_id] = replace(stream, archived=True)
        else:
            self._forget_shards(stream)
            del self.by_id[stream_id]

    def _forget_shards(self, stream: StreamState) -> None:
        for shard in stream.shard_ids:
            self.by_shard.pop(shard, None)

    def _put_subscription(self, subscription: SubscriptionState) -> None:
        self.subscriptions[subscription.name] = subscription
        self.by_stream.setdefault(subscription.stream_id, set()).add(subscription.name)
        if subscription.dead_letter:
            self.by_dead_letter.setdefault(subscription.dead_letter, set()).add(subscription.name)
        self.next_subscription = max(self.next_subscription, subscription.id + 1)

    def _delete_subscription(self, name: str) -> None:
        subscription = self.subscriptions[name]
        if subscription.dead_letter:
            self.by_dead_letter[subscription.dead_letter].discard(name)
        names = self.by_stream.get(subscription.stream_id, set())
        names.discard(name)
        if not names:
            self.by_stream.pop(subscription.stream_id, None)
            stream = self.by_id.get(subscription.stream_id)
            if stream is not None and stream.archived:
                self._forget_shards(stream)
                del self.by_id[stream.id]
        del self.subscriptions[name]

    def of_shard(self, shard: int) -> StreamState | None:
        """Return the stream of a shard; None where that was deleted, or never was."""
        stream = self.by_id.get(self.by_shard.get(shard, 0))
        return None if stream is None or stream.archived else stream

    def subscriptions_of(self, stream_id: int) -> tuple[str, ...]:
        return tuple(sorted(self.by_stream.get(stream_id, ())))

    def buried_in(self, stream: str) -> tuple[str, ...]:
        """Return the subscriptions whose dead-letter stream has this name."""
        return tuple(sorted(self.by_dead_letter.get(stream, ())))

    def graves_behind(self, stream: str) -> set[str]:
        """Return the streams that a record of this one may move to by dying, itself included."""
        found: set[str] = set()
        left = [stream]
        while left:
            name = left.pop()
            if name in found or name not in self.streams:
                continue
            found.add(name)
            readers = self.subscriptions_of(self.streams[name].id)
            left += [self.subscriptions[reader].dead_letter for reader in readers]
        return found

    def stream_name(self, stream_id: int) -> str:
        stream = self.by_id.get(stream_id)
        return DELETED_STREAM if stream is None or stream.archived else stream.name

    def snapshot(
        self, logs: Iterable[tuple[int, int, int, int]], live: Iterable[int], known: int
    ) -> Iterator[Change]:
        """Yield the records of a snapshot; logs are (shard, next LSN, last time, first LSN)."""
        change: Change = {
            "op": "snapshot",
            "next_stream": self.next_stream,
            "next_shard": self.next_shard,
            "next_subscription": self.next_subscription,
            "live": sorted(live),
            "known": known,
        }
        if self.regrouped:
            change["regrouped"] = self.regrouped
        yield change
        for stream in self.by_id.values():
            yield stream_change(stream)
        for subscription in self.subscriptions.values():
            yield subscription_change(subscription)
        if self.lost:
            yield lost_change(self.lost)
        rows = [list(row) for row in logs]
        for at in range(0, len(rows), _CHUNK):
            yield {"op": "logs", "logs": rows[at : at + _CHUNK]}
        yield {"op": "snapshot_end"}


def stream_change(stream: StreamState) -> Change:
    """Return the record that makes the stream."""
    fields = asdict(stream)
    del fields["retired"]
    return {"op": "stream", **fields}


def lost_change(lost: Mapping[int, Iterable[tuple[int, int]]]) -> Change:
    """Return the record that explains holes."""
    rows = [[shard, first, end] for shard, ranges in lost.items() for first, end in ranges]
    return {"op": "lost", "shards": rows}


_LATER: dict[str, object] = {
    "paused": False,
    "max_attempts": 0,
    "dead_letter": "",
    "backoff": None,
    "redriven": [],
    "max_unacked_bytes": 0,
    "max_unacked_per_consumer": 0,
    "max_unacked_bytes_per_consumer": 0,
    "unit": "key",
    "origin": "",
}
"""Fields that older stores do not have, with what they are there."""


def subscription_change(subscription: SubscriptionState) -> Change:
    """Return the record that makes the subscription."""
    change = {"op": "subscription", **asdict(subscription)}
    change["start"] = sorted(subscription.start.items())
    change["redriven"] = sorted(subscription.redriven.items())
    for name, absent in _LATER.items():
        if change[name] == absent:
            del change[name]
    return change


def stream_of(change: Change) -> StreamState:
    """Return the stream that a record of kind "stream" makes."""
    fields = {k: v for k, v in change.items() if k != "op"}
    fields["shard_ids"] = tuple(fields["shard_ids"])
    fields["protect"] = tuple(fields["protect"])
    return StreamState(**fields)


def _subscription_from(change: Change) -> SubscriptionState:
    fields = {k: v for k, v in change.items() if k != "op"}
    fields["start"] = dict(fields["start"])
    fields["redriven"] = dict(fields.get("redriven", ()))
    if fields.get("backoff") is not None:
        fields["backoff"] = tuple(fields["backoff"])
    return SubscriptionState(**fields)


def encode(change: Change) -> bytes:
    """Return the record's bytes."""
    return json.dumps(change, separators=(",", ":"), ensure_ascii=False).encode()


def decode(payload: bytes) -> Change:
    """Return the record of the bytes; ValueError if they are none."""
    change = json.loads(payload)
    if not isinstance(change, dict) or "op" not in change:
        raise ValueError("not a catalog record")
    return change
