"""A store on a simulated machine whose every call a model witnesses.

`Witness` makes calls of a real store, tells the reference model how each ended, and lets the model
judge what the store shows. A call that fails with an outcome nobody knows marks the witness as
`failed`: like the store, it then needs `restart`.

>>> from hstreamlite.testing.simenv import SimEnv
>>> witness = Witness(SimEnv(seed=1))
>>> witness.create("orders")
'ok'
>>> witness.append("orders", [(None, b"kept")])
'ok'
>>> witness.restart("power")
>>> witness.check()
1
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import hstreamlite as hs
from hstreamlite.errors import HStreamError, StoreFailed
from hstreamlite.testing.model import Model, Outcome, Place, Seen, Violation
from hstreamlite.testing.simenv import SimEnv

__all__ = ["Restart", "Witness", "small_config"]

Restart = Literal["close", "process", "power"]


def small_config(**options: Any) -> hs.StoreConfig:
    """Return settings under which little data goes through everything: rolls, spares, several
    frames a write."""
    settings = {
        "segment_bytes_min": 64 << 10,
        "segment_bytes_max": 128 << 10,
        "frame_bytes": 16 << 10,
        "eager_bytes": 4 << 10,
        "batch_bytes_max": 4 << 10,
        "transaction_bytes_max": 32 << 10,
        "chunk_bytes": 64 << 10,
        "stage_bytes": 512 << 10,
        "prewrite_bytes": 8 << 10,
        "checkpoint_bytes": 64 << 10,
        "os_stage_bytes": 64 << 10,
        "tail_bytes": 32 << 10,
        "progress_acks": 50,
        "regroup_bytes": 64 << 10,
    }
    return hs.StoreConfig(**(settings | options))


def seen(record: hs.Record) -> Seen:
    """Return a record as the model knows it."""
    assert record.id is not None
    return Seen((record.id.shard_id, record.id.lsn), record.key, record.payload)


class Witness:
    """One store directory over its lives."""

    def __init__(
        self, env: SimEnv, config: hs.StoreConfig | None = None, model: Model | None = None
    ) -> None:
        self.env = env
        self.config = config or small_config()
        self.model = model or Model()
        self.failed = False
        self.wall_ms_max = 0
        self.consumers: dict[tuple[str, str], Any] = {}
        self.held: dict[tuple[str, str], list[Any]] = {}
        self.store = self.open()

    def open(self) -> hs.Store:
        self.store = hs.open("/db", config=self.config, env=self.env)
        self.failed = False
        self.model.opened()
        return self.store

    def branch(self, env: SimEnv) -> Witness:
        """Return a witness of another machine that knows what this one does, its store not open."""
        other = object.__new__(Witness)
        other.env, other.config, other.model = env, self.config, copy.deepcopy(self.model)
        other.failed, other.consumers, other.held = False, {}, {}
        other.wall_ms_max = self.wall_ms_max
        return other

    def attempt(self, call: Callable[[], Any]) -> tuple[Outcome, Any]:
        """Make a call and say how it ended."""
        try:
            return "ok", call()
        except HStreamError as error:
            self.failed = self.failed or isinstance(error, StoreFailed)
            return error.outcome, error
        except OSError as error:
            return "unknown", error
        except MemoryError as error:
            return "none", error

    # Calls.

    def create(self, name: str, *, shards: int = 1, backlog: float = 0) -> Outcome:
        engine = self.store._engine

        def call() -> None:
            pending = engine.create_stream(name, shards=shards, backlog=backlog)
            engine.journal.wait(pending.ticket)

        outcome, _ = self.attempt(call)
        self.model.create_stream(name, backlog_ms=int(backlog * 1000), outcome=outcome)
        return outcome

    def delete(self, name: str) -> Outcome:
        outcome, _ = self.attempt(lambda: self.store.delete_stream(name))
        self.model.delete_stream(name, outcome=outcome)
        return outcome

    def append(
        self,
        name: str,
        records: Sequence[tuple[str | None, bytes]],
        *,
        level: Literal["sync", "os", "memory"] = "sync",
        compression: Literal["none", "gzip", "zstd"] = "none",
    ) -> Outcome:
        """Append in one call: `append` for a single record, `append_many` for more."""
        stream = self.store.stream(name)
        now = self.env.clock.wall_ms()

        def call() -> list[hs.RecordId]:
            if len(records) == 1:
                ((key, payload),) = records
                return [stream.append(payload, key=key, durability=level)]
            items = [hs.Record(payload, key=key) for key, payload in records]
            return list(stream.append_many(items, durability=level, compression=compression))

        outcome, got = self.attempt(call)
        ids = [(i.shard_id, i.lsn) for i in got] if outcome == "ok" else None
        self.model.append(name, records, level=level, outcome=outcome, ids=ids, time_ms=now)
        return outcome

    def transact(
        self,
        appends: dict[str, Sequence[tuple[str | None, bytes]]],
        acks: tuple[str, str] | None = None,
        *,
        count: int = 1 << 30,
    ) -> Outcome:
        """Append to streams, and ack what a consumer holds, in one transaction."""
        now = self.env.clock.wall_ms()
        batch = self.held.get(acks, [])[:count] if acks else []

        def call() -> dict[str, Any]:
            with self.store.transaction() as tx:
                for name, records in appends.items():
                    for key, payload in records:
                        tx.append(name, payload, key=key)
                tx.ack(batch)
            return tx.ids

        outcome, got = self.attempt(call)
        for name, records in appends.items():
            ids = [(i.shard_id, i.lsn) for i in got[name]] if outcome == "ok" else None
            self.model.append(name, records, outcome=outcome, ids=ids, time_ms=now)
        if acks:
            mono = self.env.clock.mono_ns()
            self.model.ack(acks[0], map(place, batch), now_ns=mono, stored=True, outcome=outcome)
            if outcome != "none":
                del self.held[acks][: len(batch)]
        return outcome

    def trim(self, name: str, before: Any) -> Outcome:
        """Trim before a record id, or `hstreamlite.LATEST`."""
        state = self.store._engine.stream(name)
        _, firsts = self.attempt(lambda: self.store._engine.resolve(state, "before", before))
        if not isinstance(firsts, dict):
            return "none"
        outcome, _ = self.attempt(lambda: self.store.stream(name).trim(before=before))
        self.model.trim(name, firsts, outcome=outcome)
        return outcome

    def sync(self) -> Outcome:
        outcome, _ = self.attempt(self.store.sync)
        if outcome == "ok":
            self.model.synced()
        return outcome

    def tick(self) -> Outcome:
        outcome, _ = self.attempt(self.store.tick)
        return outcome

    def compact(self) -> Outcome:
        outcome, _ = self.attempt(self.store.compact)
        return outcome

    def pass_time(self, seconds: float) -> Outcome:
        """Let time pass, and the store do what it does in it."""
        self.env.advance(seconds)
        outcome = self.tick()
        if outcome == "ok":
            outcome = self.sync()
        if outcome == "ok" and seconds > self.config.progress_interval:
            self.model.progress_stored()
        return outcome

    def produce(self, name: str, producer: str, count: int) -> Outcome:
        """Submit records through a named producer, after sending its last one once more."""
        slots = self.model.streams[name].slots
        mark = f"{producer}#".encode()
        sent = [
            slot
            for slot in slots.values()
            if isinstance(slot.payload, bytes) and slot.payload.startswith(mark)
        ]
        stored = [slot for slot in sent if slot.status == "acked"]
        maybe = sum(slot.status == "maybe" for slot in sent)
        records: list[tuple[str | None, bytes]] = [
            (f"k{n % 3}", mark + b"%d" % (len(sent) + n)) for n in range(count)
        ]
        now = self.env.clock.wall_ms()

        def call() -> list[hs.RecordId]:
            with self.store.stream(name).producer(name=producer, durability="sync") as open_:
                last = open_.last_sequence
                _require(len(stored) <= last <= len(stored) + maybe, f"{producer}: at {last}")
                if stored and last == len(stored):
                    again = open_.submit(b"again", sequence=last).result()
                    _require(
                        (again.shard_id, again.lsn) == stored[-1].place, f"{producer}: {again}"
                    )
                submitted = [open_.submit(payload, key=key) for key, payload in records]
                return [one.result() for one in submitted]

        outcome, got = self.attempt(call)
        ids = [(i.shard_id, i.lsn) for i in got] if outcome == "ok" else None
        self.model.append(name, records, outcome=outcome, ids=ids, time_ms=now)
        return outcome

    # Subscriptions.

    def subscribe(
        self,
        name: str,
        stream: str,
        *,
        latest: bool = False,
        ack_timeout: float = 10.0,
        max_unacked: int = 10_000,
        mode: str = "ordered",
    ) -> Outcome:
        start = self.model.streams[stream].tail() if latest else None
        place = hs.LATEST if latest else hs.EARLIEST
        outcome, _ = self.attempt(
            lambda: self.store.create_subscription(
                name,
                stream=stream,
                mode=mode,
                start=place,
                ack_timeout=ack_timeout,
                max_unacked=max_unacked,
            )
        )
        self.model.create_sub(
            name,
            stream,
            start=start,
            ack_timeout_ns=int(ack_timeout * 1e9),
            max_unacked=max_unacked,
            ordered=mode == "ordered",
            outcome=outcome,
        )
        return outcome

    def unsubscribe(self, name: str) -> Outcome:
        outcome, _ = self.attempt(lambda: self.store.delete_subscription(name, force=True))
        self.model.delete_sub(name, outcome=outcome)
        if outcome != "none":
            for pair in [pair for pair in self.consumers if pair[0] == name]:
                del self.consumers[pair], self.held[pair]
        return outcome

    def receive(self, name: str, consumer: str, most: int = 100) -> int:
        """Receive what there is, attaching the consumer at first; -1 where that fails."""
        pair = (name, consumer)
        if pair not in self.consumers:
            outcome, attached = self.attempt(
                lambda: self.store.subscription(name).consumer(consumer)
            )
            if outcome != "ok":
                return -1
            self.consumers[pair], self.held[pair] = attached, []
        outcome, batch = self.attempt(lambda: self.consumers[pair].receive(most, timeout=0))
        if outcome != "ok":
            return -1
        self.model.deliver(
            name, consumer, [(seen(d), d.attempt) for d in batch], self.env.clock.mono_ns()
        )
        fresh = {place(d) for d in batch}
        self.held[pair] = [d for d in self.held[pair] if place(d) not in fresh] + list(batch)
        return len(batch)

    def ack(self, name: str, consumer: str, count: int = 1 << 30) -> Outcome:
        """Ack the first deliveries that the consumer received, also after their deadline."""
        pair = (name, consumer)
        batch = self.held.get(pair, [])[:count]
        if not batch:
            return "none"
        outcome, _ = self.attempt(lambda: self.consumers[pair].ack(batch))
        now = self.env.clock.mono_ns()
        self.model.ack(name, map(place, batch), now_ns=now, outcome=outcome)
        del self.held[pair][: len(batch)]
        return outcome

    def release(self, name: str, consumer: str, count: int = 1 << 30) -> Outcome:
        pair = (name, consumer)
        now = self.env.clock.mono_ns()
        batch = self.held.get(pair, [])[:count]
        if not batch:
            return "none"
        outcome, _ = self.attempt(lambda: self.consumers[pair].release(batch))
        mine = [d for d in batch if self.model.holds(name, consumer, place(d), now)]
        self.model.release(name, map(place, mine))
        del self.held[pair][: len(batch)]
        return outcome

    def seek(self, name: str, to: Any) -> Outcome:
        """Move a subscription; every consumer of it is told."""
        engine = self.store._engine
        state = engine.catalog.by_id[engine.catalog.subscriptions[name].stream_id]
        _, positions = self.attempt(lambda: engine.resolve(state, "to", to))
        if not isinstance(positions, dict):
            return "none"
        outcome, _ = self.attempt(lambda: self.store.subscription(name).seek(to))
        self.model.seek(name, positions, outcome=outcome)
        attached = [c for (of, _), c in self.consumers.items() if of == name]
        for consumer in attached if outcome == "ok" else ():
            told = consumer.events()[-1]
            wanted = hs.Sought(to, tuple(sorted(positions.items())))
            _require(told == wanted, f"{name}: {told} where {wanted} belongs")
        return outcome

    def pause(self, name: str, *, paused: bool) -> Outcome:
        """Pause or resume a subscription."""
        subscription = self.store.subscription(name)
        outcome, _ = self.attempt(subscription.pause if paused else subscription.resume)
        self.model.pause(name, paused=paused, outcome=outcome)
        return outcome

    def leave(self, name: str, consumer: str) -> Outcome:
        """Lose a consumer: what it held goes back."""
        attached = self.consumers.pop((name, consumer), None)
        if attached is None:
            return "none"
        del self.held[name, consumer]
        outcome, _ = self.attempt(attached.close)
        self.model.leave(name, consumer)
        return outcome

    # Lives.

    def restart(self, how: Restart, *, seed: int | None = None, reopen: bool = True) -> None:
        """End the process and open the store again."""
        if how == "close":
            outcome, _ = self.attempt(self.store.close)
            if outcome == "ok" and not self.failed:
                self.model.closed()
            else:
                self.model.process_crash()
        elif how == "process":
            self.env = self.env.process_crash()
            self.model.process_crash()
        else:
            self.env = self.env.power_cut(seed=seed)
            self.model.power_cut()
        self.consumers.clear()
        self.held.clear()
        if reopen:
            self.open()

    def read(self, name: str, **options: Any) -> list[Seen]:
        return [seen(record) for record in self.store.stream(name).read(**options)]

    def check(self) -> int:
        """Compare everything the store shows with the model; return the records seen."""
        model = copy.deepcopy(self.model) if self.failed else self.model
        if not self.failed:
            infos = self.store.subscriptions()
            model.check_names(
                [info.name for info in self.store.streams()], [info.name for info in infos]
            )
            for info in infos:
                model.check_paused(info.name, info.paused)
        count = 0
        now_ms = self.wall_ms_max = max(self.wall_ms_max, self.env.clock.wall_ms())
        for name, stream in list(model.streams.items()):
            if stream.deleting or stream.status != "acked":
                continue
            records = self.read(name)
            model.check_stream(name, records, now_ms=now_ms)
            count += len(records)
        self.store._engine.journal.check_invariants()
        for feed in self.store._feeds.all():
            feed.group.check_invariants()
        return count

    def drain(self) -> None:
        """Receive and ack until nothing more comes; nothing may have been passed over."""
        for name, sub in list(self.model.subs.items()):
            self.pause(name, paused=False)
            for pair in [pair for pair in self.consumers if pair[0] == name]:
                self.leave(*pair)
            self.env.advance(sub.ack_timeout_ns / 1e9)
            while self.receive(name, "drain", 1000) > 0:
                self.ack(name, "drain")
            self.model.check_drained(name)
            self.leave(name, "drain")


def place(delivery: Any) -> Place:
    return delivery.id.shard_id, delivery.id.lsn


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise Violation(otherwise)
