"""The counted allocations of the native core."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from hstreamlite._native import fast, lib
from hstreamlite.sub.ackmap import AckMap, Totals
from hstreamlite.sub.keytab import KeyTable
from tests.sub.taking import excerpt, taken


@pytest.fixture(autouse=True)
def _allocations_succeed_afterwards() -> Iterator[None]:
    yield
    lib.hsl_alloc_fail_at(0)


@pytest.mark.usefixtures("frozen_heap")
def test_the_nth_allocation_fails_once_and_what_it_left_is_freed() -> None:
    before = lib.hsl_alloc_live()
    for nth in (1, 2):
        lib.hsl_alloc_fail_at(nth)
        with pytest.raises(MemoryError):
            AckMap(1, 100)
        assert lib.hsl_alloc_count() == nth
        assert lib.hsl_alloc_live() == before
        acked = AckMap(1, 100)
        assert lib.hsl_alloc_live() == before + 2
        del acked
        gc.collect()
        assert lib.hsl_alloc_live() == before


def test_a_map_that_cannot_grow_stays_as_it_was() -> None:
    acked = AckMap(1, 1_000_000)
    before = fast.ackmap_state(acked.address)
    lib.hsl_alloc_fail_at(1)
    with pytest.raises(MemoryError):
        fast.ackmap_advance(acked.address, 900_000, False)
    lib.hsl_alloc_fail_at(0)
    assert fast.ackmap_state(acked.address) == before
    fast.ackmap_advance(acked.address, 900_000, False)
    assert fast.ackmap_check(acked.address) == 0


def test_a_hatch_without_memory_leaves_it_to_the_group() -> None:
    acked = AckMap(1, 100)
    hatch = fast.Hatch(acked, 100, 100, 10)
    hatch.open(50, 1_000)
    gate = fast.AckGate()
    excerpt(1)
    for call in (
        lambda: taken(hatch, gate, 1, 2, 1, 1, 0),
        lambda: hatch.note(1, 2, 10, 1, 1),
    ):
        lib.hsl_alloc_fail_at(1)
        assert not call()
        lib.hsl_alloc_fail_at(0)
    assert hatch.notes(0, 99, 0, False) == []
    assert taken(hatch, gate, 1, 2, 1, 1, 0) == (1, 2)


def failing_in_turn(call: Callable[[], object]) -> list[object]:
    """Make a call again and again, with the next allocation failing, until none does."""
    results: list[object] = []
    for nth in count(1):
        lib.hsl_alloc_fail_at(nth)
        try:
            results.append(call())
        except MemoryError:
            results.append(MemoryError)
        tried = lib.hsl_alloc_count()
        lib.hsl_alloc_fail_at(0)
        if tried < nth:
            return results
    raise AssertionError


def batch_of(payloads: list[bytes], lsn: int) -> fast.Excerpt:
    """Return what was read of a batch."""
    read = fast.Excerpt()
    read.add(fast.encode_batch(payloads, None), 1, lsn, 0, 0, len(payloads), 0, 1)
    return read


@pytest.mark.parametrize("size", [2, 5_000])
def test_a_hatch_of_keys_without_memory_leaves_it_to_the_group(size: int) -> None:
    payloads = [b"%0*d" % (size, n) for n in range(10)] + [b"%02d" % n for n in range(20)]
    parts = [batch_of(payloads[:15], 1), batch_of(payloads[15:], 16)]
    for nth in count(1):
        acked = AckMap(1, 1_000)
        table = KeyTable(acked)
        hatch = fast.KeyHatch(1_000, 100, 10)
        hatch.bind(acked, table)
        hatch.open(31, 1_000)
        lib.hsl_alloc_fail_at(nth)
        for first, part in zip((1, 16), parts, strict=True):
            hashes = array("Q", range(first, first + 15)).tobytes()
            try:
                added = hatch.add(part, first, hashes)
            except MemoryError:
                added = hatch.add(part, first, hashes)
            assert added
        batch = hatch.take(fast.AckGate(), 0, 15, 1, 0)
        tried = lib.hsl_alloc_count()
        lib.hsl_alloc_fail_at(0)
        if batch is None:
            assert hatch.taken() == 0
            assert table.count(1) == 0
            batch = hatch.take(fast.AckGate(), 0, 15, 1, 0)
        assert batch is not None
        assert len(batch) == table.count(1) == 15
        later = hatch.take(fast.AckGate(), 0, 15, 1, 0)
        assert later is not None
        assert [*batch.payloads(), *later.payloads()] == payloads
        assert [delivery.payload for delivery in batch] == payloads[:15]
        table.check_invariants()
        if tried < nth:
            break
    assert nth > 5


def test_what_has_no_memory_for_a_gate_makes_none() -> None:
    assert failing_in_turn(lambda: fast.AckGate(None, None, {1: 1}) is not None) == [
        MemoryError,
        True,
    ]


def test_an_excerpt_without_memory_stays_as_it_was() -> None:
    records = excerpt(30)
    *failed, rest = failing_in_turn(lambda: len(records.rest(10)))
    assert set(failed) == {MemoryError}
    assert rest == 20


USES: dict[str, Callable[[fast.DeliveryBatch], object]] = {
    "runs": lambda batch: batch._runs,
    "item": lambda batch: batch[0],
    "slice": lambda batch: batch[:2],
    "iterate": list,
    "hash": hash,
    "compare": lambda batch: batch == (),
    "add": lambda batch: batch + batch,
    "contains": lambda batch: 1 in batch,
}


@pytest.mark.parametrize("use", USES)
def test_a_batch_without_memory_can_be_used_later(use: str) -> None:
    read, body = fast.Excerpt(), fast.encode_batch([b"x"] * 3, None)
    read.add(body, 1, 1, 0, 0, 3, 0, 1)
    read.add(body, 1, 4, 0, 0, 3, 0, 2)
    batch = read.batch(0, 6, fast.AckGate())
    assert MemoryError in failing_in_turn(lambda: USES[use](batch))
    assert [delivery.attempt for delivery in batch] == [1, 1, 1, 2, 2, 2]


def test_what_is_acked_is_drained_once_there_is_memory() -> None:
    acked = AckMap(1, 10_000)
    fast.ackmap_advance(acked.address, 1_002, False)
    for lsn in range(2, 1_002, 2):
        fast.ackmap_ack(acked.address, lsn)
    *failed, piece = failing_in_turn(lambda: fast.ackmap_drain_piece(acked.address, 1, 1, 1, 1))
    assert failed == [MemoryError]
    assert piece
    assert fast.ackmap_acked_since(acked.address) == 0


def test_what_weighs_is_counted_once_there_is_memory() -> None:
    acked, totals = AckMap(1, 10_000), Totals()
    assert failing_in_turn(lambda: totals.reserve(1_000)) == [MemoryError, None]
    *failed, _ = failing_in_turn(lambda: acked.weigh(totals))
    assert set(failed) == {MemoryError}
    *failed, _ = failing_in_turn(lambda: fast.ackmap_reserve_load(acked.address, 5_000))
    assert failed == [MemoryError]
