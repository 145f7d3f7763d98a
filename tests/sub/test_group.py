"""Behaviour of the group that a sentence can state."""

import queue
import random
import re
import threading
from functools import partial
from typing import Any

import pytest

from hstreamlite._native import fast
from hstreamlite.errors import ConsumerClosed, ConsumerExists, UnknownRecord
from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.dispatch import TURN_NS, Line
from hstreamlite.sub.effects import Damaged, Gap
from hstreamlite.sub.group import Group
from hstreamlite.sub.leases import Slot
from hstreamlite.sub.limits import SECOND_NS, Limits
from hstreamlite.sub.retry import Backoff, RetryPolicy

TIMEOUT = SECOND_NS


def group_of(
    records: int = 1_000, *, consumers: tuple[str, ...] = ("a",), shards: int = 1, **limits: Any
) -> Group:
    group = Group("billing", Limits(ack_timeout_ns=TIMEOUT, **limits))
    for shard in range(1, shards + 1):
        group.add_shard(shard, 1)
        group.offer(shard, records + 1)
    for name in consumers:
        group.attach(name)
    return group


def deliver(group: Group, consumer: str, most: int, now: int = 0) -> list[tuple[int, int, int]]:
    got = group.fetch(consumer, most, now)
    for assigned in got:
        assert group.confirm(assigned.lease, assigned.end_lsn, now)
    return [(a.first_lsn, a.end_lsn, a.attempt) for a in got]


def restarted(group: Group, pieces: tuple[bytes, ...]) -> Group:
    progress = Progress()
    for piece in pieces:
        progress.apply(piece)
    again = Group(group.name, group.limits)
    again.restore(progress)
    return again


def test_a_consumer_that_leaves_hands_its_records_back_at_once() -> None:
    group = group_of(consumers=("a", "b"))
    deliver(group, "a", 10)
    group.ack_range(1, 3, 5)
    assert group.detach("a", 5) == 8
    assert deliver(group, "b", 12, 5) == [(1, 3, 2), (5, 11, 2), (11, 15, 1)]
    with pytest.raises(ConsumerClosed):
        group.fetch("a", 1, 5)


def test_a_name_is_taken_once() -> None:
    group = group_of()
    with pytest.raises(ConsumerExists):
        group.attach("a")


def test_resend_goes_to_another_consumer_after_ack_timeout() -> None:
    group = group_of(10, consumers=("a", "b"))
    deliver(group, "a", 10)
    assert group.next_deadline() == TIMEOUT
    assert deliver(group, "b", 10, TIMEOUT - 1) == []
    assert deliver(group, "b", 10, TIMEOUT) == [(1, 11, 2)]


def test_a_late_ack_cancels_the_resend() -> None:
    group = group_of(10, consumers=("a", "b"))
    deliver(group, "a", 10)
    group.tick(TIMEOUT)
    assert group.ack(1, 4) & AckFlag.NEW
    assert deliver(group, "b", 10, TIMEOUT) == [(1, 4, 2), (5, 11, 2)]


def test_a_release_returns_only_what_the_consumer_holds() -> None:
    group = group_of(consumers=("a", "b"))
    deliver(group, "a", 10)
    assert group.release("b", 1, 1, 11, 0, 0) == 0
    assert group.release("a", 1, 9, 30, 5, 0) == 2
    assert group.next_deadline() == 5
    assert deliver(group, "b", 5, 4) == [(11, 16, 1)]
    assert deliver(group, "b", 5, 5) == [(9, 11, 2), (16, 19, 1)]


def test_an_extended_deadline_is_never_shortened() -> None:
    group = group_of(10, consumers=("a", "b"))
    deliver(group, "a", 10)
    assert group.extend("a", 1, 1, 6, 5 * TIMEOUT, 1) == 5
    assert group.extend("a", 1, 1, 6, 1, 2) == 5
    assert deliver(group, "b", 10, TIMEOUT) == [(6, 11, 2)]
    group.ack_range(1, 6, 11)
    assert deliver(group, "b", 10, 5 * TIMEOUT + 1) == [(1, 6, 2)]


def test_what_is_cut_off_a_batch_counts_as_never_delivered() -> None:
    group = group_of(10)
    (assigned,) = group.fetch("a", 10, 0)
    assert group.confirm(assigned.lease, 4, 0) == (1, 4)
    assert group.ack(1, 4) == AckFlag.VOID
    assert group.lag().backlog == 7
    assert deliver(group, "a", 10) == [(4, 11, 1)]


