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
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from hstreamlite.config import check_reason, check_seconds
from hstreamlite.errors import (
    ConsumerClosed,
    HStreamError,
    StoreClosed,
    SubscriptionNotFound,
)
from hstreamlite.feed import DeliveryBatch, Feed, Span, spans_of
from hstreamlite.records import Delivery
from hstreamlite.sub.turns import Turn, Turns

log = logging.getLogger("hstreamlite")

WIDTH_MAX: Final = 1000
DRAIN_SECONDS_MAX: Final = 1e6
_AHEAD_NS: Final = 50_000_000
"""What is taken ahead should begin within this time, so that other consumers get their share."""

Handled: TypeAlias = Turn[Delivery]
Back: TypeAlias = tuple[Delivery, int | None, str]
"""A delivery to give back, after how many ns (None leaves that to the subscription), and why."""
OnError: TypeAlias = Callable[[Delivery, Any], object]
"""What is told of a delivery and the exception that its handler raised."""

inside: ContextVar[object] = ContextVar("inside", default=None)
"""The run in whose handler this is: that one must not be waited for."""


class Holder(Protocol):
    """What is known here of a consumer."""

    name: str
    subscription: str
    _feed: Feed
    _prefetch: int

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
        env = self._feed.engine.env
        self._clock = env.clock
        self._intake = env.threads.lock()
        self._lock = env.threads.lock()
        self._turns: Turns[Delivery] = Turns(by_key=self._feed.state.mode == "ordered")
        self._running: set[Handled] = set()
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
                self._running.add(turn)
            if self._held(turn):
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
        """Fetch, as `Feed.fetch`, and let what comes wait for its turn."""
        with self._intake:
            if self.stopping:
                raise ConsumerClosed(self._consumer.subscription, self._consumer.name)
            batch = self._consumer._fetch(room, may_block=may_block)
            if batch:
                with self._lock:
                    for delivery in batch:
                        if self._later is not None and delivery.key in self._late_keys:
                            self._later.append((delivery, 0, ""))
                        else:
                            self._turns.add(delivery, delivery.id.lsn, delivery.key)
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
        self._later.append((turn.item, None, reason))
        if turn.key is not None:
            self._late_keys.add(turn.key)
            self._later += [(delivery, 0, "") for delivery in self._turns.drop(turn.key)]

    def release(self, spans: list[Span], after_ns: int | None, reason: str) -> int:
        """Give back deliveries, and with them what waits behind them."""
        with self._intake:
            behind: list[Delivery] = []
            with self._lock:
                for turn in self._running:
                    if _names(spans, turn.item):
                        self._released.add(turn)
                        behind += self._turns.drop(turn.key)
            count = self._feed.release(self._consumer.name, spans, after_ns, reason)
            if behind:
                self._feed.release(self._consumer.name, spans_of(behind), 0)
        return count

    def _end(self, turn: Handled) -> None:
        with self._lock:
            self._turns.end(turn)
            self._running.discard(turn)
            self._released.discard(turn)

    # The end.

    def stop(self, error: BaseException | None = None) -> None:
        """Begin nothing more; what waits goes back at once. Told why, `outcome` may raise it."""
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self.stopping = True
        with self._intake, self._lock:
            back: list[Back] = [(delivery, 0, "") for delivery in self._turns.clear()]
            wakes, self._sleepers = self._sleepers, []
            if self._later is not None:
                back = self._later + back
                self._later = []
        for wake in wakes:
            wake()
        try:
            for delivery, after_ns, reason in back:
                self._feed.release(self._consumer.name, spans_of(delivery), after_ns, reason)
            self._feed.leave_line(self._consumer.name)
        except (ConsumerClosed, StoreClosed, SubscriptionNotFound):
            log.debug("what was not handled is back already")
        self._feed.journal.poke()

    def outcome(self) -> None:
        """Raise what ended the run, unless that was its consumer or its store being closed."""
        if self.error is not None and not isinstance(self.error, ConsumerClosed | StoreClosed):
            raise self.error

    def late(self) -> None:
        """Tell of handlers that are no longer waited for."""
        with self._lock:
            running = self._turns.running
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
