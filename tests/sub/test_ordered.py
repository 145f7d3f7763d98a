"""Order by key where it is hard: what comes again, what is doomed behind it, who is told of it."""

from __future__ import annotations

import struct
from itertools import count

from hstreamlite._native import lib
from hstreamlite.sub.group import Group
from hstreamlite.sub.keytab import runs_of
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import ENDLESS, RetryPolicy

SECOND = 10**9


def group_of(
    keys: list[int], *consumers: str, max_unacked: int = 100, retry: RetryPolicy = ENDLESS
) -> Group:
    limits = Limits(ack_timeout_ns=30 * SECOND, max_unacked=max_unacked, retry=retry)
    group = Group("billing", limits, "ordered")
    group.add_shard(1, 1)
    group.offer(1, len(keys) + 1)
    group.describe(1, 1, struct.pack(f"<{len(keys)}Q", *keys))
    for consumer in consumers:
        group.attach(consumer)
    return group


def fetch(group: Group, consumer: str, most: int, now: int = 0) -> list[tuple[int, int]]:
    """Return (LSN, attempt) of what is handed out."""
    found = []
    for parcel in group.fetch_parcels(consumer, most, now):
        _, runs = group.confirm_parcel(parcel.lease, parcel.records, now)
        for run in runs_of(runs):
            found += [(run.first + at, run.attempt) for at in range(run.size)]
    group.check_invariants()
    return found


def test_what_comes_again_goes_before_what_is_new_when_the_window_is_full() -> None:
    group = group_of([1, 1, 2, 2, 1, 3], "a", "b", max_unacked=4)
    assert fetch(group, "a", 3) == [(1, 1), (2, 1), (3, 1)]
    assert fetch(group, "b", 1) == [(6, 1)]  # 4 and 5 wait for who has their keys
    assert group.release("a", 1, 2, 3, None, 0) == 1
    assert fetch(group, "a", 10) == [(2, 2)]


def test_a_doomed_record_is_acked_once_though_an_earlier_one_of_its_key_came_back() -> None:
    group = group_of([1, 1], "a", retry=RetryPolicy(max_attempts=2))
    fetch(group, "a", 2)
    group.release("a", 1, 2, 3, None, 0)
    assert fetch(group, "a", 2) == [(2, 2)]
    group.release("a", 1, 2, 3, None, 0)
    (doomed,) = group.doomed(10)
    assert doomed.first_lsn == 2
    group.release("a", 1, 1, 2, None, 0)  # between the look and the move
    assert group.is_doomed(1, 2, 3)
    assert group.ack_range(1, 2, 3).new == 1
    group.check_invariants()
    assert group.doomed(10) == ()
    assert (group.stats().waiting, group.stats().in_flight) == (1, 0)
    assert fetch(group, "a", 2) == [(1, 2)]


def test_each_consumer_is_told_of_the_records_that_it_holds() -> None:
    group = group_of([1, 2], "a", "b")
    fetch(group, "a", 2)
    group.release("a", 1, 1, 2, None, 0)
    assert [(of.consumer, of.unacked, of.oldest) for of in group.holdings()] == [
        ("a", 1, (1, 2)),
        ("b", 0, None),
    ]
    assert fetch(group, "b", 1) == [(1, 2)]
    assert [(of.consumer, of.oldest) for of in group.holdings()] == [("a", (1, 2)), ("b", (1, 1))]


def test_deadlines_are_extended_record_by_record() -> None:
    group = group_of([key + 1 for key in range(20)], "a", max_unacked=100)
    fetch(group, "a", 20)
    for lsn in range(1, 20):
        assert group.extend("a", 1, lsn, lsn + 1, (30 + lsn) * SECOND, SECOND) == 1
        group.check_invariants()
    for lsn in range(1, 21):
        group.tick((31 + lsn) * SECOND - 1)
        assert group.stats().in_flight == (20 - lsn if lsn > 1 else 19)


def test_what_was_only_reserved_is_not_counted_twice_when_its_key_is_taken_back() -> None:
    group = group_of([1] * 20, "a", max_unacked=7)
    fetch(group, "a", 6)
    assert [parcel.records for parcel in group.fetch_parcels("a", 10, 0)] == [1]
    group.tick(31 * SECOND)
    assert (group.lag().unacked, group.lag().backlog) == (6, 14)
    assert (group.stats().waiting, group.stats().in_flight) == (6, 0)


def test_who_leaves_while_memory_is_short_leaves_all_that_it_held_when_it_tries_again() -> None:
    for nth in count(1):
        group = group_of([0] * 300, "a", "b", max_unacked=300)
        assert len(fetch(group, "a", 100)) + len(fetch(group, "a", 200)) == 300
        lib.hsl_alloc_fail_at(nth)
        try:
            group.detach("a", 0)
        except MemoryError:
            assert group.detach("a", 0) > 0
        finally:
            missed = lib.hsl_alloc_count() < nth
            lib.hsl_alloc_fail_at(0)
        group.attach("c")
        assert fetch(group, "c", 1) == [(1, 2)]
        assert fetch(group, "b", 300) == [(lsn, 2) for lsn in range(2, 301)]
        if missed:
            break
    assert nth > 2