def test_a_lease_is_confirmed_once_and_not_after_its_consumer_left() -> None:
    group = group_of(10)
    (assigned,) = group.fetch("a", 10, 0)
    group.detach("a", 0)
    assert group.confirm(assigned.lease, 11, 0) is None
    group.attach("a")
    assert deliver(group, "a", 10) == [(1, 11, 1)]


def test_a_gap_moves_a_reservation_and_tells_every_consumer() -> None:
    group = group_of(10, consumers=("a", "b"))
    (assigned,) = group.fetch("a", 10, 0)
    expected = Gap(1, 1, 4, 3, 3)
    assert group.gap(1, 4) == expected
    assert group.gap(1, 4) is None
    assert group.confirm(assigned.lease, 11, 0) == (4, 11)
    assert group.gaps("a") == group.gaps("b") == group.gaps() == (expected,)
    assert group.gaps("a") == ()
    assert group.stats().gap_records == 3


def test_the_window_is_exact_and_its_oldest_record_is_named() -> None:
    group = group_of(max_unacked=10)
    assert deliver(group, "a", 7) == [(1, 8, 1)]
    assert deliver(group, "a", 7) == [(8, 11, 1)]
    assert deliver(group, "a", 7) == []
    assert group.stats().blocked == "window full (max_unacked): oldest unacked id 1-1"
    group.ack(1, 1)
    assert deliver(group, "a", 7) == [(11, 12, 1)]


def test_the_span_stops_a_shard_that_one_record_holds() -> None:
    group = group_of(span_records=20)
    deliver(group, "a", 20)
    group.ack_range(1, 2, 21)
    assert deliver(group, "a", 20) == []
    assert group.stats().blocked == "span full: oldest unacked id 1-1"
    assert deliver(group, "a", 20, TIMEOUT) == [(1, 2, 2)]


def test_reasons_are_told_in_words() -> None:
    group = group_of(0, consumers=())
    assert group.stats().blocked == "no consumers"
    group.attach("a")
    assert group.stats().blocked == "no records"
    group.offer(1, 2)
    assert group.stats().blocked == ""
    group.pause()
    assert group.stats().blocked == "paused"
    assert deliver(group, "a", 1) == []
    group.resume()
    assert deliver(group, "a", 1) == [(1, 2, 1)]


def test_a_consumer_waiting_for_room_is_called_by_the_first_ack() -> None:
    group = group_of(max_unacked=10)
    deliver(group, "a", 10)
    assert group.fetch("a", 5, 0, queue=True) == ()
    assert group.next_in_line(0) is None
    flags = fast.ackmap_ack(group.ack_address(1), 3)
    assert flags == AckFlag.NEW | AckFlag.ATTENTION
    group.attend()
    assert group.next_in_line(0) == "a"
    assert deliver(group, "a", 5) == [(11, 12, 1)]


def test_acks_ask_for_a_checkpoint_when_nobody_waits() -> None:
    group = group_of(max_unacked=100, checkpoint_acks=10)
    deliver(group, "a", 50)
    flags = [group.ack(1, lsn) for lsn in range(1, 11)]
    assert flags == [AckFlag.NEW] * 9 + [AckFlag.NEW | AckFlag.ATTENTION]
    assert group.attend()
    assert group.delta()
    assert not group.attend()
    assert group.ack(1, 11) == AckFlag.NEW


@pytest.mark.parametrize("consumers", [1, 2, 3, 7])
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("arriving", [1, 13, 400])
def test_always_ready_consumers_get_equal_shares(
    consumers: int, shards: int, arriving: int
) -> None:
    """Also when records are scarce and the first one's thread comes up nine times as often."""
    names = tuple(f"c{number}" for number in range(consumers))
    group = group_of(0, consumers=names, shards=shards, max_unacked=90)
    rng = random.Random(consumers)
    shares = dict.fromkeys(names, 0)
    batch, total, tail = 20, 3_000, 1
    waiting = set(names)
    last_run = dict.fromkeys(names, -1)
    assert not any(group.fetch(name, batch, 0, queue=True) for name in names)
    for now in range(1_000_000):
        waiting.discard(group.next_in_line(now) or "")
        awake = [name for name in names if name not in waiting]
        if not awake:
            if tail > total:
                break
            tail = min(tail + arriving, total + 1)
            for shard in range(1, shards + 1):
                group.offer(shard, tail)
            continue
        if arriving * shards < batch:
            (name,) = rng.choices(awake, [9 if name == names[0] else 1 for name in awake])
        else:
            name = min(awake, key=last_run.__getitem__)
            last_run[name] = now
        got = group.fetch(name, batch, now, queue=True)
        for assigned in got:
            assert group.confirm(assigned.lease, assigned.end_lsn, now)
            shares[name] += assigned.end_lsn - assigned.first_lsn
            group.ack_range(assigned.shard_id, assigned.first_lsn, assigned.end_lsn)
        if not got:
            waiting.add(name)
    fair = total * shards / consumers
    assert sum(shares.values()) == total * shards
    assert all(abs(share - fair) <= max(batch, fair / 20) for share in shares.values()), shares


