"""A reference model of a store: plain dicts and lists that say what a store may show.

Tell the model what was asked of a store and how it ended; hand it what the store then shows. It
raises `Violation` where the two disagree. Nothing here comes from the engine.

>>> model = Model()
>>> model.create_stream("orders")
>>> model.append("orders", [(None, b"one")], ids=[(1, 1)])
>>> model.append("orders", [(None, b"two")], level="memory", ids=[(1, 2)])
>>> model.power_cut()
>>> model.check_stream("orders", [Seen((1, 1), None, b"one")])
>>> model.check_stream("orders", [])
Traceback (most recent call last):
    ...
hstreamlite.testing.model.Violation: orders: lost b'one' at (1, 1)

Payloads must be unique in a stream: they are how a record is recognised. A place is (shard, LSN).

What is held against the store:

- what was acknowledged is read, with its id, key and payload, after whatever its level survives;
- nothing is read that was not appended, that failed, or that was trimmed;
- a call is there as a whole or not at all; one whose outcome is unknown is settled by the first
  complete read after the next open, and stays as that read found it;
- what survives of a shard is a prefix of what was appended to it, dense in LSNs;
- records come in the order of the append calls, however many shards they lie in;
- expiry takes nothing younger than the stream's backlog;
- a record is delivered to one consumer at a time, again only after its deadline, a release, the
  loss of its consumer or a crash, and never after an ack that is on disk;
- after a seek everything from its place on is delivered again, acks from before it count only for
  what was delivered since, and nothing is delivered while a subscription is paused;
- a record of mode "ordered" is delivered only when all earlier ones of its key are done or in
  flight at the same consumer; one that comes back takes the later ones of its key with it, and acks
  of those are void;
- what was not acked, or trimmed, is delivered in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

__all__ = ["Model", "Outcome", "Place", "Seen", "Slot", "StreamModel", "SubModel", "Violation"]

Place = tuple[int, int]
"""Shard and LSN."""
Outcome = Literal["ok", "none", "unknown"]
"""How a call ended: acknowledged; with nothing done; or nobody knows."""
Status = Literal["acked", "maybe", "failed"]

_LEVELS = {"memory": 0, "os": 1, "sync": 2}


class Violation(AssertionError):
    """A store shows what it must not, or does not show what it must."""


class Seen(NamedTuple):
    """A record as a store showed it."""

    place: Place
    key: str | None
    payload: object


@dataclass(slots=True)
class Slot:
    """One record that was asked to be appended."""

    call: int
    key: str | None
    payload: object
    level: int
    status: Status
    epoch: int
    time_ms: int
    place: Place | None = None
    durable: bool = False


@dataclass(slots=True)
class StreamModel:
    """A stream: every record in the order of the calls, and what is gone of each shard."""

    name: str
    backlog_ms: int = 0
    status: Status = "acked"
    deleting: bool = False
    slots: dict[object, Slot] = field(default_factory=dict)
    trims: dict[int, int] = field(default_factory=dict)
    maybe_trims: dict[int, int] = field(default_factory=dict)

    def kept(self) -> list[Slot]:
        """Return the records that a complete read must show."""
        return [
            slot
            for slot in self.slots.values()
            if slot.status == "acked" and slot.durable and not self.trimmed(slot.place)
        ]

    def trimmed(self, place: Place | None) -> bool:
        return place is not None and place[1] < self.trims.get(place[0], 1)

    def tail(self) -> dict[int, int]:
        """Return, per shard with records, the LSN behind the last durable one."""
        ends: dict[int, int] = dict(self.trims)
        for slot in self.slots.values():
            if slot.place and slot.durable and slot.status == "acked":
                shard, lsn = slot.place
                ends[shard] = max(ends.get(shard, 1), lsn + 1)
        return ends


@dataclass(slots=True)
class SubModel:
    """A subscription. A record is done (acked), optional (perhaps acked), or owed to somebody."""

    name: str
    stream: StreamModel
    start: dict[int, int]
    ack_timeout_ns: int
    max_unacked: int
    status: Status = "acked"
    deleting: bool = False
    done: set[Place] = field(default_factory=set)
    stored: set[Place] = field(default_factory=set)
    optional: set[Place] = field(default_factory=set)
    delivered: set[Place] = field(default_factory=set)
    flights: dict[Place, tuple[str, int]] = field(default_factory=dict)
    void: set[Place] = field(default_factory=set)
    paused: bool | None = False
    """None where nobody knows."""
    ordered: bool = False
    keys: dict[Place, str | None] = field(default_factory=dict)
    unsure: set[Place] = field(default_factory=set)
    """Records that may have been taken back with an earlier one of their key."""

    def behind(self, place: Place, places: Iterable[Place]) -> list[Place]:
        """Return those of some places that hold later records of the same key."""
        key = self.keys.get(place)
        if not self.ordered or key is None:
            return []
        return [p for p in places if p[0] == place[0] and p > place and self.keys.get(p) == key]

    def taken_along(self, place: Place, now_ns: int) -> bool:
        """Say whether a record may have been taken back with an earlier one that timed out."""
        return place in self.unsure or any(
            deadline <= now_ns and place in self.behind(before, [place])
            for before, (_, deadline) in self.flights.items()
        )

    def take_back(self, place: Place) -> None:
        """Note that a record came back, and the later ones of its key with it."""
        self.flights.pop(place, None)
        for later in self.behind(place, list(self.flights)):
            del self.flights[later]
            self.void.add(later)

    def owed(self) -> set[Place]:
        """Return the records that must still be delivered or acked."""
        return {
            slot.place
            for slot in self.stream.kept()
            if slot.place is not None
            and slot.place[1] >= self.start.get(slot.place[0], 1)
            and slot.place not in self.done
            and slot.place not in self.optional
        }


class Model:
    """What a store may show, after what was asked of it."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamModel] = {}
        self.subs: dict[str, SubModel] = {}
        self.epoch = 0
        self._calls = 0

    # Streams and records.

    def create_stream(self, name: str, *, backlog_ms: int = 0, outcome: Outcome = "ok") -> None:
        if outcome != "none":
            status: Status = "acked" if outcome == "ok" else "maybe"
            self.streams[name] = StreamModel(name, backlog_ms, status)

    def delete_stream(self, name: str, *, outcome: Outcome = "ok") -> None:
        if outcome == "ok":
            del self.streams[name]
        elif outcome == "unknown":
            self.streams[name].deleting = True

    def append(
        self,
        stream: str,
        records: Sequence[tuple[str | None, object]],
        *,
        level: str = "sync",
        outcome: Outcome = "ok",
        ids: Iterable[Place] | None = None,
        time_ms: int = 0,
    ) -> None:
        """Note one append call; ids come with the outcome "ok"."""
        self._calls += 1
        if ids is not None:
            places: list[Place | None] = list(ids)
            _require(
                len(places) == len(records), "{}: {} ids for {}", stream, len(places), len(records)
            )
        else:
            places = [None] * len(records)
        statuses: dict[str, Status] = {"ok": "acked", "none": "failed", "unknown": "maybe"}
        status = statuses[outcome]
        slots = self.streams[stream].slots
        for (key, payload), place in zip(records, places, strict=True):
            _require(payload not in slots, "{}: {!r} was appended before", stream, payload)
            slot = Slot(
                self._calls, key, payload, _LEVELS[level], status, self.epoch, time_ms, place
            )
            slot.durable = outcome == "ok" and level == "sync"
            slots[payload] = slot
            if outcome == "ok" and level != "memory":
                self._prefix(stream, slot)

    def _prefix(self, stream: str, last: Slot) -> None:
        """What precedes a record in its shard is at least as safe as it."""
        assert last.place is not None
        for slot in self.streams[stream].slots.values():
            if slot.status == "acked" and slot.place and slot.place[0] == last.place[0]:
                slot.level = max(slot.level, last.level)
                slot.durable = slot.durable or last.durable

    def synced(self) -> None:
        """Everything appended so far was reported to be on disk."""
        for stream in self.streams.values():
            for slot in stream.slots.values():
                slot.durable = slot.durable or slot.status == "acked"

    def trim(self, stream: str, firsts: Mapping[int, int], *, outcome: Outcome = "ok") -> None:
        """Note a trim: per shard, the first LSN kept."""
        state = self.streams[stream]
        if outcome == "none":
            return
        target = state.trims if outcome == "ok" else state.maybe_trims
        for shard, first in firsts.items():
            target[shard] = max(first, target.get(shard, 1))

    def check_stream(self, name: str, seen: Sequence[Seen], *, now_ms: int | None = None) -> None:
        """Check a read of everything; settle what was unknown. `now_ms` allows expiry."""
        stream = self.streams[name]
        self._settle_trims(stream, seen)
        if now_ms is not None and stream.backlog_ms:
            self._expire(stream, seen, now_ms)
        found: dict[object, Seen] = {}
        for record in seen:
            slot = stream.slots.get(record.payload)
            _require(slot is not None, "{}: foreign {}", name, record)
            assert slot is not None
            _require(slot.status != "failed", "{}: resurrected {}", name, record)
            _require(record.payload not in found, "{}: twice {}", name, record)
            _require(
                slot.place in (None, record.place), "{}: {} was at {}", name, record, slot.place
            )
            _require(slot.key == record.key, "{}: {} had key {!r}", name, record, slot.key)
            _require(not stream.trimmed(record.place), "{}: trimmed {}", name, record)
            found[record.payload] = record
        for slot in stream.kept():
            _require(slot.payload in found, "{}: lost {!r} at {}", name, slot.payload, slot.place)
        self._check_order(stream, seen)
        self._settle(stream, found)

    def _check_order(self, stream: StreamModel, seen: Sequence[Seen]) -> None:
        last_call = 0
        ends: dict[int, int] = {}
        for record in seen:
            shard, lsn = record.place
            call = stream.slots[record.payload].call
            _require(call >= last_call, "{}: out of order {}", stream.name, record)
            expected = ends.get(shard, lsn)
            _require(lsn == expected, "{}: {} where LSN {} belongs", stream.name, record, expected)
            ends[shard] = lsn + 1
            last_call = call

    def _settle(self, stream: StreamModel, found: Mapping[object, Seen]) -> None:
        calls: dict[int, bool] = {}
        for slot in stream.slots.values():
            present = slot.payload in found
            if slot.status == "failed" or stream.trimmed(slot.place):
                continue
            if slot.status == "maybe" and stream.maybe_trims:
                continue
            whole = calls.setdefault(slot.call, present)
            _require(whole == present, "{}: half of the call of {!r}", stream.name, slot.payload)
            if present:
                slot.place = found[slot.payload].place
                slot.status, slot.durable = "acked", True
            elif slot.status == "maybe" and slot.epoch < self.epoch:
                slot.status = "failed"

    def _settle_trims(self, stream: StreamModel, seen: Sequence[Seen]) -> None:
        """A trim of unknown outcome happened in all its shards or in none."""
        if not stream.maybe_trims:
            return
        places = {record.place for record in seen}
        below = [
            slot.place
            for slot in stream.kept()
            if slot.place and slot.place[1] < stream.maybe_trims.get(slot.place[0], 1)
        ]
        happened = bool(below) and not any(place in places for place in below)
        if happened:
            stream.trims |= {
                shard: max(first, stream.trims.get(shard, 1))
                for shard, first in stream.maybe_trims.items()
            }
        stream.maybe_trims = {}

    def _expire(self, stream: StreamModel, seen: Sequence[Seen], now_ms: int) -> None:
        shown = {record.payload for record in seen}
        for slot in stream.kept():
            if slot.payload in shown or slot.place is None:
                continue
            age = now_ms - slot.time_ms
            _require(
                age >= stream.backlog_ms, "{}: {!r} expired at {}", stream.name, slot.payload, age
            )
            shard, lsn = slot.place
            stream.trims[shard] = max(lsn + 1, stream.trims.get(shard, 1))

    def check_names(self, streams: Iterable[str], subs: Iterable[str]) -> None:
        """Check which streams and subscriptions there are, and settle those in doubt."""
        _settle_names(self.streams, set(streams), "stream")
        _settle_names(self.subs, set(subs), "subscription")

    # Crashes.

    def process_crash(self) -> None:
        """The process died: levels "os" and "sync" survive."""
        self._crash(_LEVELS["os"])

    def power_cut(self) -> None:
        """The machine died: what is durable survives."""
        self._crash(_LEVELS["sync"])

    def closed(self) -> None:
        """The store was closed cleanly: everything survives, progress too."""
        for sub in self.subs.values():
            sub.stored |= sub.done
        self.synced()
        self._crash(_LEVELS["memory"])

    def _crash(self, survives: int) -> None:
        self.epoch += 1
        for stream in self.streams.values():
            for slot in stream.slots.values():
                if slot.status == "acked" and not slot.durable and slot.level < survives:
                    slot.status, slot.epoch = "maybe", self.epoch - 1
        for sub in self.subs.values():
            sub.flights.clear()
            sub.delivered.clear()
            sub.void.clear()
            sub.optional |= sub.done - sub.stored
            sub.done &= sub.stored

    def opened(self) -> None:
        """The store was opened again: what survived until then is on disk."""
        self.synced()

    # Subscriptions.

    def create_sub(
        self,
        name: str,
        stream: str,
        *,
        start: Mapping[int, int] | None = None,
        ack_timeout_ns: int = 60_000_000_000,
        max_unacked: int = 10_000,
        ordered: bool = False,
        outcome: Outcome = "ok",
    ) -> None:
        """Note a subscription; start maps shards to first LSNs, and is 1 where it says nothing."""
        if outcome != "none":
            status: Status = "acked" if outcome == "ok" else "maybe"
            of = self.streams[stream]
            self.subs[name] = SubModel(
                name,
                of,
                dict(start or {}),
                ack_timeout_ns,
                max_unacked,
                status,
                ordered=ordered,
            )

    def delete_sub(self, name: str, *, outcome: Outcome = "ok") -> None:
        if outcome == "ok":
            del self.subs[name]
        elif outcome == "unknown":
            self.subs[name].deleting = True

    def deliver(
        self, name: str, consumer: str, records: Sequence[tuple[Seen, int]], now_ns: int
    ) -> None:
        """Check what a consumer received: records with their attempt numbers."""
        sub = self.subs[name]
        _require(not (records and sub.paused), "{}: delivered while paused {}", name, records[:1])
        for record, attempt in records:
            slot = sub.stream.slots.get(record.payload)
            _require(slot is not None, "{}: foreign delivery {}", name, record)
            assert slot is not None
            _require(slot.status != "failed", "{}: failed record delivered {}", name, record)
            _require(
                slot.place in (None, record.place), "{}: {} was at {}", name, record, slot.place
            )
            _require(slot.key == record.key, "{}: {} had key {!r}", name, record, slot.key)
            shard, lsn = record.place
            _require(lsn >= sub.start.get(shard, 1), "{}: {} precedes the start", name, record)
            _require(record.place not in sub.done, "{}: acked record delivered {}", name, record)
            holder, deadline = sub.flights.get(record.place, ("", 0))
            _require(deadline <= now_ns, "{}: {} is in flight at {}", name, record, holder)
            if record.place in sub.delivered:
                _require(attempt >= 2, "{}: {} again as attempt {}", name, record, attempt)
            slot.place, slot.status, slot.durable = record.place, "acked", True
            sub.optional.discard(record.place)
            sub.void.discard(record.place)
            sub.unsure.discard(record.place)
            sub.take_back(record.place)
            sub.delivered.add(record.place)
            sub.keys[record.place] = slot.key
            for before in _before(sub, record.place) if sub.ordered else ():
                at, until = sub.flights.get(before, ("", 0))
                _require(
                    at == consumer and until > now_ns,
                    "{}: {} goes to {} while {} is at {}",
                    name,
                    record,
                    consumer,
                    before,
                    at or "nobody",
                )
            sub.flights[record.place] = (consumer, now_ns + sub.ack_timeout_ns)
        live = sum(
            deadline > now_ns and not sub.stream.trimmed(place)
            for place, (_, deadline) in sub.flights.items()
        )
        _require(live <= sub.max_unacked, "{}: {} in flight of {}", name, live, sub.max_unacked)

    def ack(
        self,
        name: str,
        places: Iterable[Place],
        *,
        now_ns: int,
        stored: bool = False,
        outcome: Outcome = "ok",
    ) -> None:
        """Note acks; stored = they are on disk, as after a transaction."""
        sub = self.subs[name]
        for place in places if outcome != "none" else ():
            if place in sub.void:
                continue
            if sub.flights.get(place, ("", now_ns + 1))[1] <= now_ns:
                sub.unsure |= set(sub.behind(place, list(sub.flights)))
            if outcome == "unknown" or sub.taken_along(place, now_ns):
                sub.optional.add(place)
                continue
            sub.optional.discard(place)
            sub.done.add(place)
            sub.flights.pop(place, None)
            if stored:
                sub.stored.add(place)

    def seek(self, name: str, positions: Mapping[int, int], *, outcome: Outcome = "ok") -> None:
        """Note a seek: per shard, the first LSN delivered from then on.

        Where its outcome is unknown, nothing that is there now is owed or done any more.
        """
        if outcome == "none":
            return
        sub = self.subs[name]
        sub.void |= sub.delivered
        for known in (sub.done, sub.stored, sub.optional, sub.delivered, sub.flights):
            known.clear()
        if outcome == "ok":
            sub.start = dict(positions)
            return
        sub.start = {
            shard: min(first, sub.start.get(shard, 1)) for shard, first in positions.items()
        }
        sub.optional |= sub.owed()

    def pause(self, name: str, *, paused: bool, outcome: Outcome = "ok") -> None:
        if outcome != "none":
            self.subs[name].paused = paused if outcome == "ok" else None

    def check_paused(self, name: str, paused: bool) -> None:  # noqa: FBT001 - what is shown
        """Check whether a subscription is paused, and settle it where nobody knew."""
        sub = self.subs[name]
        _require(sub.paused in (None, paused), "{}: paused is {}, not {}", name, paused, sub.paused)
        sub.paused = paused

    def progress_stored(self) -> None:
        """The interval for storing progress passed: acks so far are on disk."""
        for sub in self.subs.values():
            sub.stored |= sub.done

    def release(self, name: str, places: Iterable[Place]) -> None:
        """Note records given back at once."""
        for place in places:
            self.subs[name].take_back(place)

    def leave(self, name: str, consumer: str) -> None:
        """Note that a consumer left: what it held may go out again."""
        sub = self.subs[name]
        sub.flights = {p: held for p, held in sub.flights.items() if held[0] != consumer}

    def holds(self, name: str, consumer: str, place: Place, now_ns: int) -> bool:
        """Say whether the consumer's delivery of the record is within its deadline, unacked."""
        sub = self.subs[name]
        holder, deadline = sub.flights.get(place, ("", 0))
        return holder == consumer and deadline > now_ns and place not in sub.done

    def check_drained(self, name: str) -> None:
        """Check, once a consumer receives nothing more, that nothing was passed over."""
        sub = self.subs[name]
        missing = sorted(sub.owed() - set(sub.flights))
        _require(not missing, "{}: never delivered {} ({})", name, missing[:5], len(missing))


def _before(sub: SubModel, place: Place) -> list[Place]:
    """Return the earlier records of a key that are not done, of those that are to be delivered."""
    stream = sub.stream
    key = sub.keys[place]
    if key is None:
        return []
    low = max(sub.start.get(place[0], 1), stream.trims.get(place[0], 1))
    return [
        slot.place
        for slot in stream.slots.values()
        if slot.place is not None
        and slot.key == key
        and slot.place[0] == place[0]
        and low <= slot.place[1] < place[1]
        and slot.status == "acked"
        and slot.place not in sub.done
        and slot.place not in sub.optional
    ]


_Named = TypeVar("_Named", StreamModel, SubModel)


def _settle_names(known: dict[str, _Named], shown: set[str], kind: str) -> None:
    for name, state in list(known.items()):
        if name not in shown:
            _require(state.deleting or state.status == "maybe", "{} {!r} is lost", kind, name)
            del known[name]
        state.deleting, state.status = False, "acked"
    foreign = sorted(shown - set(known))
    _require(not foreign, "{} {} was never created", kind, foreign)


def _require(holds: bool, otherwise: str, *of: object) -> None:  # noqa: FBT001 - an assertion
    if not holds:
        raise Violation(otherwise.format(*of))
