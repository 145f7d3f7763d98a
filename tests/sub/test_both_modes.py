"""What a sentence can state of the group in either mode, and of what is between the modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Damaged, Gap
from hstreamlite.sub.limits import SECOND_NS, Limits
from hstreamlite.sub.retry import RetryPolicy
from tests.sub.driven import MODES, Driven, Taken

TIMEOUT = 10 * SECOND_NS
each_mode = pytest.mark.parametrize("mode", MODES)


def driven(
    mode: str,
    *,
    shards: int = 1,
    key_of: Callable[[int, int], int] = lambda _, __: 0,
    **limits: Any,
) -> Driven:
    """Ten records in each shard, and consumers a and b."""
    it = Driven(mode, Limits(ack_timeout_ns=TIMEOUT, **limits), key_of)
    for shard in range(1, shards + 1):
        it.group.add_shard(shard, 1)
        it.group.offer(shard, 11)
    attach(it)
    return it


def attach(it: Driven) -> None:
    it.group.attach("a")
    it.group.attach("b")


def restart(it: Driven) -> None:
    progress = Progress()
    for piece in it.group.delta():
        progress.apply(piece)
    it.restart(progress)
    it.group.offer(1, 11)
    attach(it)


def reserve(it: Driven, most: int) -> int:
    """Fetch and confirm nothing; return the lease."""
    if it.mode == "shared":
        return it.group.fetch("a", most, 0)[0].lease
    it.describe(most)
    return it.group.fetch_parcels("a", most, 0)[0].lease


@each_mode
def test_what_was_only_reserved_is_not_stored_as_delivered(mode: str) -> None:
    it = driven(mode)
    reserve(it, 4)
    restart(it)
    assert it.take("a", 4, 0) == [(1, 1, 5, 1)]


@each_mode
def test_the_doomed_of_a_shard_stay_when_another_is_moved(mode: str) -> None:
    it = driven(mode, shards=3, retry=RetryPolicy(max_attempts=1))
    it.take("a", 30, 0)
    it.group.detach("a", 0)
    assert {doomed.shard_id for doomed in it.group.doomed(99)} == {1, 2, 3}
    it.group.seek({2: 5})
    assert {doomed.shard_id for doomed in it.group.doomed(99)} == {1, 3}


def test_what_waited_for_its_key_when_the_process_ended_cannot_be_acked_before_it_comes() -> None:
    it = driven("ordered", key_of=lambda _, lsn: 0 if lsn == 4 else 7)
    assert it.take("a", 1, 0) == [(1, 1, 2, 1)]
    assert it.take("b", 9, 0) == [(1, 4, 5, 1)], "the rest is of the key that a has"
    restart(it)
    assert [it.group.ack(1, lsn) & ~AckFlag.ATTENTION for lsn in (2, 3, 4, 5, 10)] == [
        AckFlag.VOID,
        AckFlag.VOID,
        AckFlag.NEW,
        AckFlag.VOID,
        AckFlag.VOID,
    ]
    assert it.take("b", 9, 0) == [(1, 1, 2, 2), (1, 2, 4, 1), (1, 5, 11, 1)]


@each_mode
@pytest.mark.parametrize("keys", [0, 40])
def test_always_ready_consumers_get_equal_shares(mode: str, keys: int) -> None:
    """Also where keys stay at a consumer until it has acked what it got of them."""
    records, batch, names = 4_000, 25, ("a", "b", "c", "d")
    it = driven(mode, key_of=lambda _, lsn: lsn * 0x9E3779B9 % keys + 1 if keys else 0)
    for name in names[2:]:
        it.group.attach(name)
    shares = dict.fromkeys(names, 0)
    asked = dict.fromkeys(names, -1)
    waiting: set[str] = set()
    held: dict[str, list[Taken]] = {name: [] for name in names}
    it.group.offer(1, records + 1)
    for now in range(1_000_000):
        waiting.discard(it.group.next_in_line(now) or "")
        awake = [name for name in names if name not in waiting] or [*names]
        name = min(awake, key=asked.__getitem__)
        asked[name] = now
        for shard, first, end, _ in held[name]:
            it.group.ack_range(shard, first, end)
        held[name] = [] if name in waiting else it.take(name, batch, now, queue=True)
        shares[name] += sum(end - first for _, first, end, _ in held[name])
        if not held[name]:
            waiting.add(name)
        if it.group.lag().records == 0:
            break
    fair = records // len(names)
    assert sum(shares.values()) == records
    assert all(abs(share - fair) <= max(batch, fair // 20) for share in shares.values()), shares


@each_mode
def test_acks_of_many_at_once_ask_for_a_checkpoint(mode: str) -> None:
    it = driven(mode, checkpoint_acks=4)
    it.take("a", 10, 0)
    it.group.ack_range(1, 2, 5)
    assert not it.group.attend()
    it.group.ack_range(1, 5, 9)
    assert it.group.attend()


def attempts(taken: list[Taken]) -> dict[int, int]:
    return {lsn: attempt for _, first, end, attempt in taken for lsn in range(first, end)}


def restart_again(it: Driven, pieces: list[bytes]) -> None:
    """Begin anew from all that was stored since the beginning."""
    pieces += it.group.delta()
    progress = Progress()
    for piece in pieces:
        progress.apply(piece)
    it.restart(progress)
    it.group.offer(1, 11)
    attach(it)


@each_mode
def test_what_was_taken_back_unseen_cannot_be_acked_before_it_comes(mode: str) -> None:
    it = driven(mode)
    it.take("a", 3, 0)
    assert it.group.unsend("a", 1, 2, 4, 0) == 2
    flags = [it.group.ack(1, lsn) & ~AckFlag.ATTENTION for lsn in (1, 2, 3)]
    assert flags == [AckFlag.NEW, AckFlag.VOID, AckFlag.VOID]
    assert attempts(it.take("b", 9, 0)) == dict.fromkeys(range(2, 11), 1)


@each_mode
def test_what_was_taken_back_unseen_is_no_attempt_after_a_restart_either(mode: str) -> None:
    it = driven(mode)
    it.take("a", 3, 0)
    pieces = [*it.group.delta()]
    it.group.unsend("a", 1, 2, 3, 0)
    restart_again(it, pieces)
    assert attempts(it.take("a", 3, 0)) == {1: 2, 2: 1, 3: 2}


@each_mode
def test_the_first_delivery_of_what_was_only_reserved_before_a_restart_counts(mode: str) -> None:
    it = driven(mode)
    reserve(it, 4)
    pieces: list[bytes] = []
    for attempt in (1, 2, 3):
        restart_again(it, pieces)
        assert attempts(it.take("a", 4, 0)) == dict.fromkeys(range(1, 5), attempt)


def test_what_comes_again_of_another_key_goes_before_what_is_new_of_one_that_goes_on() -> None:
    it = driven("ordered", key_of=lambda _, lsn: 1 + lsn % 2)
    assert attempts(it.take("a", 4, 0)) == dict.fromkeys((1, 2, 3, 4), 1)
    assert it.take("b", 9, 0) == [], "all of it follows to a"
    assert it.group.release("a", 1, 3, 5, 0, 0) == 2
    taken = [attempts(it.take("a", 1, 0)) for _ in range(4)]
    assert taken[0] | taken[1] == {3: 2, 4: 2}
    assert taken[2] | taken[3] == {5: 1, 6: 1}


@each_mode
def test_who_waits_in_line_is_called_for_what_comes_again(mode: str) -> None:
    it = driven(mode, max_unacked=10)
    it.take("a", 10, 0)
    assert it.take("b", 5, 0, queue=True) == []
    assert it.group.next_in_line(0) is None
    assert it.group.release("a", 1, 2, 4, 0, 0) == 2
    assert it.group.next_in_line(0) == "b"
    assert attempts(it.take("b", 5, 0)) == {2: 2, 3: 2}


def test_a_gap_tells_what_waited_for_its_key_and_never_came() -> None:
    it = driven("ordered", key_of=lambda _, lsn: 0 if lsn == 4 else 7)
    it.take("a", 1, 0)
    it.take("b", 9, 0)
    assert it.group.gap(1, 8) == Gap(1, 1, 8, records=7, undelivered=5)


@each_mode
def test_what_cannot_be_read_is_skipped_once(mode: str) -> None:
    it = driven(mode)
    assert attempts(it.take("a", 2, 0)) == {1: 1, 2: 1}
    reserve(it, 1)
    it.describe(9)
    assert it.group.set_aside("a", 1, 4, 7, "torn", 0) == Damaged(1, 4, 7, 3, "torn")
    assert it.group.stats().damaged == 3
    gaps = it.group.skip_damaged()
    assert [(gap.first_lsn, gap.end_lsn, gap.records, gap.undelivered) for gap in gaps] == [
        (4, 7, 3, 3)
    ]
    assert it.group.skip_damaged() == ()
    assert it.group.stats().damaged == 0


@pytest.mark.parametrize(("room", "end"), [(1, 2), (2, 5), (4, 5), (5, 12)])
def test_a_batch_goes_out_whole_if_one_record_of_it_has_room(room: int, end: int) -> None:
    it = driven("sharded", max_unacked=room)
    it.group.offer(1, 41)
    assert it.take("a", 99, 0, batches=9) == [(1, 1, end, 1)]
    assert it.take("b", 99, 0, batches=9) == []
