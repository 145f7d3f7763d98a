"""Wherever a call is struck, by Ctrl-C or for want of memory, all it had in hand comes again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import sortedcontainers

import hstreamlite.sub
from hstreamlite.errors import ConsumerClosed
from hstreamlite.sub.limits import SECOND_NS, Limits
from hstreamlite.sub.retry import Backoff, RetryPolicy
from tests.struck import struck
from tests.sub.driven import MODES, Driven

TIMEOUT = 10 * SECOND_NS
FILES = {
    str(path)
    for package in (hstreamlite.sub, sortedcontainers)
    for path in Path(str(package.__file__)).parent.glob("*.py")
}
RETRY = RetryPolicy(max_attempts=9, backoff=Backoff(first=1.0, most=2.0))
LIMITS = {
    "notes": Limits(ack_timeout_ns=TIMEOUT),
    "slots": Limits(ack_timeout_ns=TIMEOUT, max_unacked_per_consumer=6, retry=RETRY),
}
CALLS: dict[str, Callable[[Driven], object]] = {
    "fetch": lambda it: it.take("b", 5, 1),
    "fetch again": lambda it: it.take("b", 5, 3 * SECOND_NS),
    "stand in line": lambda it: [it.take("b", most, 1, queue=True) for most in (99, 1)],
    "release": lambda it: it.group.release("a", 1, 2, 4, None, 1),
    "extend": lambda it: it.group.extend("a", 1, 2, 4, 2 * TIMEOUT, 1),
    "unsend": lambda it: it.group.unsend("a", 1, 3, 5, 1),
    "detach": lambda it: it.group.detach("a", 1),
    "expire": lambda it: it.group.tick(TIMEOUT + 1),
    "transaction": lambda it: it.group.held_by("a", 1, 2, 4),
    "store": lambda it: it.group.delta(),
    "trim": lambda it: it.group.pass_edge(1, 4),
}


def at_work(limits: Limits) -> Callable[[str], Driven]:
    def driven(mode: str) -> Driven:
        """Ten records: a and b have some, one is acked, and two wait for b again."""
        it = Driven(mode, limits, lambda _, lsn: lsn % 3)
        it.group.add_shard(1, 1)
        it.group.offer(1, 11)
        it.group.attach("a")
        it.group.attach("b")
        it.take("a", 5, 0)
        it.take("b", 3, 0)
        it.group.ack(1, 1)
        it.group.release("b", 1, 6, 8, None, 0)
        return it

    return driven


def drain(it: Driven, now: int) -> list[int]:
    """Ack all that comes within some timeouts when a and b have left; return it."""
    for consumer in ("a", "b"):
        with suppress(ConsumerClosed):
            it.group.detach(consumer, now)
    it.group.attach("c", now)
    found = []
    for _ in range(3):
        while taken := it.take("c", 100, now):
            for shard, first, end, _ in taken:
                found += range(first, end)
                it.group.ack_range(shard, first, end)
        now += TIMEOUT + 2 * SECOND_NS
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of generators
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_struck_call_had_in_hand_comes_again(mode: str, call: str, limits: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        it = at_work(LIMITS[limits])(mode)
        goes_on = struck(at, lambda it=it: CALLS[call](it), FILES)
        found = drain(it, 5 * SECOND_NS)
        it.group.check_invariants()
        assert len(found) == len(set(found)), at
        assert it.group.position(1) == (11, 11), at
        assert set(found) >= set(range(4, 11)), at
    assert at > 1
