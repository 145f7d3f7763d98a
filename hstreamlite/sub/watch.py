"""Watches a group for standstill: who has gone quiet, since when, and when to complain of it.

A group stands still while there is work for it (records to deliver) and nobody is delivered
anything and nobody acks. Acks take no lock, so they are seen by looking: the shell tells what has
been acked so far now and then, and times are as fine as that. Pure: the time is an argument.
"""

from dataclasses import dataclass

from hstreamlite.sub.effects import ConsumerStats, Holding
from hstreamlite.sub.limits import SECOND_NS
from hstreamlite.sub.names import Names

REPEAT = 10
"""A standstill that lasts is complained of again after so many times the first delay."""
_LATE_NS = 1_000_000_000


@dataclass(slots=True)
class _Activity:
    asked_ns: int
    acked_ns: int
    acks: int = 0


class Watch:
    """When each consumer of one group did what, and since when the group has stood still."""

    def __init__(self, now: int) -> None:
        self._consumers: dict[str, _Activity] = {}
        self._done = -1
        self._moved_ns = now
        self._complain_ns: int | None = None

    def attach(self, consumer: str, now: int) -> None:
        self._consumers[consumer] = _Activity(now, now)
        if len(self._consumers) == 1:
            self.moved(now)

    def detach(self, consumer: str) -> None:
        self._consumers.pop(consumer, None)

    def asked(self, consumer: str, now: int) -> None:
        """Note that a consumer asks for records."""
        activity = self._consumers.get(consumer)
        if activity is not None:
            activity.asked_ns = max(activity.asked_ns, now)

    def acked(self, consumer: str, now: int) -> None:
        """Note that a consumer acks."""
        activity = self._consumers.get(consumer)
        if activity is not None:
            activity.acked_ns = now

    def moved(self, now: int) -> None:
        """Note that something was delivered, or that there was nothing to do."""
        self._moved_ns = max(self._moved_ns, now)
        self._complain_ns = None

    def look(self, now: int, done: int, acks: dict[str, int], *, work: bool) -> None:
        """Take in the records done so far, by all, and the acks of each consumer.

        ``work`` tells whether there is anything that should be delivered.
        """
        if done != self._done or not work:
            self._done = done
            self.moved(now)
        for consumer, count in acks.items():
            activity = self._consumers.get(consumer)
            if activity is not None and count != activity.acks:
                activity.acks = count
                activity.acked_ns = now

    def still_ns(self, now: int) -> int:
        """Return for how long the group has stood still."""
        return max(0, now - self._moved_ns)

    def complains(self, now: int, after_ns: int) -> bool:
        """Tell whether to complain now: once ``after_ns`` of standstill passed, then rarely."""
        at = self._moved_ns + after_ns if self._complain_ns is None else self._complain_ns
        if now < at:
            return False
        self._complain_ns = now + REPEAT * after_ns
        return True

    def survey(
        self,
        now: int,
        holdings: tuple[Holding, ...],
        blocked: str,
        patience_ns: int,
        names: Names,
    ) -> tuple[ConsumerStats, ...]:
        """Return how each consumer does; one that kept records, or those it should ask for, beyond
        ``patience_ns`` is stalled."""
        return tuple(
            self._stats(now, holding, blocked, patience_ns, names)
            for holding in holdings
            if holding.consumer in self._consumers
        )

    def _stats(
        self, now: int, holding: Holding, blocked: str, patience_ns: int, names: Names
    ) -> ConsumerStats:
        activity = self._consumers[holding.consumer]
        asked_ns, quiet_ns = now - activity.asked_ns, now - activity.acked_ns
        return ConsumerStats(
            name=holding.consumer,
            unacked=holding.unacked,
            oldest=names.id(*holding.oldest) if holding.oldest else "",
            since_asked=asked_ns / SECOND_NS,
            since_acked=quiet_ns / SECOND_NS,
            waiting=holding.waiting,
            stalled=_reason(now, (asked_ns, quiet_ns), holding, blocked, patience_ns, names),
            unacked_bytes=holding.bytes,
        )


def _reason(
    now: int,
    since: tuple[int, int],
    holding: Holding,
    blocked: str,
    patience_ns: int,
    names: Names,
) -> str:
    """Return why a consumer is stalled, or an empty text; `since` it asked and acked."""
    asked_ns, quiet_ns = since
    due_ns, oldest = holding.due_ns, holding.oldest
    if due_ns is not None and oldest is not None and due_ns - now <= patience_ns:
        return (
            f"holds {holding.unacked} records, some beyond half of the ack timeout: "
            f"oldest unacked id {names.told(*oldest)}"
        )
    if due_ns is not None and oldest is not None and quiet_ns >= _LATE_NS:
        held_ns = 2 * patience_ns - (due_ns - now)
        if holding.blocks and held_ns >= _LATE_NS:
            return f"holds up the group: {blocked}"
        if holding.full and held_ns >= _LATE_NS:
            return f"its {holding.full}: oldest unacked id {names.told(*oldest)}"
    if not holding.could_take:
        return ""
    if holding.waiting:
        return "waits in line, and takes nothing when called" if asked_ns > _LATE_NS else ""
    if not holding.unacked and asked_ns >= patience_ns:
        return "asks for no records while there are some"
    return ""