def test_shards_are_served_in_turn() -> None:
    group = group_of(100, shards=3)
    got = [group.fetch("a", 10, 0)[0].shard_id for _ in range(6)]
    assert got == [1, 2, 3, 1, 2, 3]


def test_a_head_that_does_not_come_loses_its_turn() -> None:
    group = group_of(0, consumers=("a", "b"))
    for name in ("a", "b"):
        assert group.fetch(name, 5, 0, queue=True) == ()
    group.offer(1, 11)
    assert group.next_in_line(0) == "a"
    assert group.fetch("b", 5, 1, queue=True) == ()
    assert group.next_deadline() == TURN_NS
    group.tick(TURN_NS)
    assert group.next_in_line(TURN_NS) == "b"
    assert deliver(group, "b", 5, TURN_NS) == [(1, 6, 1)]
    assert group.next_in_line(TURN_NS) == "a"


def test_one_who_leaves_the_line_holds_nobody() -> None:
    group = group_of(0, consumers=("a", "b"))
    group.fetch("a", 5, 0, queue=True)
    group.offer(1, 11)
    assert deliver(group, "b", 5) == []
    group.leave_line("a")
    assert deliver(group, "b", 5) == [(1, 6, 1)]


def test_a_record_that_always_times_out_is_doomed_after_its_last_attempt() -> None:
    group = group_of(10, retry=RetryPolicy(max_attempts=2))
    deliver(group, "a", 10)
    group.ack_range(1, 3, 11)
    assert deliver(group, "a", 10, TIMEOUT) == [(1, 3, 2)]
    assert group.doomed(9) == ()
    assert deliver(group, "a", 10, 2 * TIMEOUT) == []
    assert group.doomed(9) == ((1, 1, 3, 2, "timeout"),)
    assert group.doomed(1) == ((1, 1, 2, 2, "timeout"),)
    assert group.next_deadline() is None
    stats = group.stats()
    assert (stats.doomed, stats.unacked, stats.waiting, stats.in_flight) == (2, 2, 0, 0)


def test_an_ack_that_comes_after_the_doom_counts() -> None:
    group = group_of(10, retry=RetryPolicy(max_attempts=1))
    deliver(group, "a", 10)
    group.detach("a", 0)
    assert group.doomed(99) == ((1, 1, 11, 1, "consumer left"),)
    assert group.ack(1, 4) & AckFlag.NEW
    assert not group.is_doomed(1, 1, 11)
    assert group.is_doomed(1, 5, 11)
    assert [dead[1:3] for dead in group.doomed(99)] == [(1, 4), (5, 11)]
    group.ack_range(1, 1, 11)
    assert group.doomed(99) == ()
    assert group.lag().unacked == 0


def test_what_could_not_be_moved_is_tried_after_the_others() -> None:
    group = group_of(10, retry=RetryPolicy(max_attempts=1))
    deliver(group, "a", 10)
    for lsn in (7, 2, 5):
        group.release("a", 1, lsn, lsn + 1, None, 0, f"bad {lsn}")
    assert [dead[1] for dead in group.doomed(2)] == [7, 2]
    group.put_off(1, 7)
    assert [dead[1] for dead in group.doomed(9)] == [2, 5, 7]
    group.gap(1, 6)
    assert group.doomed(9) == ((1, 7, 8, 1, "bad 7"),)
    group.seek({1: 1})
    assert group.doomed(9) == ()
    assert deliver(group, "a", 1) == [(1, 2, 1)]


