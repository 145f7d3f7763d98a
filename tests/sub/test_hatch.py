"""The hatch: new records are taken there as `fetch` would give them, while nothing is undecided."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hstreamlite._native import fast
from hstreamlite.sub.effects import Doomed
from hstreamlite.sub.group import Group
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import RetryPolicy
from tests.sub.taking import collecting, taken

TIMEOUT = 1_000_000
GATE = fast.AckGate()


def group(
    *, most: int = 100, span: int = 1_000, per_consumer: int = 0, retry: int = 0, tail: int = 200
) -> Group:
    made = Group(
        "billing",
        Limits(
            ack_timeout_ns=TIMEOUT,
            max_unacked=most,
            max_unacked_per_consumer=per_consumer,
            span_records=span,
            retry=RetryPolicy(max_attempts=retry),
        ),
    )
    made.add_shard(1, 1)
    made.offer(1, tail)
    made.attach("a")
    made.attach("b")
    return made


def fetch(of: Group, consumer: str, count: int, now: int = 0) -> list[tuple[int, int, int]]:
    got = of.fetch(consumer, count, now, queue=True)
    for part in got:
        assert of.confirm(part.lease, part.end_lsn, now) == (part.first_lsn, part.end_lsn)
    return [(part.first_lsn, part.end_lsn, part.attempt) for part in got]


def take(of: Group, consumer: str, count: int, now: int = 0) -> tuple[int, int] | None:
    hatch = of.hatch()
    assert isinstance(hatch, fast.Hatch)
    return taken(hatch, GATE, 1, 1_000, count, of.hatch_number(consumer), now)


def opened(of: Group) -> Group:
    """Let consumer a fetch record 1, which opens the hatch."""
    assert fetch(of, "a", 1) == [(1, 2, 1)]
    return of


def test_what_is_taken_is_what_comes_next() -> None:
    of = opened(group())
    assert take(of, "a", 5) == (2, 7)
    assert take(of, "b", 5) == (7, 12)
    assert fetch(of, "b", 2) == [(12, 14, 1)]
    assert of.held_by("a", 1, 1, 7)
    assert of.held_by("b", 1, 7, 14)
    of.check_invariants()


def test_it_is_shut_until_somebody_has_fetched() -> None:
    assert take(group(), "a", 5) is None


def test_nothing_is_taken_beyond_a_limit() -> None:
    assert take(opened(group(most=4)), "a", 10) == (2, 5)
    assert take(opened(group(tail=4)), "a", 10) == (2, 4)
    of = opened(group(span=5))
    assert of.ack(1, 1)
    assert take(of, "a", 10) == (2, 7)
    assert take(of, "a", 10) is None


def test_only_what_the_consumer_has_read_is_taken() -> None:
    of = opened(group())
    hatch = of.hatch()
    assert isinstance(hatch, fast.Hatch)
    number = of.hatch_number("a")
    assert taken(hatch, GATE, 3, 9, 1, number, 0) is None
    assert taken(hatch, GATE, 1, 2, 1, number, 0) is None
    assert taken(hatch, GATE, 1, 4, 3, number, 0) is None, "a fetch would give three"
    assert taken(hatch, GATE, 1, 4, 2, number, 0) == (2, 4)


def test_what_is_kept_is_left_unless_nothing_is_behind_it() -> None:
    hatch = opened(group(tail=9)).hatch()
    assert isinstance(hatch, fast.Hatch)
    assert taken(hatch, GATE, 1, 8, 2, 1, 0, keep=4) == (2, 4)
    assert taken(hatch, GATE, 1, 8, 2, 1, 0, keep=3) is None
    assert taken(hatch, GATE, 1, 8, 2, 1, 0, keep=99) is None
    assert taken(hatch, GATE, 1, 9, 2, 1, 0, keep=99) == (4, 6), "there are no others to be read"


def test_who_comes_gets_the_number_of_one_who_left_and_nothing_of_what_that_one_had() -> None:
    of = opened(group())
    assert take(of, "a", 5) == (2, 7)
    numbers = {of.hatch_number("b")}
    for turn in range(50):
        name = f"w{turn}"
        of.attach(name)
        numbers.add(of.hatch_number(name))
        assert fetch(of, name, 1)
        take(of, name, 1)
        of.check_invariants()
        of.detach(name, 0)
    assert len(numbers) == 2
    assert of.held_by("a", 1, 1, 7)
    of.detach("a", 0)
    of.attach("c")
    assert of.hatch_number("c") < 4
    assert not of.held_by("c", 1, 1, 7)
    of.check_invariants()


def test_a_consumer_that_left_takes_nothing() -> None:
    of = opened(group())
    hatch = of.hatch()
    assert isinstance(hatch, fast.Hatch)
    gate = fast.AckGate()
    gate.leave()
    assert taken(hatch, gate, 1, 9, 1, 1, 0) is None
    gate = fast.AckGate(behind := fast.AckGate())
    behind.close()
    assert taken(hatch, gate, 1, 9, 1, 1, 0) is None


SHUTTING: dict[str, Callable[[Group], object]] = {
    "release": lambda of: of.release("a", 1, 1, 2, 0, 0),
    "delayed": lambda of: of.release("a", 1, 1, 2, 5, 0),
    "detach": lambda of: of.detach("a", 0),
    "pause": lambda of: of.pause(),
    "seek": lambda of: of.seek({1: 1}),
    "gap": lambda of: of.gap(1, 50),
    "attach": lambda of: of.attach("c", 0, TIMEOUT),
    "shut": lambda of: of.shut(shut=True),
    "wait": lambda of: (fetch(of, "b", 1_000), fetch(of, "b", 1)),
}


@pytest.mark.parametrize("what", SHUTTING)
def test_it_is_shut_when_there_is_something_to_decide(what: str) -> None:
    of = opened(group())
    SHUTTING[what](of)
    assert take(of, "b", 1) is None
    of.check_invariants()


def test_it_stays_shut_while_it_has_to() -> None:
    of = opened(group())
    of.shut(shut=True)
    assert fetch(of, "a", 1)
    assert take(of, "a", 1) is None
    of.shut(shut=False)
    assert fetch(of, "a", 1)
    assert take(of, "a", 1)


def test_a_deadline_that_passed_shuts_it() -> None:
    of = opened(group())
    assert take(of, "a", 1, now=TIMEOUT - 1) == (2, 3)
    assert take(of, "a", 1, now=TIMEOUT) is None
    of.ack(1, 1)
    assert take(of, "a", 1, now=TIMEOUT) == (3, 4)
    assert take(of, "a", 1, now=2 * TIMEOUT - 1) is None


def test_a_deadline_that_somebody_touched_shuts_it_too() -> None:
    of = opened(group())
    of.ack(1, 1)
    assert take(of, "a", 1) == (2, 3)
    assert of.release("b", 1, 2, 3, 0, 0) == 0, "it is at another"
    assert take(of, "a", 1, now=TIMEOUT) is None


def test_what_was_taken_is_counted_when_all_was_done_before() -> None:
    of = opened(group(most=3))
    of.ack(1, 1)
    assert of.stats().in_flight == 0
    assert take(of, "a", 1) is None, "somebody looked"
    assert fetch(of, "a", 1) == [(2, 3, 1)]
    assert take(of, "a", 2) == (3, 5)
    assert fetch(of, "a", 1) == []
    of.check_invariants()


def test_the_end_of_a_lease_of_a_consumer_shuts_it() -> None:
    of = group()
    of.attach("c", 0, TIMEOUT)
    opened(of)
    of.ack(1, 1)
    assert take(of, "a", 1, now=TIMEOUT - 1)
    assert take(of, "a", 1, now=TIMEOUT) is None


def test_what_was_taken_comes_again_after_its_deadline() -> None:
    of = opened(group())
    of.ack(1, 1)
    assert take(of, "a", 4, now=10) == (2, 6)
    assert take(of, "a", 1, now=11) == (6, 7)
    of.ack(1, 3)
    assert of.next_deadline() == TIMEOUT + 10
    of.tick(TIMEOUT + 9)
    assert of.held_by("a", 1, 2, 3)
    assert fetch(of, "b", 10, TIMEOUT + 10)[:2] == [(2, 3, 2), (4, 6, 2)]
    of.check_invariants()


def test_what_was_taken_is_released_extended_doomed_and_handed_back() -> None:
    of = opened(group(retry=2))
    assert take(of, "a", 9) == (2, 11)
    assert of.release("a", 1, 4, 6, 0, 0) == 2
    assert of.extend("a", 1, 6, 8, 2 * TIMEOUT, 0) == 2
    assert fetch(of, "b", 2) == [(4, 6, 2)]
    assert of.release("b", 1, 4, 6, 0, 0, "poison") == 2
    assert of.doomed(10) == (Doomed(1, 4, 6, 2, "poison"),)
    of.tick(TIMEOUT)
    assert of.held_by("a", 1, 6, 8)
    assert not of.held_by("a", 1, 2, 3)
    assert of.detach("a", TIMEOUT) == 2
    of.check_invariants()


def test_stats_tell_what_was_taken() -> None:
    of = opened(group())
    take(of, "b", 5, now=7)
    of.ack(1, 3)
    (held,) = [holding for holding in of.holdings() if holding.consumer == "b"]
    assert (held.unacked, held.oldest, held.due_ns) == (4, (1, 2), TIMEOUT + 7)
    assert of.stats().in_flight == 5


def test_what_was_taken_counts_where_consumers_wait_their_turn() -> None:
    of = opened(group(tail=12, most=1_000))
    assert take(of, "a", 10) == (2, 12)
    of.took("a", 10)
    assert fetch(of, "a", 1) == fetch(of, "b", 1) == []
    of.offer(1, 13)
    assert of.next_in_line(0) == "b"


def test_notes_of_what_is_done_are_forgotten() -> None:
    of = opened(group(tail=100_000))
    hatch = of.hatch()
    assert isinstance(hatch, fast.Hatch)
    of.ack(1, 1)
    for lsn in range(2, 1_000):
        assert take(of, "a", 1, now=lsn) == (lsn, lsn + 1)
        of.ack(1, lsn)
    assert len(hatch.notes(0, 1 << 60, 0, False)) <= 2


def test_there_is_a_note_of_each_however_many() -> None:
    of = opened(group(most=1_000, span=1_000, tail=1_000))
    hatch = of.hatch()
    assert isinstance(hatch, fast.Hatch)
    of.ack(1, 1)
    low = 2
    for end in (3, 100, 70, 700, 900, 850):
        for lsn in range(of.position(1)[1], end):
            assert take(of, "ab"[lsn % 2], 1, now=lsn) == (lsn, lsn + 1)
        assert [note[:2] for note in hatch.notes(0, 1 << 60, 0, False)] == [
            (lsn, lsn + 1) for lsn in range(low, of.position(1)[1])
        ]
        stop = low + (end - low) // 2
        for lsn in range(low, max(low, stop)):
            of.ack(1, lsn)
        low = max(low, stop)
        hatch.settle(low)
    (held,) = hatch.notes(low + 7, low + 8, 0, False)
    assert held[:2] == (low + 7, low + 8)
    of.seek({1: 1})
    assert hatch.notes(0, 1 << 60, 0, False) == []


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize("out", [lambda h: h.due(TIMEOUT), lambda h: h.notes(1, 252, 0, True)])
def test_no_note_is_lost_to_what_runs_while_notes_are_told(
    out: Callable[[fast.Hatch], list[tuple[int, ...]]],
) -> None:
    fired = 0
    for objects in range(1, 140, 3):
        of = opened(group(most=10_000, tail=1_000))
        hatch = of.hatch()
        assert isinstance(hatch, fast.Hatch)
        for n in range(100):
            take(of, "ab"[n % 2], 5, 0 if n < 50 else 10)
        ran = []

        def others(of: Group = of, hatch: fast.Hatch = hatch, ran: list[int] = ran) -> None:
            of.ack_range(1, 1, 150)
            hatch.settle(150)
            ran.append(1)

        with collecting(others, objects):
            told = out(hatch)
        fired += len(ran)
        told += hatch.notes(1, 10_000, 0, False)
        known = {lsn for first, end, *_ in told for lsn in range(first, end)}
        assert known >= set(range(150, 502))
    assert fired > 5


def test_there_is_none_where_consumers_have_limits_or_shards_take_turns() -> None:
    assert group(per_consumer=5).hatch() is None
    of = group()
    of.add_shard(2, 1)
    assert of.hatch() is None
