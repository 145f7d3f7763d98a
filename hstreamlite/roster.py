"""The consumers of one subscription at work: who joins and leaves, and who is lost without a word.

What a consumer took ahead and nobody has seen it returns from wherever it stops, even from the
collector of garbage; it is taken back when somebody holds the lock next.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet, ref

from hstreamlite._native import fast
from hstreamlite.config import CONSUMERS_MAX
from hstreamlite.errors import ConsumerClosed
from hstreamlite.spans import Span

if TYPE_CHECKING:
    from hstreamlite.feed import Feed

log = logging.getLogger("hstreamlite")


class Taker(Protocol):
    """What is known here of a consumer that takes records ahead."""

    def _give_back(self) -> None:
        """`Roster.return_unseen` what was taken ahead."""


class Roster:
    """Tells the group and the sentry of one subscription who is there."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.count = 0
        self.takers: WeakSet[Taker] = WeakSet()
        self._lost: deque[ref[fast.AckGate]] = deque()
        self._unseen: deque[tuple[str, fast.AckGate, int, list[Span]]] = deque()

    def attach(
        self,
        consumer: str,
        gate: fast.AckGate,
        lease_ns: int | None = None,
        *,
        max_unacked: int = 0,
        max_unacked_bytes: int = 0,
    ) -> None:
        """Add a consumer, whose deliveries ack through the gate; it renews its lease if it has one.

        After its lease has run out its acks count as any ack does that comes late. Windows of 0 are
        those of the subscription.
        """
        with self._feed.lock:
            self._feed.check()
            now = self._feed.now()
            self._mind_gone(now)
            if self.count >= CONSUMERS_MAX:
                raise ValueError(f"a subscription has at most {CONSUMERS_MAX} consumers")
            self._feed.group.attach(
                consumer,
                now,
                lease_ns,
                max_unacked=max_unacked,
                max_unacked_bytes=max_unacked_bytes,
            )
            self._feed.sentry.attach(consumer, gate, now, self._note_lost)
            self.count += 1
        self._feed.engine.wake()

    def renew(self, consumer: str, gate: fast.AckGate) -> None:
        """Note that the consumer with this gate is still there; ConsumerClosed if its lease has run
        out, whoever has its name by now."""
        with self._feed.lock:
            self._feed.check()
            now = self._feed.now()
            self._mind_gone(now)
            self.check_known(consumer, gate)
            self._feed.group.renew(consumer, now)

    def check_known(self, consumer: str, gate: fast.AckGate) -> None:
        """ConsumerClosed unless the consumer with this gate is attached. Takes no lock."""
        if not self._feed.sentry.knows(consumer, gate):
            raise ConsumerClosed(self._feed.state.name, consumer)

    def detach(self, consumer: str, gate: fast.AckGate) -> None:
        """Hand back what the consumer holds, at once, and store progress.

        Nothing happens if the consumer with this gate is gone, whoever has its name by now.
        """
        if self._feed.engine.forked:
            return
        with self._feed.lock:
            if self._feed.deleted or self._feed.engine.closed:
                return
            now = self._feed.now()
            self._mind_gone(now)
            if not self._feed.sentry.knows(consumer, gate):
                return
            self._mind_unseen(now)
            self._feed.group.detach(consumer, now)
            self._forget(consumer)
            self._feed._mind_doomed()
        self._feed.progress.store(may_block=True)
        self._feed.journal.poke()

    def _forget(self, consumer: str) -> None:
        self._feed.sentry.detach(consumer)
        self.count -= 1
        if not self.count:
            self._feed.ahead.clear()

    def mind(self, now: int) -> None:
        """Take note of who is gone and of what nobody has seen. Lock held."""
        self._mind_gone(now)
        self._mind_unseen(now)

    def _mind_gone(self, now: int) -> None:
        """Take note of consumers that are lost, or whose leases ran out. Lock held."""
        while self._lost:
            lost = self._feed.sentry.lost(self._lost.popleft())
            if lost is None:
                continue
            with suppress(ConsumerClosed):  # it was struck while it left
                self._feed.group.detach(lost, now)
            self._let_go(lost, "was dropped without being closed")
        for consumer in self._feed.group.gone(now):
            self._let_go(consumer, "was not heard of for as long as its lease")

    def _note_lost(self, gate: ref[fast.AckGate]) -> None:
        """Have a consumer detached that nobody can close any more.

        Takes no lock: it is the collector of garbage that calls, at any moment.
        """
        self._lost.append(gate)
        self._feed.engine.wake()

    def _let_go(self, consumer: str, why: str) -> None:
        self._forget(consumer)
        log.warning(
            "consumer %r of subscription %r %s; others get what it held",
            consumer,
            self._feed.state.name,
            why,
        )
        self._feed._mind_doomed()
        self._feed.journal.poke()

    def return_unseen(
        self, consumer: str, gate: fast.AckGate, seeks: int, spans: list[Span]
    ) -> None:
        """Have taken back what was taken ahead, at such a count of seeks, and nobody has seen.

        Takes no lock: it may be the collector of garbage that calls, at any moment.
        """
        self._unseen.append((consumer, gate, seeks, spans))
        self._feed.engine.wake()

    def _mind_unseen(self, now: int) -> None:
        """Take back what nobody has seen, after `_mind_gone`: that was no attempt. Lock held."""
        found = False
        while self._unseen:
            consumer, gate, seeks, spans = self._unseen.popleft()
            if seeks != self._feed.seeks or not self._feed.sentry.knows(consumer, gate):
                continue
            self._feed._unsend(consumer, spans, now)
            found = True
        if found:
            self._feed.journal.poke()

    def take_back_unseen(self) -> None:
        """Take back what any consumer has taken ahead."""
        with self._feed.lock:
            takers = list(self.takers)
        for taker in takers:
            taker._give_back()
        with self._feed.lock:
            if not self._feed.deleted:
                now = self._feed.now()
                self.mind(now)