def test_a_restart_forgets_no_attempt() -> None:
    policy = RetryPolicy(max_attempts=3, backoff=Backoff(first=1, most=9))
    group = group_of(10, retry=policy)
    pieces = group.snapshot()
    for attempt in (1, 2, 3):
        assert deliver(group, "a", 9) == [(1, 10, attempt)]
        pieces += group.delta()
        group = restarted(group, pieces)
        group.attach("a")
        group.offer(1, 11)
    assert group.doomed(99) == ((1, 1, 10, 3, "restart"),)
    assert group.doomed(99) == restarted(group, (*pieces, *group.delta())).doomed(99)
    assert deliver(group, "a", 9) == [(10, 11, 1)]


def test_waits_grow_with_the_attempts_unless_a_time_is_asked_for() -> None:
    group = group_of(1, retry=RetryPolicy(backoff=Backoff(first=1, most=3)))
    now = 0
    for attempt, wait in ((1, 1), (2, 2), (3, 3), (4, 3)):
        assert deliver(group, "a", 1, now) == [(1, 2, attempt)]
        group.release("a", 1, 1, 2, None, now)
        now += wait * SECOND_NS
        assert group.next_deadline() == now
        group.tick(now - 1)
        assert group.stats().waiting == 1
    assert deliver(group, "a", 1, now) == [(1, 2, 5)]
    group.release("a", 1, 1, 2, 0, now)
    assert deliver(group, "a", 1, now) == [(1, 2, 6)]
    group.detach("a", now)
    group.attach("a")
    assert deliver(group, "a", 1, now) == [(1, 2, 7)]


def test_a_seek_makes_earlier_acks_void_and_leases_lost() -> None:
    group = group_of(100)
    deliver(group, "a", 50)
    (open_lease,) = group.fetch("a", 10, 0)
    group.seek({1: 21})
    assert group.confirm(open_lease.lease, 61, 0) is None
    assert group.ack(1, 50) == AckFlag.VOID
    assert group.ack_range(1, 10, 31).void == 21
    with pytest.raises(UnknownRecord):
        group.ack(1, 61)
    assert deliver(group, "a", 10) == [(21, 31, 1)]
    assert group.ack_range(1, 15, 40)[:3] == (10, 0, 15)
    assert [group.ack(1, lsn) for lsn in (20, 30, 31, 32)] == [
        AckFlag.VOID,
        AckFlag.DUPLICATE,
        AckFlag.VOID,
        AckFlag.VOID,
    ]


def test_what_a_consumer_holds_is_what_a_transaction_may_commit() -> None:
    group = group_of(100, consumers=("a", "b"))
    (first,) = group.fetch("a", 10, 0)
    assert not group.held_by("a", 1, 1, 11), "not handed out yet"
    group.confirm(first.lease, 11, 0)
    assert group.held_by("a", 1, 1, 11)
    assert not group.held_by("a", 1, 1, 12)
    group.extend("a", 1, 4, 6, TIMEOUT, 5)
    assert group.held_by("a", 1, 1, 11)
    group.ack(1, 7)
    assert not group.held_by("a", 1, 1, 11)
    group.release("a", 1, 9, 10, 0, 0)
    assert not group.held_by("a", 1, 8, 11)
    (again,) = group.fetch("b", 1, 0)
    group.confirm(again.lease, 10, 0)
    assert group.held_by("b", 1, 9, 10)
    assert not group.held_by("a", 1, 9, 10)


def test_held_by_names_one_consumer_and_unacked_records_only() -> None:
    group = group_of(100, consumers=("a", "b"))
    deliver(group, "a", 10)
    deliver(group, "b", 10)
    assert group.held_by("a", 1, 1, 11)
    assert not group.held_by("b", 1, 1, 11)
    assert not group.held_by("a", 1, 1, 12)
    group.ack(1, 4)
    assert not group.held_by("a", 1, 1, 11)
    assert not group.held_by("a", 1, 4, 5)
    assert group.held_by("a", 1, 5, 11)
    assert group.held_by("a", 1, 6, 8)


def test_an_ack_between_the_last_look_and_the_wish_to_be_called_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = group_of(max_unacked=5)
    deliver(group, "a", 5)
    address = group.ack_address(1)
    assign = group._dispatch.assign
    answers = []

    def ack_afterwards(consumer: str, most: int) -> list[Slot]:
        slots = assign(consumer, most)
        if not answers:
            answers.append(fast.ackmap_ack(address, 1))
        return slots

    monkeypatch.setattr(group._dispatch, "assign", ack_afterwards)
    assert deliver(group, "a", 5) == [(6, 7, 1)]
    assert not answers[0] & AckFlag.ATTENTION


