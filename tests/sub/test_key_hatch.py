"""The hatch of mode "ordered": what is taken there, and when nothing is."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from hstreamlite._native import fast
from hstreamlite.sub.group import Group
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import RetryPolicy
from tests.sub.taking import excerpt
from tests.sub.test_ordered import SECOND, fetch, group_of

TIMEOUT = 30 * SECOND
GATE = fast.AckGate()
KEYS = [9, 7, 7, 8, 7, 6, 5, 4, 3, 2]


def add(of: Group, first: int, end: int, keys: list[int] = KEYS) -> bool:
    """Give the hatch the records from first to end."""
    hatch = of.hatch()
    assert isinstance(hatch, fast.KeyHatch)
    hashes = struct.pack(f"<{end - first}Q", *keys[first - 1 : end - 1])
    return hatch.add(excerpt(end - 1).rest(first - 1), first, hashes)


def take(of: Group, consumer: str, most: int, now: int = 0, keep: int = 0) -> list[tuple[int, int]]:
    """Return (LSN, attempt) of what is taken."""
    hatch = of.hatch()
    assert isinstance(hatch, fast.KeyHatch)
    batch = hatch.take(GATE, keep, most, of.hatch_number(consumer), now)
    of.check_invariants()
    return [(delivery.id.lsn, delivery.attempt) for delivery in batch or ()]


def opened(of: Group | None = None) -> Group:
    """Let consumer a fetch record 1, which opens the hatch, with all others there to be taken."""
    of = of or group_of(KEYS, "a", "b")
    assert fetch(of, "a", 1) == [(1, 1)]
    assert add(of, 2, len(KEYS) + 1)
    return of


def test_what_is_taken_follows_the_keys() -> None:
    of = opened()
    assert take(of, "a", 2) == [(2, 1), (3, 1)]
    assert take(of, "b", 2) == [(4, 1), (6, 1)], "5 is of the key that a has"
    assert take(of, "a", 2) == [(5, 1), (7, 1)]
    assert of.held_by("a", 1, 1, 4)
    assert of.held_by("b", 1, 4, 5)
    assert of.stats().in_flight == 7


def test_what_is_kept_is_left_unless_nothing_is_behind_it() -> None:
    of = group_of([*KEYS, 1, 1], "a")
    assert fetch(of, "a", 1) == [(1, 1)]
    assert add(of, 2, len(KEYS) + 1)
    assert take(of, "a", 2, keep=7) == [(2, 1), (3, 1)]
    assert take(of, "a", 2, keep=6) == []
    assert take(of, "a", 2, keep=5) == [(4, 1), (5, 1)]
    assert add(of, len(KEYS) + 1, len(KEYS) + 3, [*KEYS, 1, 1])
    assert take(of, "a", 2, keep=99) == [(6, 1), (7, 1)], "there are no others to be read"


def test_what_comes_again_is_taken_when_the_hatch_is_open_again() -> None:
    of = opened()
    assert take(of, "b", 3) == [(2, 1), (3, 1), (4, 1)]
    assert of.release("b", 1, 2, 3, None, 0) == 1
    assert take(of, "a", 1) == [], "it is shut while something is decided"
    assert fetch(of, "a", 1) == [(2, 2)]
    assert take(of, "a", 2) == [(3, 2), (5, 1)]
    hatch = of.hatch()
    assert isinstance(hatch, fast.KeyHatch)
    assert (hatch.taken(), hatch.again()) == (5, 1)


def test_what_is_not_there_goes_back_to_the_group() -> None:
    of = group_of(KEYS, "a", "b")
    assert fetch(of, "a", 2) == [(1, 1), (2, 1)]
    assert fetch(of, "b", 1) == [(4, 1)]
    assert add(of, 6, 11)
    assert take(of, "a", 2) == [], "3 and 5 were read by nobody here"
    assert of.stats().in_flight == 3
    assert take(of, "b", 2) == [(6, 1), (7, 1)]
    assert fetch(of, "a", 2) == [(3, 1), (5, 1)]


def test_what_was_read_from_elsewhere_is_not_added() -> None:
    of = group_of(KEYS, "a", "b")
    fetch(of, "a", 1)
    assert add(of, 2, 5)
    assert not add(of, 4, 6), "4 is there"
    assert add(of, 6, 8)
    assert take(of, "a", 1) == [(2, 1)]
    hatch = of.hatch()
    assert isinstance(hatch, fast.KeyHatch)
    assert hatch.wants(GATE, 9, 0) == 8
    of.offer(1, 13)
    fetch(of, "a", 1)
    with pytest.raises(ValueError, match="hash of each"):
        hatch.add(excerpt(3), 8, b"")


def test_keys_are_told_with_what_is_added() -> None:
    of = group_of([9], "a", "b")
    of.offer(1, len(KEYS) + 1)
    assert fetch(of, "a", 1) == [(1, 1)]
    assert not add(of, 3, 4), "nobody knows the key of 2"
    assert add(of, 2, 11)
    assert take(of, "a", 9) == [(lsn, 1) for lsn in range(2, 11)]


SHUTTING: dict[str, Callable[[Group], object]] = {
    "release": lambda of: of.release("a", 1, 1, 2, 0, 0),
    "delayed": lambda of: of.release("a", 1, 1, 2, 5, 0),
    "detach": lambda of: of.detach("a", 0),
    "pause": lambda of: of.pause(),
    "seek": lambda of: of.seek({1: 1}),
    "gap": lambda of: of.gap(1, 50),
    "attach": lambda of: of.attach("c", 0, TIMEOUT),
    "shut": lambda of: of.shut(shut=True),
    "time out": lambda of: of.tick(TIMEOUT),
    "wait": lambda of: (fetch(of, "b", 100), of.fetch_parcels("b", 1, 0, queue=True)),
}


@pytest.mark.parametrize("what", SHUTTING)
def test_it_is_shut_when_there_is_something_to_decide(what: str) -> None:
    of = opened()
    SHUTTING[what](of)
    assert take(of, "b", 1) == []


def test_a_deadline_or_the_end_of_a_delay_that_passed_shuts_it() -> None:
    of = opened()
    assert take(of, "b", 1, TIMEOUT - 1) == [(2, 1)]
    assert take(of, "b", 1, TIMEOUT) == []
    of.ack(1, 1)
    assert take(of, "b", 1, TIMEOUT) == [(3, 1)]
    of.release("b", 1, 2, 3, 5, TIMEOUT)
    fetch(of, "b", 1, TIMEOUT)
    assert take(of, "b", 1, TIMEOUT + 4)
    assert take(of, "b", 1, TIMEOUT + 5) == []


def test_nothing_is_taken_beyond_a_limit() -> None:
    assert take(opened(group_of(KEYS, "a", max_unacked=3)), "a", 9) == [(2, 1), (3, 1)]
    of = opened(group_of(KEYS, "a", max_unacked=3))
    of.ack(1, 1)
    assert len(take(of, "a", 9)) == 3
    assert take(of, "a", 9) == []


def test_there_is_none_where_consumers_have_limits_or_shards_take_turns() -> None:
    limits = Limits(max_unacked_per_consumer=5, retry=RetryPolicy(max_attempts=2))
    narrow = Group("billing", limits, "ordered")
    narrow.add_shard(1, 1)
    assert narrow.hatch() is None
    of = group_of(KEYS, "a")
    of.add_shard(2, 1)
    assert of.hatch() is None
    assert Group("billing", Limits(), "sharded").hatch() is None
