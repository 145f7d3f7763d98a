"""Keeps watch over one subscription at work: says in `stats()` and in the log when it stands still.

`sub.watch` decides; this brings it what it needs, under the lock of the subscription. What is acked
one by one or as a batch, or taken at the hatch, passes only the gates of the consumers, so that
these are asked now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final
from weakref import ref

from hstreamlite._native import fast
from hstreamlite.sub.effects import GroupStats, Holding
from hstreamlite.sub.group import Group
from hstreamlite.sub.names import Names
from hstreamlite.sub.watch import Watch

log = logging.getLogger("hstreamlite")

_EVERY_NS = 250_000_000
_NOTHING_TO_DO: Final = frozenset(["no consumers", "no records", "paused"])


class Sentry:
    """Watches the group of one subscription.

    With its lock held, but for `asked`, `acked` and `moved`, which only note a time.
    """

    def __init__(self, group: Group, names: Names, warn_after: float, now: int) -> None:
        self._group = group
        self._names = names
        self._watch = Watch(now)
        self._warn_ns = int(warn_after * 1e9)
        self._gates: dict[str, ref[fast.AckGate]] = {}
        self._looked_ns = now
        self._took_ns = 0
        self.asked = self._watch.asked
        self.acked = self._watch.acked
        self.moved = self._watch.moved

    def attach(
        self,
        consumer: str,
        gate: fast.AckGate,
        now: int,
        lost: Callable[[ref[fast.AckGate]], None],
    ) -> None:
        """Watch a consumer; `lost` is told when it is collected, though it is attached."""
        self._gates[consumer] = ref(gate, lost)
        self._watch.attach(consumer, now)

    def knows(self, consumer: str, gate: fast.AckGate) -> bool:
        """Tell whether the attached consumer of this name is the one with the gate."""
        return self._gate(consumer) is gate

    def lost(self, gate: ref[fast.AckGate]) -> str | None:
        """Return the attached consumer of a gate that was collected."""
        return next((name for name, own in self._gates.items() if own is gate), None)

    def _gate(self, consumer: str) -> fast.AckGate | None:
        gate = self._gates.get(consumer)
        return None if gate is None else gate()

    def taken(self, consumer: str) -> int:
        """Return how many records a consumer took at the hatch since the last call."""
        gate = self._gate(consumer)
        return 0 if gate is None else gate.taken()

    def detach(self, consumer: str) -> None:
        gate = self._gate(consumer)
        if gate is not None:
            gate.leave()
        self._gates.pop(consumer, None)
        self._watch.detach(consumer)

    def tick(self, now: int) -> None:
        """Look at times, and warn of a standstill."""
        if not self._gates or now - self._looked_ns < _EVERY_NS:
            return
        blocked = self._look(now)
        still = self._warn_ns and blocked not in _NOTHING_TO_DO
        if still and self._watch.complains(now, self._warn_ns):
            self._warn(now)

    def _look(self, now: int) -> str:
        self._looked_ns = now
        blocked = self._group.blocked()
        gates = {consumer: own() for consumer, own in self._gates.items()}
        acks = {consumer: gate.acks() for consumer, gate in gates.items() if gate is not None}
        for consumer, gate in gates.items():
            if gate is not None:
                self._watch.asked(consumer, gate.took_ns())
        hatch = self._group.hatch()
        if hatch is not None and hatch.took_ns() > self._took_ns:
            self._took_ns = hatch.took_ns()
            self._watch.moved(self._took_ns)
        self._watch.look(now, self._group.done(), acks, work=blocked not in _NOTHING_TO_DO)
        return blocked

    def _warn(self, now: int) -> None:
        holder = _oldest_of(self._group.holdings())
        held = (
            f"oldest unacked id {self._names.told(*holder.oldest)} is at consumer "
            f"{holder.consumer!r}, which holds {holder.unacked}"
            if holder and holder.oldest
            else "nothing is unacked at a consumer"
        )
        log.warning(
            "subscription %r stands still: for %.0f s nothing was delivered or acked, and %d "
            "records wait (%s); %s",
            self._group.name,
            self._watch.still_ns(now) / 1e9,
            self._group.lag().backlog,
            self._group.blocked(self._names) or "no consumer takes them",
            held,
        )

    def stats(self, now: int) -> GroupStats:
        """Return the group's stats with those of its consumers."""
        self._look(now)
        stats = self._group.stats(self._names)
        return replace(
            stats,
            stalled=self._watch.still_ns(now) / 1e9,
            attached=self._watch.survey(
                now,
                self._group.holdings(),
                stats.blocked,
                self._group.limits.ack_timeout_ns // 2,
                self._names,
            ),
        )


def _oldest_of(holdings: Iterable[Holding]) -> Holding | None:
    """Return who holds what the group waits for, or else what falls due first."""
    holders = [holding for holding in holdings if holding.due_ns is not None]
    return min(holders, key=lambda h: (not h.blocks, h.due_ns or 0), default=None)