def test_who_joins_behind_the_head_does_not_prolong_its_turn() -> None:
    line = Line()
    line.join("a")
    line.call(0)
    line.join("b")
    assert line.turn_end() == TURN_NS
    line.tick(TURN_NS)
    assert line.head() == "b"


def test_unknown_records_are_named() -> None:
    group = group_of(100)
    with pytest.raises(UnknownRecord, match=re.escape("1-3 ")):
        group.ack_range(1, 3, 4)
    with pytest.raises(UnknownRecord, match="1-3 to 1-7"):
        group.ack_range(1, 3, 8)


@pytest.mark.parametrize(("first", "end"), [(1_000, 1_000), (2_000, 1_000)])
def test_an_empty_or_reversed_range_is_refused(first: int, end: int) -> None:
    group = group_of(5_000)
    deliver(group, "a", 5_000)
    for call in (group.ack_range, partial(group.release, "a", after_ns=0, now=0)):
        with pytest.raises(ValueError, match=str(first)):
            call(1, first, end)
    assert group.stats().unacked == 5_000


def test_a_restart_begins_at_the_next_attempt_and_forgets_no_stored_ack() -> None:
    group = group_of(100)
    deliver(group, "a", 10)
    deliver(group, "a", 3, TIMEOUT)
    group.ack_range(1, 5, 8)
    group.ack_range(1, 9, 11)
    assert [a[:4] for a in group.fetch("a", 20, TIMEOUT)] == [
        (1, 4, 5, 2),
        (1, 8, 9, 2),
        (1, 11, 29, 1),
    ]
    again = restarted(group, group.delta())
    again.offer(1, 101)
    again.attach("b")
    assert deliver(again, "b", 100) == [
        (1, 4, 3),
        (4, 5, 2),
        (8, 9, 2),
        (11, 29, 1),
        (29, 101, 1),
    ]


def test_a_stored_reservation_that_is_then_delivered_is_stored_again() -> None:
    group = group_of(10)
    (assigned,) = group.fetch("a", 10, 0)
    pieces = group.delta()
    assert group.confirm(assigned.lease, 11, 0)
    later = group.delta()
    assert later
    again = restarted(group, pieces + later)
    again.attach("b")
    assert deliver(again, "b", 10) == [(1, 11, 2)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.fetch("a", 0, 0), "max_records is 0, must be within 1 to"),
        (lambda g: g.fetch("a", -1, 0), "max_records is -1"),
        (lambda g: g.fetch("a", 10**9, 0), "max_records is"),
        (lambda g: g.add_shard(-1, 1), "shard is -1"),
        (lambda g: g.add_shard(1, 1), "shard is 1, which"),
        (lambda g: g.add_shard(3, 0), "start is 0"),
        (lambda g: g.offer(3, 1), "shard is 3, which"),
        (lambda g: g.offer(1, 0), "tail is 0"),
        (lambda g: g.seek({1: 0}), "lsn is 0"),
        (lambda g: g.gap(1, 0), "first_kept is 0"),
        (lambda g: g.release("a", 1, 2, 2, 0, 0), "end is 2, must be above first"),
        (lambda g: g.release("a", 1, 1, 2, -1, 0), "after_ns is -1"),
        (lambda g: g.extend("a", 1, 1, 2, 0, 0), "by_ns is 0"),
        (lambda g: g.ack_range(1, 5, 5), "end is 5, must be above first"),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_range(call: object, message: str) -> None:
    group = group_of()
    with pytest.raises(ValueError, match=re.escape(message)):
        call(group)  # type: ignore[operator]
    group.check_invariants()


@pytest.mark.parametrize("name", [name for name in Limits.__slots__ if name != "retry"])
@pytest.mark.parametrize("value", [-1, 1 << 62])
def test_limits_are_checked_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, must be within"):
        Limits(**{name: value})
    with pytest.raises(TypeError, match=f"{name} is 1.5, must be an int"):
        Limits(**{name: 1.5})  # type: ignore[arg-type]


def test_a_fetch_of_everything_returns_runs_across_sparse_acks_in_order() -> None:
    group = group_of(1_000)
    deliver(group, "a", 1_000)
    for lsn in range(2, 1_001, 2):
        group.ack(1, lsn)
    group.tick(TIMEOUT)
    got = deliver(group, "a", 1_000, TIMEOUT)
    assert got == [(lsn, lsn + 1, 2) for lsn in range(1, 1_001, 2)]


