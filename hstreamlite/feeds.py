"""All subscriptions of a store: made, found, deleted, and kept across restarts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast, get_args

from hstreamlite._native import fast
from hstreamlite.burial import Burial
from hstreamlite.config import (
    ACK_TIMEOUT_SECONDS_MAX,
    MAX_UNACKED_BYTES_MAX,
    MAX_UNACKED_MAX,
    SUBSCRIPTIONS_MAX,
    check_bool,
    check_duration,
    check_int,
    check_name,
    check_window,
)
from hstreamlite.engine import Engine, Pending
from hstreamlite.errors import SubscriptionExists, SubscriptionInUse, SubscriptionNotFound
from hstreamlite.feed import Feed
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import Mode, StreamState, SubscriptionState, Unit
from hstreamlite.place import EARLIEST, LATEST
from hstreamlite.progresslog import PREFIX
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.retry import ATTEMPTS_MAX, Backoff

T = TypeVar("T")


class Feeds:
    """All subscriptions of an open store."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._feeds: dict[str, Feed] = {}
        self._burials: dict[str, Burial] = {}
        progress: dict[int, Progress] = {}
        for payload in engine.progress_records:
            (subscription,) = PREFIX.unpack_from(payload)
            progress.setdefault(subscription, Progress()).apply(payload[PREFIX.size :])
        engine.progress_records = []
        with _collector_at_rest():
            for state in engine.catalog.subscriptions.values():
                feed = self._feeds[state.name] = Feed(engine, state, progress.get(state.id))
                self._undertake(feed)
        engine.progress_snapshot = self._snapshot
        engine.trimmed = self._trimmed

    def _snapshot(self, store: Callable[[list[bytes]], T]) -> T:
        """Have records stored that rebuild all progress; no other is stored meanwhile.

        What raises has not stored them: all is unsaved again.
        """
        feeds = list(self._feeds.values())
        with fast.Held(feed.lock for feed in feeds):
            found = store([record for feed in feeds for record in feed.progress.snapshot()])
            for feed in feeds:
                feed.progress.stored()
            return found

    def _trimmed(self, firsts: Mapping[int, int]) -> None:
        for feed in self.all():
            feed.edge.trimmed(firsts)

    def all(self) -> list[Feed]:
        with self.engine.lock:
            return list(self._feeds.values())

    def told(self, ask: Callable[[Feed], T]) -> list[T]:
        """Ask every subscription, by name, but those that are deleted meanwhile."""
        answers = []
        for feed in sorted(self.all(), key=lambda feed: feed.state.name):
            with suppress(SubscriptionNotFound):
                answers.append(ask(feed))
        return answers

    def find(self, name: str) -> Feed | None:
        """Return a subscription if there is one."""
        return self._feeds.get(name)

    def get(self, name: str) -> Feed:
        """Return a subscription; SubscriptionNotFound if there is none."""
        self.engine.check_open()
        try:
            return self._feeds[name]
        except (KeyError, TypeError):
            check_name("subscription", name)
            raise SubscriptionNotFound(name) from None

    def create(
        self,
        name: str,
        *,
        stream: str,
        mode: str = "ordered",
        ack_timeout: object = 60.0,
        max_unacked: int = 10_000,
        max_unacked_bytes: int | None = None,
        max_unacked_per_consumer: int | None = None,
        max_unacked_bytes_per_consumer: int | None = None,
        start: object,
        max_attempts: int = 0,
        dead_letter: str | None = None,
        backoff: Backoff | None = None,
        unit: str = "key",
        exists_ok: bool = False,
    ) -> Pending:
        """Stage the creation of a subscription; its start is fixed now."""
        engine = self.engine
        check_name("subscription", name)
        check_bool("exists_ok", exists_ok)
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be 'ordered' or 'shared', not {mode!r}")
        if unit not in get_args(Unit) or (mode == "shared" and unit != "key"):
            raise ValueError(
                f"unit must be 'key', or 'shard' with mode 'ordered', not {unit!r} with {mode!r}"
            )
        engine.check_open()
        with engine.lock:
            engine.check_open()
            stream_state = engine.stream(stream)
            existing = self._feeds.get(name)
            if existing is not None:
                if not exists_ok:
                    raise SubscriptionExists(name)
                if existing.state.stream_id != stream_state.id:
                    of = engine.catalog.stream_name(existing.state.stream_id)
                    raise ValueError(
                        f"stream must be {of!r}, which subscription {name!r} is of, not {stream!r}"
                    )
                return Pending(existing, engine.created_tickets.get(f"/{name}", 0))
            if len(self._feeds) >= SUBSCRIPTIONS_MAX:
                raise ValueError(f"a store holds at most {SUBSCRIPTIONS_MAX} subscriptions")
            state = SubscriptionState(
                id=engine.catalog.next_subscription,
                name=name,
                stream_id=stream_state.id,
                created_ms=engine.env.clock.wall_ms(),
                start=engine.resolve(stream_state, "start", start),
                mode=cast("Mode", mode),
                ack_timeout=check_duration(
                    "ack_timeout", ack_timeout, ACK_TIMEOUT_SECONDS_MAX, least=0.001
                ),
                max_unacked=check_int("max_unacked", max_unacked, 1, MAX_UNACKED_MAX),
                max_unacked_bytes=check_window(
                    "max_unacked_bytes", max_unacked_bytes, MAX_UNACKED_BYTES_MAX
                ),
                max_unacked_per_consumer=check_window(
                    "max_unacked_per_consumer", max_unacked_per_consumer, MAX_UNACKED_MAX
                ),
                max_unacked_bytes_per_consumer=check_window(
                    "max_unacked_bytes_per_consumer",
                    max_unacked_bytes_per_consumer,
                    MAX_UNACKED_BYTES_MAX,
                ),
                max_attempts=check_int("max_attempts", max_attempts, 0, ATTEMPTS_MAX),
                dead_letter=dead_letter or "",
                backoff=check_backoff(backoff),
                redriven=self._dead_from(stream_state, max_attempts, dead_letter),
                unit=cast("Unit", unit),
                origin="earliest" if start is EARLIEST else "latest" if start is LATEST else "",
            )
            feed = Feed(engine, state, None)
            ticket = engine.stage_changes(
                [catalogs.subscription_change(state)],
                feed.progress.ops(),
                follow=partial(self._put, feed),
            )
            return Pending(feed, ticket)

    def _dead_from(
        self, stream: StreamState, max_attempts: int, dead_letter: str | None
    ) -> Mapping[int, int]:
        """Return where the dead letters of a new subscription will begin; ValueError or
        StreamNotFound where they would have no place. Lock held."""
        if dead_letter is None:
            if max_attempts:
                raise ValueError(
                    f"max_attempts={max_attempts} needs dead_letter, the name of a stream for what "
                    "was delivered so often: without one it would be lost"
                )
            return {}
        engine = self.engine
        target = engine.stream(dead_letter)
        if not max_attempts:
            raise ValueError(
                f"dead_letter={dead_letter!r} needs max_attempts, after how many deliveries a "
                "record goes there"
            )
        if stream.name in engine.catalog.graves_behind(dead_letter):
            raise ValueError(
                f"what goes to dead_letter={dead_letter!r} dies back into {stream.name!r}, of "
                "which the subscription is, and would go round for ever; name a stream whose "
                "own dead letters go elsewhere"
            )
        return engine.resolve(target, "dead_letter", LATEST)

    def _bury(self, now: int) -> list[int | None]:
        with self.engine.lock:
            burials = list(self._burials.values())
        return [burial.run(now) for burial in burials]

    def _put(self, feed: Feed, ticket: int) -> None:
        self._feeds[feed.state.name] = feed
        self.engine.note_created(f"/{feed.state.name}", ticket)
        feed.progress.stored()
        self._undertake(feed)

    def _undertake(self, feed: Feed) -> None:
        if feed.state.dead_letter:
            self._burials[feed.state.name] = Burial(feed)

    def delete(self, name: str, *, force: bool = False) -> Pending:
        """Stage the deletion; attached consumers end with SubscriptionNotFound."""
        check_bool("force", force)
        engine = self.engine
        engine.check_open()
        with engine.lock:
            feed = self.get(name)
            with feed.lock:
                consumers = feed.group.stats().consumers
                if consumers and not force:
                    raise SubscriptionInUse(name, consumers)
                change = {"op": "delete_subscription", "name": name}
                ticket = engine.stage_changes([change], follow=partial(self._forget, feed))
        engine.journal.poke()
        return Pending(None, ticket)

    def _forget(self, feed: Feed, _: int) -> None:
        name = feed.state.name
        feed.deleted = True
        feed.gate.close()
        self._feeds.pop(name, None)
        self._burials.pop(name, None)
        self.engine.created_tickets.pop(f"/{name}", None)
        self.engine.retire_archived(self.engine.catalog, feed.state.stream_id)

    def stop_runs(self) -> list[Any]:
        """Tell the runs of consumers, of whatever face, to stop; return them."""
        runs = [run for feed in self.all() for run in list(feed.runs)]
        for run in runs:
            run.handling.stop()
        return runs

    def tick(self, now: int) -> int | None:
        """Let time pass for every subscription; return the next deadline."""
        deadlines = [feed.tick(now) for feed in self.all()]
        deadlines += self._bury(now)
        return min((at for at in deadlines if at is not None), default=None)

    def busy(self) -> bool:
        """Say whether progress may have to be stored soon."""
        return any(feed.busy for feed in self.all())

    def protected(self) -> dict[int, int]:
        """Return, per shard, the first LSN that a protecting subscription still needs."""
        engine = self.engine
        out: dict[int, int] = {}
        with engine.lock:
            for stream in engine.catalog.by_id.values():
                for name in stream.protect:
                    feed = self._feeds.get(name)
                    if feed is None or feed.state.stream_id != stream.id:
                        continue
                    with feed.lock:
                        for shard in feed.shards:
                            low, _ = feed.group.position(shard)
                            out[shard] = min(low, out.get(shard, low))
        return out

    def store_all(self) -> None:
        """Take back what consumers have taken ahead, move what is doomed, and stage the progress of
        every subscription."""
        for feed in self.all():
            feed.roster.take_back_unseen()
        self._bury(self.engine.env.clock.mono_ns())
        for feed in self.all():
            feed.progress.store(may_block=True)


def check_backoff(backoff: object) -> tuple[float, float, float] | None:
    """Return what the catalog keeps of a back-off; TypeError if it is none."""
    if backoff is None:
        return None
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff or None, not {type(backoff).__name__}")
    return float(backoff.first), float(backoff.most), float(backoff.factor)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep the collector of cycles from looking through thousands of feeds each time that some more
    are made: all of them stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
