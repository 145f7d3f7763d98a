"""What a store promised, from when in a recorded run, and whether a recovery keeps it.

A `Ledger` knows for every step of a `hstreamlite.testing.crash.Recording` how far each shard must
reach and how far it may, where it must and may begin, which streams must and may exist. A `Scribe`
makes the calls of a store and enters what they promise. `recovered` reads back what a store that
opened on a crash state shows, and `Ledger.judge` compares: nothing acknowledged lost, nothing
foreign, nothing resurrected, every call whole or not at all, none without those before it.

>>> import hstreamlite as hs
>>> from hstreamlite.testing.crash import Recording
>>> from hstreamlite.testing.simenv import SimEnv
>>> env = SimEnv(seed=1)
>>> with Recording(env.disk) as recording:
...     scribe = Scribe(env, hs.open("/db", env=env), recording)
...     scribe.create("orders")
...     scribe.append("orders", [(None, b"kept")])
>>> for step in range(len(recording)):
...     for state in recording.states(step, 3):
...         store = hs.open("/db", env=env.after(state.files))
...         scribe.ledger.judge(step, state.fate, recovered(store, scribe.ledger))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

import hstreamlite as hs
from hstreamlite.engine import Engine
from hstreamlite.housekeeping import Housekeeping
from hstreamlite.testing.crash import Fate
from hstreamlite.testing.model import Violation
from hstreamlite.testing.simenv import SimEnv

__all__ = ["Ledger", "Scribe", "Shown", "recovered"]

Item = tuple[Literal["end", "first", "life", "sequence"], Any]
"""What has a value that only grows: one past the last LSN of a shard; its first LSN; the life of a
stream, 1 once it exists and 2 once it is deleted; the last number of a (stream, producer)."""

Entry = tuple[str | None, bytes]
"""Key and payload of a record."""

Part = tuple[int, int, int]
"""Records [first, end) of a shard."""


class Positions(Protocol):
    """Where a run stands; a Recording."""

    @property
    def position(self) -> int: ...


@dataclass(slots=True)
class Bounds:
    """What may be seen: at most `high`, and at least what is promised for the way it ended."""

    high: dict[Item, int] = field(default_factory=dict)
    process: dict[Item, int] = field(default_factory=dict)
    power: dict[Item, int] = field(default_factory=dict)

    def copy(self) -> Bounds:
        return Bounds(self.high.copy(), self.process.copy(), self.power.copy())

    def low(self, fate: Fate) -> dict[Item, int]:
        return self.process if fate == "process" else self.power


@dataclass(frozen=True, slots=True)
class Shown:
    """What a store shows: its streams with their shards, the span [first, end) of each shard, and
    the last number of each (stream, producer)."""

    streams: Mapping[str, tuple[int, ...]]
    spans: Mapping[int, tuple[int, int]]
    sequences: Mapping[tuple[str, str], int]

    @property
    def records(self) -> int:
        return sum(end - first for first, end in self.spans.values())


class Ledger:
    """Promises by position; names of streams are never used twice."""

    def __init__(self) -> None:
        self.records: dict[int, list[Entry]] = {}
        self.homes: dict[str, tuple[int, ...]] = {}
        self._calls: list[tuple[Part, ...]] = []
        self._entries: list[tuple[int, Item, int, tuple[str, ...]]] = []
        self._bounds: list[Bounds] = []

    def may(self, position: int, item: Item, value: int) -> None:
        """From this position on, up to this value may be seen."""
        self._entries.append((position, item, value, ("high",)))

    def must(self, position: int, item: Item, value: int, *, power: bool = True) -> None:
        """From this position on at least this is seen after a crash; without `power` only after
        one of the process."""
        tables = ("process", "power") if power else ("process",)
        self._entries.append((position, item, value, tables))

    def enter(self, parts: Iterable[Part], entries: Mapping[int, Sequence[Entry]]) -> None:
        """Enter what one call stored: all or none of it, and not without the calls before it."""
        for shard, first, _ in (parts := tuple(parts)):
            log = self.records.setdefault(shard, [])
            if len(log) != first - 1:
                raise Violation(f"shard {shard}: LSN {first} given behind {len(log)} records")
            log.extend(entries[shard])
        self._calls.append(parts)

    def after(self, step: int, fate: Fate, shown: Shown) -> Ledger:
        """Return the ledger of the next life, which a recovery that shows this begins: no more may
        come to light, and `settle` tells when no less may."""
        bounds = self.bounds(step)
        other = Ledger()
        other.homes = dict(self.homes)
        other.records = {shard: list(log) for shard, log in self.records.items()}
        for shard, (_, end) in shown.spans.items():
            del other.records.setdefault(shard, [])[end - 1 :]
        other._calls = [
            call for call in self._calls if all(self._whole(part, shown) for part in call)
        ]
        # A stream that is not shown was never there, or its deletion is not durable yet.
        values = {item: value for item, value in bounds.high.items() if item[0] != "sequence"}
        values |= {("life", name): 2 for name in self.homes} | _values(shown)
        for item, value in values.items():
            other.may(0, item, value)
            other.must(0, item, min(value, bounds.low(fate).get(item, 0)), power=False)
            other.must(0, item, min(value, bounds.power.get(item, 0)))
        return other

    def settle(self, position: int, shown: Shown) -> None:
        """Enter that this and no more was shown: it stays."""
        for item, value in _values(shown).items():
            self.must(position, item, value)
        for name in self.homes.keys() - shown.streams.keys():
            self.must(position, ("life", name), 2)

    def bounds(self, step: int) -> Bounds:
        """Return what holds at a step; nothing may be entered afterwards."""
        if not self._bounds:
            self._entries.sort(key=lambda entry: entry[0])
            for position, item, value, tables in self._entries:
                while len(self._bounds) <= position:
                    self._bounds.append(self._bounds[-1].copy() if self._bounds else Bounds())
                for name in tables:
                    table = getattr(self._bounds[-1], name)
                    table[item] = max(value, table.get(item, 0))
        return self._bounds[min(step, len(self._bounds) - 1)] if self._bounds else Bounds()

    def judge(self, step: int, fate: Fate, shown: Shown) -> None:
        """Raise Violation unless a recovery of this state may show this."""
        bounds = self.bounds(step)
        low, high = bounds.low(fate), bounds.high
        for name in self.homes.keys() | shown.streams.keys():
            least, most = low.get(("life", name), 0), high.get(("life", name), 0)
            if name not in shown.streams:
                if least == 1 and most < 2:
                    raise Violation(f"stream {name!r} is lost")
                continue
            if least > 1 or most < 1:
                raise Violation(f"stream {name!r} is {'resurrected' if least > 1 else 'foreign'}")
            for shard in self.homes[name]:
                first, end = shown.spans[shard]
                _judge_value(("first", shard), first, low, high)
                _judge_value(("end", shard), end, low, high)
        for pair, last in shown.sequences.items():
            _judge_value(("sequence", pair), last, low, high)
        for item in low:
            if item[0] == "sequence" and item[1][0] in shown.streams:
                _judge_value(item, shown.sequences.get(item[1], 0), low, high)
        self._judge_calls(shown)

    def _whole(self, part: Part, shown: Shown) -> bool | None:
        """Say whether a part is there; None if it cannot be told, its records being gone."""
        shard, first, end = part
        span = shown.spans.get(shard)
        if span is None or end <= span[0]:
            return None
        if end <= span[1]:
            return True
        if first < span[1]:
            raise Violation(f"shard {shard}: ends at {span[1]}, amid a call's {first}-{end - 1}")
        return False

    def _judge_calls(self, shown: Shown) -> None:
        missing: Part | None = None
        for call in self._calls:
            found = {self._whole(part, shown) for part in call} - {None}
            if len(found) > 1:
                raise Violation(f"half of a call is there: {call}")
            if False in found:
                missing = missing or call[0]
            elif True in found and missing:
                raise Violation(f"{call[0]} is there, stored after {missing}, which is not")


def _judge_value(item: Item, value: int, low: Mapping[Item, int], high: Mapping[Item, int]) -> None:
    least = 0 if item[0] == "sequence" else 1
    if value < low.get(item, least):
        raise Violation(f"{item[0]} of {item[1]} is {value}, promised was {low[item]}")
    if value > high.get(item, least):
        raise Violation(f"{item[0]} of {item[1]} is {value}, above {high.get(item, least)}")


def _values(shown: Shown) -> dict[Item, int]:
    values: dict[Item, int] = {("life", name): 1 for name in shown.streams}
    for shards in shown.streams.values():
        for shard in shards:
            values["first", shard], values["end", shard] = shown.spans[shard]
    return values | {("sequence", pair): last for pair, last in shown.sequences.items()}


def recovered(opened: hs.Store | Engine, ledger: Ledger) -> Shown:
    """Read back everything that a store shows; Violation where a record is not the one stored."""
    engine = opened if isinstance(opened, Engine) else opened._engine
    streams = {name: state.shard_ids for name, state in engine.catalog.streams.items()}
    spans: dict[int, tuple[int, int]] = {}
    for name, shards in streams.items():
        if ledger.homes.get(name) != shards:
            raise Violation(f"stream {name!r} has shards {shards}, not {ledger.homes.get(name)}")
        for shard in shards:
            info = engine.journal.info(shard)
            first, end = info.first, info.durable_next
            spans[shard] = first, end
            records = engine.journal.cursor(shard, first).read(end) or []
            found = [(record.key, record.payload) for record in records]
            if found != ledger.records.get(shard, [])[first - 1 : end - 1] or (
                len(found) != end - first
            ):
                raise Violation(f"shard {shard}: {first}-{end - 1} are not what was stored")
    sequences = {
        (engine.catalog.by_id[stream].name, producer): last
        for (stream, producer), last in engine.producers.last_sequences().items()
        if stream in engine.catalog.by_id
    }
    return Shown(streams, spans, sequences)


class Scribe:
    """Makes calls of a store that runs without faults, and enters them in a ledger."""

    def __init__(
        self, env: SimEnv, store: hs.Store, positions: Positions, ledger: Ledger | None = None
    ) -> None:
        self.env = env
        self.store = store
        self.positions = positions
        self.ledger = ledger or Ledger()

    def _close_entry(self) -> None:
        """Whatever the engine calls durable it shows to readers, and so it must stay."""
        engine, position = self.store._engine, self.positions.position
        for state in engine.catalog.streams.values():
            for shard in state.shard_ids:
                self.ledger.must(position, ("end", shard), engine.journal.info(shard).durable_next)

    def create(self, name: str, *, shards: int = 1, **options: Any) -> None:
        began = self.positions.position
        engine = self.store._engine
        pending = engine.create_stream(name, shards=shards, **options)
        self.ledger.homes[name] = pending.value.shard_ids
        engine.journal.wait(pending.ticket)
        self.ledger.may(began, ("life", name), 1)
        self.ledger.must(self.positions.position, ("life", name), 1)
        self._close_entry()

    def delete(self, name: str) -> None:
        began = self.positions.position
        self.store.delete_stream(name)
        self.ledger.may(began, ("life", name), 2)
        self.ledger.must(self.positions.position, ("life", name), 2)
        self._close_entry()

    def append(
        self,
        name: str,
        entries: Sequence[Entry],
        *,
        level: Literal["sync", "os", "memory"] = "sync",
        compression: Literal["none", "gzip", "zstd"] = "none",
    ) -> None:
        began = self.positions.position
        stream = self.store.stream(name)
        if len(entries) == 1:
            ((key, payload),) = entries
            ids = [stream.append(payload, key=key, durability=level)]
        else:
            items = [hs.Record(payload, key=key) for key, payload in entries]
            ids = list(stream.append_many(items, durability=level, compression=compression))
        self._stored(began, ids, entries, level)

    def transact(self, appends: Mapping[str, Sequence[Entry]]) -> None:
        began = self.positions.position
        with self.store.transaction() as tx:
            for name, entries in appends.items():
                for key, payload in entries:
                    tx.append(name, payload, key=key)
        ids = [record_id for name in appends for record_id in tx.ids[name]]
        self._stored(began, ids, [entry for part in appends.values() for entry in part], "sync")

    def produce(self, name: str, producer: str, entries: Sequence[Entry]) -> None:
        """Send one batch through a named producer."""
        began = self.positions.position
        with self.store.stream(name).producer(name=producer, durability="sync") as open_:
            submitted = [open_.submit(payload, key=key) for key, payload in entries]
            ids = [one.result() for one in submitted]
            last = open_.last_sequence
        self.ledger.may(began, ("sequence", (name, producer)), last)
        self.ledger.must(self.positions.position, ("sequence", (name, producer)), last)
        self._stored(began, ids, entries, "sync")

    def _stored(
        self, began: int, ids: Sequence[hs.RecordId], entries: Sequence[Entry], level: str
    ) -> None:
        position = self.positions.position
        placed: dict[int, list[tuple[int, Entry]]] = {}
        for record_id, entry in zip(ids, entries, strict=True):
            placed.setdefault(record_id.shard_id, []).append((record_id.lsn, entry))
        parts = []
        for shard, rows in placed.items():
            lsns = [lsn for lsn, _ in rows]
            if any(b != a + 1 for a, b in pairwise(lsns)):
                raise Violation(f"shard {shard}: one call was given {lsns}")
            parts.append((shard, lsns[0], lsns[-1] + 1))
        self.ledger.enter(parts, {s: [entry for _, entry in rows] for s, rows in placed.items()})
        for shard, _, end in parts:
            self.ledger.may(began, ("end", shard), end)
            if level != "memory":
                self.ledger.must(position, ("end", shard), end, power=level == "sync")
        self._close_entry()

    def trim(self, name: str, *, keep: int = 0) -> None:
        """Trim each shard of a stream to its last `keep` durable records."""
        engine = self.store._engine
        began = self.positions.position
        spans = {s: engine.journal.info(s) for s in engine.stream(name).shard_ids}
        firsts = {s: max(info.first, info.durable_next - keep) for s, info in spans.items()}
        for shard, first in firsts.items():
            self.ledger.may(began, ("first", shard), first)
        pending = engine.stage_trims(firsts)
        engine.journal.wait(pending.ticket)
        for shard, first in firsts.items():
            self.ledger.must(self.positions.position, ("first", shard), first)
        Housekeeping(engine).apply_trims()
        self._close_entry()

    def sync(self) -> None:
        self.store.sync()
        self._close_entry()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the store do what it does in it."""
        self.env.advance(seconds)
        self.store.tick()
        self._close_entry()

    def snapshot(self) -> None:
        Housekeeping(self.store._engine).snapshot()
        self._close_entry()

    def free(self) -> None:
        Housekeeping(self.store._engine).free_segments()
        self._close_entry()

    def compact(self) -> None:
        self.store.compact()
        self._close_entry()

    def close(self) -> None:
        self.store.close()
        for shard, records in self.ledger.records.items():
            self.ledger.must(self.positions.position, ("end", shard), len(records) + 1)