def test_records_released_one_by_one_come_again_as_one_run() -> None:
    group = group_of(100)
    deliver(group, "a", 100)
    for lsn in range(1, 101):
        group.release("a", 1, lsn, lsn + 1, 0, 0)
    assert deliver(group, "a", 60) == [(1, 61, 2)]
    assert deliver(group, "a", 60) == [(61, 101, 2)]


def test_acks_without_the_lock_never_make_a_record_come_twice() -> None:
    total = 60_000
    group = group_of(total, max_unacked=500)
    address = group.ack_address(1)
    inbox: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    lock = threading.Lock()
    done = threading.Event()
    acked = threading.Semaphore(0)

    def work() -> None:
        while not done.is_set():
            first, end = inbox.get()
            for lsn in range(first, end):
                if fast.ackmap_ack(address, lsn) & AckFlag.ATTENTION:
                    with lock:
                        group.attend()
            acked.release()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = 0
    while seen < total:
        with lock:
            fetched = group.fetch("a", 37, 0, queue=True)
            for assigned in fetched:
                assert assigned.attempt == 1
                assert assigned.first_lsn == seen + 1
                group.confirm(assigned.lease, assigned.end_lsn, 0)
                seen = assigned.end_lsn - 1
                inbox.put((assigned.first_lsn, assigned.end_lsn))
            assert group.stats().unacked <= 500
            group.delta()
        if not fetched:
            # Locks are not fair: trying again at once may keep the workers out for good.
            acked.acquire()
    while group.lag().unacked:
        done.wait(0.001)
    done.set()
    for _ in workers:
        inbox.put((1, 1))
    for worker in workers:
        worker.join()
    group.delta()
    group.check_invariants()
    assert group.position(1) == (total + 1, total + 1)


def test_an_own_window_that_is_full_does_not_hold_up_who_is_behind_it_in_line() -> None:
    group = group_of(4, consumers=("ada", "bob"), max_unacked_per_consumer=2)
    for _ in range(2):
        for name in ("bob", "ada"):
            (assigned,) = group.fetch(name, 1, 0)
            group.confirm(assigned.lease, assigned.end_lsn, 0)
    assert group.fetch("ada", 1, 0, queue=True) == group.fetch("bob", 1, 0, queue=True) == ()
    group.offer(1, 6)
    assert group.blocked() == "own windows of all consumers full"
    group.ack(1, 1)
    assert group.next_in_line(0) == "bob"
    group.ack(1, 2)
    assert group.next_in_line(0) == "ada"
    assert group.blocked() == ""


def test_what_cannot_be_read_takes_no_room_and_stays_until_it_is_skipped() -> None:
    group = group_of(100, max_unacked=10)
    assert deliver(group, "a", 5) == [(1, 6, 1)]
    told = group.set_aside("a", 1, 4, 60, "CRC", 0)
    assert told == Damaged(1, 4, 60, 54, "CRC"), "what is in flight is not set aside"
    assert group.set_aside("a", 1, 4, 60, "CRC", 0) is None
    group.check_invariants()
    stats = group.stats()
    assert (stats.damaged, stats.in_flight, stats.waiting, stats.blocked) == (54, 5, 0, "")
    assert deliver(group, "a", 100) == [(60, 65, 1)]
    assert group.detach("a", 0) == 10
    group.attach("b")
    assert deliver(group, "b", 100) == [(1, 6, 2), (60, 65, 2)]
    group.ack_range(1, 1, 4)
    (gap,) = group.skip_damaged()
    assert (gap.first_lsn, gap.end_lsn, gap.records, gap.undelivered) == (6, 60, 54, 54)
    group.check_invariants()
    assert group.position(1) == (4, 65)
    assert group.stats().damaged == 0


def test_who_was_away_has_saved_up_no_turns() -> None:
    line = Line()
    for _ in range(5):
        line.serve("ada", 100)
    heads = []
    for _ in range(6):
        line.join("ada")
        line.join("bob")
        heads.append(line.head())
        line.serve(str(heads[-1]), 100)
    assert heads == ["bob", "ada", "bob", "ada", "bob", "ada"]


def test_who_joins_before_the_head_has_a_turn_of_its_own() -> None:
    line = Line()
    line.serve("ada", 100)
    line.join("ada")
    line.call(0)
    line.join("bob")
    assert (line.head(), line.turn_end()) == ("bob", None)
    line.call(TURN_NS - 1)
    line.tick(TURN_NS)
    assert line.head() == "bob"
