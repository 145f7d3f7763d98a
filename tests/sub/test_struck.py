"""A signal's handler may raise amid any call of a consumer that comes or goes: so it can again.

Whatever the call left, those who are there have numbers of their own and get every record.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest

from hstreamlite.errors import ConsumerClosed, ConsumerExists
from hstreamlite.sub.limits import SECOND_NS, Limits
from tests.struck import struck
from tests.sub.driven import MODES, Driven
from tests.sub.test_mending import FILES

LATER = 20 * SECOND_NS


def with_room_for(mode: str) -> Driven:
    """Consumers that came and went, so that there are numbers to be had again."""
    it = Driven(mode, Limits(ack_timeout_ns=10 * SECOND_NS, max_unacked_bytes=1 << 20))
    it.group.add_shard(1, 1)
    it.group.offer(1, 31)
    for name in ("ada", "bob", "cyd"):
        it.group.attach(name)
        it.take(name, 1, 0)
    it.group.detach("ada", 0)
    it.group.detach("bob", 0)
    return it


def check(it: Driven, *names: str) -> None:
    """All of them are there, told apart, and get what there is between them."""
    group = it.group
    numbers = {name: group.hatch_number(name) for name in names}
    assert len(set(numbers.values())) == len(names), numbers
    group.check_invariants()
    group.tick(LATER)
    taken: dict[str, int] = {}
    while got := {name: it.take(name, 1, LATER) for name in names}:
        if not any(got.values()):
            break
        for name, runs in got.items():
            for shard, first, end, _ in runs:
                assert group.held_by(name, shard, first, end)
                taken[name] = taken.get(name, 0) + end - first
    assert sum(taken.values()) == 30
    assert {holding.consumer: holding.unacked for holding in group.holdings()} == taken


@pytest.mark.parametrize("mode", MODES)
def test_a_consumer_that_was_interrupted_as_it_came_can_come_again(mode: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        it = with_room_for(mode)
        goes_on = struck(at, partial(it.group.attach, "dan"), FILES)
        with suppress(ConsumerExists):
            it.group.attach("dan")
        it.group.attach("eve")
        check(it, "cyd", "dan", "eve")
    assert at > 5


@pytest.mark.parametrize("mode", MODES)
def test_a_consumer_that_was_interrupted_as_it_left_can_leave_again(mode: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        it = with_room_for(mode)
        it.group.attach("dan")
        it.group.attach("eve")
        goes_on = struck(at, partial(it.group.detach, "dan", 0), FILES)
        with suppress(ConsumerClosed):
            it.group.detach("dan", 0)
        it.group.attach("dan")
        it.group.attach("fay")
        check(it, "cyd", "dan", "eve", "fay")
    assert at > 5
