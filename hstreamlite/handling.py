"""A consumer at work: deliveries are taken, handed to a function, and acked when it returns.

This is what the shells with threads (`workers`) and with tasks (`aio.tasks`) share: whose turn it
is, how many are taken ahead, and what becomes of a delivery whose handler returned, raised, or
settled it itself. All workers are equal: one that finds nothing to handle takes more deliveries,
for itself and for whoever sleeps. So a single one never waits for another.

Taking in and giving back exclude each other (`_intake`). Otherwise a delivery of a key could be
taken between the moment its predecessor's handler failed and the moment that one is given back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from hstreamlite.config import ACK_TIMEOUT_SECONDS_MAX, check_reason, check_seconds
from hstreamlite.env import Env
from hstreamlite.errors import (
    ConsumerClosed,
    HStreamError,
    StoreClosed,
    SubscriptionNotFound,
)
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.spans import Span, spans_of
from hstreamlite.sub.turns import Turn, Turns

log = logging.getLogger("hstreamlite")

WIDTH_MAX: Final = 1000
DRAIN_SECONDS_MAX: Final = 1e6
_AHEAD_NS: Final = 50_000_000
"""What is taken ahead should begin within this time, so that other consumers get their share."""
_KEPT_NS: Final = int(ACK_TIMEOUT_SECONDS_MAX * 1e9)
"""A delivery is extended for so long: a handler that hangs shall not have it for ever."""

Handled: TypeAlias = Turn[Delivery]
Back: TypeAlias = tuple[Delivery, str | None]
"""A delivery to give back, and why its handler failed; None if it had not begun."""
OnError: TypeAlias = Callable[[Delivery, Any], object]
"""What is told of a delivery and the exception that its handler raised."""

inside: ContextVar[object] = ContextVar("inside", default=None)
"""The run in whose handler this is: that one must not be waited for."""


class Source(Protocol):
    """What is known here of a subscription: where deliveries go back to."""

    @property
    def env(self) -> Env: ...
    @property
    def mode(self) -> str: ...
    @property
    def ack_timeout_ns(self) -> int: ...
    def extend(self, consumer: str, spans: Iterable[Span], by_ns: int) -> int: ...
    def holds(self, consumer: str, shard: int, lsn: int) -> bool: ...
    def unsend(self, consumer: str, spans: Iterable[Span]) -> None: ...
    def release(
        self, consumer: str, spans: Iterable[Span], after_ns: int | None, reason: str = ""
    ) -> int: ...
    def leave_line(self, consumer: str) -> None: ...
    def poke(self) -> None: ...


class Holder(Protocol):
    """What is known here of a consumer."""

    name: str
    subscription: str
    _prefetch: int

    @property
    def _feed(self) -> Source: ...

    def _fetch(self, max_records: int, *, may_block: bool) -> DeliveryBatch | None: ...


class Handling:
    """The state of one run of a consumer. Its methods may be called from any thread."""

    def __init__(self, consumer: Holder, width: int, drain_timeout: float) -> None:
        self.width = width
        self.drain_ns = int(
            check_seconds("drain_timeout", drain_timeout, 0, DRAIN_SECONDS_MAX) * 1e9
        )
        self.stopping = False
        self.error: BaseException | None = None
        self._consumer = consumer
        self._feed = consumer._feed
        env = self._feed.env
        self._clock = env.clock
        self._intake = env.threads.lock()
        self._lock = env.threads.lock()
        self._turns: Turns[Delivery] = Turns(by_key=self._feed.mode == "ordered")
        self._running: dict[Handled, int] = {}
        self._abandoned = False
        self._keep_ns = max(1, self._feed.ack_timeout_ns // 3)
        self._released: set[Handled] = set()
        self._sleepers: list[Callable[[], None]] = []
        self._taking = False
        self._ahead = 0
        self._taken_ns: int | None = None
        self._later: list[Back] | None = None if env.threaded else []
        self._late_keys: set[str | None] = set()

    # Whose turn it is.

    def next(self, wake: Callable[[], None]) -> Handled | int | None:
        """Return a turn to handle; or how many deliveries to take; or 0: sleep until `wake`; or
        None: it is over."""
        while True:
            with self._lock:
                if self.stopping:
                    return None
                turn = self._turns.begin()
                if turn is None:
                    room = 0 if self._taking else self._room()
                    if room:
                        self._taking = True
                    else:
                        self._sleepers.append(wake)
                    return room
                now = self._clock.mono_ns()
                self._running[turn] = now
            if self._held(turn):
                self._extend([turn], now)
                self._wake()
                return turn
            self._end(turn)

    def _held(self, turn: Handled) -> bool:
        """Whether it is still ours and unacked: it may have timed out while it waited."""
        record_id = turn.item.id
        try:
            return self._feed.holds(self._consumer.name, record_id.shard_id, record_id.lsn)
        except HStreamError as error:
            self.stop(error)
            return False

    def _room(self) -> int:
        turns = self._turns
        wanted = self.width - turns.running - turns.ready + self._ahead
        most = self.width + self._consumer._prefetch - turns.running - turns.waiting
        return max(0, min(wanted, most))

    def _wake(self) -> None:
        """Wake as many as there is work for. One that is awake looks by itself."""
        with self._lock:
            wanted = self._turns.ready + (not self._taking and self._room() > 0)
            wakes = [self._sleepers.pop() for _ in range(min(wanted, len(self._sleepers)))]
        for wake in wakes:
            wake()

    # Taking deliveries.

    def take(self, room: int, *, may_block: bool) -> DeliveryBatch | None:
        """Fetch, as `Fetcher.fetch`, and let what comes wait for its turn."""
        with self._intake:
            if self.stopping:
                raise ConsumerClosed(self._consumer.subscription, self._consumer.name)
            batch = self._consumer._fetch(room, may_block=may_block)
            if batch:
                with self._lock:
                    now = self._clock.mono_ns()
                    for delivery in batch:
                        if self._later is not None and delivery.key in self._late_keys:
                            self._later.append((delivery, None))
                        else:
                            self._turns.add(delivery, delivery.id.lsn, delivery.key, now)
                    self._pace(full=len(batch) == room)
        return batch

    def _pace(self, *, full: bool) -> None:
        """Take more ahead while that begins soon."""
        now = self._clock.mono_ns()
        if self._taken_ns is not None and now - self._taken_ns > _AHEAD_NS:
            self._ahead //= 2
        elif self._taken_ns is not None and full:
            self._ahead = min(self._consumer._prefetch, max(1, self._ahead * 2))
        self._taken_ns = now

    def taken(self, error: BaseException | None = None) -> None:
        """Note that taking is over, or failed."""
        with self._lock:
            self._taking = False
        if error is not None:
            self.stop(error)
        else:
            self._wake()

    # What takes long.

    def keep(self, now: int) -> int:
        """Extend what handlers work on, and what waits behind that for its key; return when to do
        so again."""
        with self._lock:
            kept: list[Handled] = []
            for turn, begun in () if self._abandoned else self._running.items():
                if now - begun < _KEPT_NS and turn not in self._released:
                    kept += [turn, *self._turns.behind(turn)]
        self._extend(kept, now)
        return now + self._keep_ns

    def _extend(self, turns: list[Handled], now: int) -> None:
        """Set the deadline anew where a third of the time for an ack is over."""
        due = [turn for turn in turns if now - turn.since >= self._keep_ns]
        if not due:
            return
        try:
            spans = spans_of([turn.item for turn in due])
            self._feed.extend(self._consumer.name, spans, 3 * self._keep_ns)
        except HStreamError as error:
            log.debug("what is worked on is not extended: %s", error)
        for turn in due:
            turn.since = now

    # What becomes of a delivery.

    def succeeded(self, turn: Handled) -> None:
        """Ack, unless the handler has released the delivery."""
        try:
            if turn not in self._released:
                turn.item.ack()
        except HStreamError as error:
            log.warning("record %s was handled and could not be acked: %s", turn.item.id, error)
            self.stop(error)
        finally:
            self._end(turn)

    def tell(self, turn: Handled, error: BaseException) -> None:
        """Log that a handler raised."""
        log.error(
            "handler of subscription %r raised for record %s, attempt %d",
            self._consumer.subscription,
            turn.item.id,
            turn.item.attempt,
            exc_info=error,
        )

    def failed(self, turn: Handled, error: BaseException) -> None:
        """Give the delivery back, unless that is done; without threads when all were handled."""
        try:
            if turn not in self._released:
                if self._later is None:
                    self.release(spans_of(turn.item), None, _reason(error))
                else:
                    self._postpone(turn, _reason(error))
        except HStreamError as refusal:
            self.stop(refusal)
        finally:
            self._end(turn)

    def _postpone(self, turn: Handled, reason: str) -> None:
        """Give back at the end: nobody waits here, and what came again at once would be tried for
        ever."""
        assert self._later is not None
        self._later.append((turn.item, reason))
        if turn.key is not None:
            self._late_keys.add(turn.key)
            self._later += [(delivery, None) for delivery in self._turns.drop(turn.key)]

    def release(self, spans: list[Span], after_ns: int | None, reason: str) -> int:
        """Give back deliveries, and with them what waits behind them."""
        with self._intake:
            behind: list[Delivery] = []
            with self._lock:
                for turn in self._running:
                    if _names(spans, turn.item):
                        self._released.add(turn)
                        behind += self._turns.drop(turn.key)
            if behind:
                self._feed.unsend(self._consumer.name, spans_of(behind))
            return self._feed.release(self._consumer.name, spans, after_ns, reason)

    def _end(self, turn: Handled) -> None:
        with self._lock:
            self._turns.end(turn)
            self._running.pop(turn, None)
            self._released.discard(turn)

    # The end.

    def stop(self, error: BaseException | None = None) -> None:
        """Begin nothing more; what waits goes back at once. Told why, `outcome` may raise it."""
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self.stopping = True
        with self._intake, self._lock:
            back: list[Back] = [(delivery, None) for delivery in self._turns.clear()]
            wakes, self._sleepers = self._sleepers, []
            if self._later is not None:
                back = self._later + back
                self._later = []
        for wake in wakes:
            wake()
        name = self._consumer.name
        try:
            not_begun = [delivery for delivery, reason in back if reason is None]
            if not_begun:
                self._feed.unsend(name, spans_of(not_begun))
            for delivery, reason in back:
                if reason is not None:
                    self._feed.release(name, spans_of(delivery), None, reason)
            self._feed.leave_line(self._consumer.name)
        except (ConsumerClosed, StoreClosed, SubscriptionNotFound):
            log.debug("what was not handled is back already")
        self._feed.poke()

    def outcome(self) -> None:
        """Raise what ended the run, unless that was its consumer or its store being closed."""
        if self.error is not None and not isinstance(self.error, ConsumerClosed | StoreClosed):
            raise self.error

    def late(self) -> None:
        """Tell of handlers that are no longer waited for: what they have may time out."""
        with self._lock:
            running = 0 if self._abandoned else self._turns.running
            self._abandoned = True
        if running:
            log.warning(
                "%d handlers of consumer %r of subscription %r still run; nobody waits for them",
                running,
                self._consumer.name,
                self._consumer.subscription,
            )


def _reason(error: BaseException) -> str:
    """Return why a delivery goes back, for those who find it among the dead letters."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever a handler raised, its delivery goes back
        text = "an error that cannot tell what it is"
    return check_reason(f"{type(error).__name__}: {text}")


def _names(spans: list[Span], delivery: Delivery) -> bool:
    shard, lsn = delivery.id.shard_id, delivery.id.lsn
    return any(shard == of and first <= lsn < end for of, first, end in spans)


def check_handler(handle: object, on_error: object) -> None:
    if not callable(handle):
        raise TypeError(f"handle must be callable, not {type(handle).__name__}")
    if on_error is not None and not callable(on_error):
        raise TypeError(f"on_error must be callable, not {type(on_error).__name__}")
