"""Fast functions: wrong arguments raise and do nothing, odd bodies are told apart from sound ones.

Nothing but the package calls them. Still no argument may end the process or be half obeyed.
"""

from __future__ import annotations

import gc
import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite._native.files import posix_files
from hstreamlite.errors import CorruptionError, StoreFailed, StreamNotFound
from hstreamlite.log.journal import END, NotReady, compress
from hstreamlite.sub.ackmap import AckFlag, AckMap, Totals
from hstreamlite.sub.keytab import KeyRun, KeyTable, run_bytes, runs_of
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config
from tests.sub.taking import excerpt

SYNC, SHARD = 2, 1
Args = list[Any]


@pytest.fixture
def store() -> Iterator[hs.Store]:
    with hs.open("/db", env=SimEnv()) as store:
        assert store.create_stream("a").append(b"first").shard_id == SHARD
        yield store


def handle(store: hs.Store) -> int:
    return int(store._engine.handle)


def cursor(store: hs.Store) -> Any:
    return fast.cursor(handle(store), SHARD, 1)


ACKS = AckMap(1, 100)


def acks() -> int:
    fast.ackmap_reset(ACKS.address, 1)
    fast.ackmap_attention(ACKS.address, 1 << 62)
    fast.ackmap_advance(ACKS.address, 40, False)
    return ACKS.address


TOTALS = Totals()


def weighed() -> int:
    TOTALS.reserve(1)
    ACKS.weigh(TOTALS)
    fast.ackmap_reserve_load(acks(), 40)
    return ACKS.address


HATCH: dict[str, Args] = {
    "take": [fast.AckGate(), fast.Excerpt(), 1, 0, 1, 1, 0],
    "open": [9, 9],
    "wants": [fast.AckGate(), 1, 0],
    "note": [1, 2, 9, 1, 1],
    "settle": [1],
    "due": [0],
    "notes": [1, 9, 0, False],
}


@pytest.mark.parametrize("name", HATCH)
def test_a_hatch_refuses_wrong_arguments(name: str) -> None:
    hatch = fast.Hatch(AckMap(1, 100), 100, 100, 10)
    hatch.open(9, 9)
    call, args = getattr(hatch, name), HATCH[name]
    for place in range(name in ("take", "wants"), len(args)):
        wrong = [*args]
        wrong[place] = "1"
        with pytest.raises(TypeError):
            call(*wrong)
    with pytest.raises(TypeError, match=f"{name} takes {len(args)} arguments, got 0"):
        call()
    assert hatch.notes(0, 99, 0, False) == []
    call(*args)


def test_a_hatch_is_made_for_a_bitmap() -> None:
    with pytest.raises(AttributeError, match="address"):
        fast.Hatch(object(), 1, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fast.Hatch(AckMap(1, 100), "1", 1, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fast.Hatch(SimpleNamespace(address="1"), 1, 1, 1)


def key_hatch() -> fast.KeyHatch:
    hatch = fast.KeyHatch(100, 100, 10)
    acks()
    hatch.bind(ACKS, KeyTable(ACKS))
    hatch.open(50, 9)
    return hatch


KEY_HATCH: dict[str, Args] = {
    "add": [excerpt(9), 1, bytes(72)],
    "bind": [ACKS, KeyTable(ACKS)],
    "open": [9, 9],
    "take": [fast.AckGate(), 0, 1, 1, 0],
    "wants": [fast.AckGate(), 1, 0],
}


@pytest.mark.parametrize("name", KEY_HATCH)
def test_a_hatch_of_keys_refuses_wrong_arguments(name: str) -> None:
    hatch = key_hatch()
    call, args = getattr(hatch, name), KEY_HATCH[name]
    for place in range(name in ("take", "wants"), len(args)):
        wrong = [*args]
        wrong[place] = "1"
        with pytest.raises((TypeError, AttributeError)):
            call(*wrong)
    with pytest.raises(TypeError, match=f"{name} takes {len(args)} arguments, got 0"):
        call()
    assert hatch.wants(fast.AckGate(), 1, 0) == 1, "nothing was added, and it is open"
    call(*args)


def test_a_hatch_of_keys_is_made_of_numbers() -> None:
    with pytest.raises(TypeError):
        fast.KeyHatch("1", 1, 1)  # type: ignore[arg-type]


def test_a_hatch_of_keys_without_a_table_takes_nothing() -> None:
    hatch = fast.KeyHatch(100, 100, 10)
    hatch.open(50, 9)
    assert hatch.add(excerpt(9), 1, bytes(72)) is False
    assert hatch.wants(fast.AckGate(), 1, 0) is None
    assert hatch.take(fast.AckGate(), 0, 1, 1, 0) is None


def test_a_saver_refuses_wrong_arguments_and_stays_as_it_was(store: hs.Store) -> None:
    acked = AckMap(1, 100)
    make: Any = fast.Saver
    good: Args = [acked, SHARD, handle(store), SHARD, 1]
    for place, wrong in enumerate([object(), *"abcd"]):
        with pytest.raises((TypeError, AttributeError)):
            make(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(TypeError):
        make(SimpleNamespace(address="1"), *good[1:])
    saver = make(*good)
    assert saver.disarm() is None
    saver.arm(1, 2, 3)
    for args, error in (
        (("1", 2, 3), TypeError),
        ((1, "2", 3), TypeError),
        ((1, 2, "3"), TypeError),
        ((7, 8, 9, object()), AttributeError),
        ((7, 8, 9, SimpleNamespace(address="1")), TypeError),
    ):
        with pytest.raises(error):
            saver.arm(*args)  # type: ignore[arg-type]
    assert saver.disarm() == (1, 2, 3)


def test_a_gate_is_made_with_maps_by_numbers() -> None:
    for maps in ({"1": acks()}, {SHARD: "1"}):
        with pytest.raises(TypeError):
            fast.AckGate(None, None, maps)  # type: ignore[dict-item]


def test_a_gate_acks_runs_of_the_shards_behind_it_while_it_is_open() -> None:
    gate = fast.AckGate(None, None, {SHARD: acks()})
    for wrong in (("1", b""), (SHARD, "1"), (SHARD,)):
        with pytest.raises(TypeError):
            gate.ack_runs(*wrong)  # type: ignore[arg-type]
    assert gate.ack_runs(SHARD, run_bytes(1, 8, 1) + run_bytes(30, 11, 1)) is None, "40 is unknown"
    assert gate.ack_runs(SHARD + 1, run_bytes(1, 8, 1)) is None
    assert gate.ack_runs(SHARD, run_bytes(1, 8, 1)) == (8, 0, 0, AckFlag.NEW)
    assert gate.ack_runs(SHARD, run_bytes(5, 6, 1)) == (2, 4, 0, AckFlag.NEW | AckFlag.DUPLICATE)
    assert gate.acks() == 10
    gate.close()
    assert gate.ack_runs(SHARD, run_bytes(11, 1, 1)) is None


def test_what_follows_is_called_until_it_returns() -> None:
    raised = [KeyboardInterrupt("first"), KeyError("second")]
    told: list[int] = []

    def then(answer: int) -> None:
        told.append(answer)
        if raised:
            raise raised.pop(0)

    with pytest.raises(KeyboardInterrupt, match="first"):
        fast.followed(lambda: 7, then)
    assert told == [7, 7, 7]
    assert fast.followed(lambda: 8, then) == 8
    assert told[3:] == [8]


def test_nothing_follows_what_raised_or_was_not_done() -> None:
    with pytest.raises(ZeroDivisionError):
        fast.followed(lambda: 1 // 0, pytest.fail)
    assert fast.followed(lambda: None, pytest.fail) is None
    with pytest.raises(TypeError):
        fast.followed(pytest.fail)  # type: ignore[call-arg]


def test_what_fails_for_good_is_not_called_for_ever() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        fast.followed(lambda: "x", int)


class Trap:
    """A lock that cannot be had: a signal's handler raises meanwhile."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        raise KeyboardInterrupt

    def release(self) -> None:
        pytest.fail("it is not held")


def test_locks_are_held_together_or_not_at_all() -> None:
    one, two = threading.Lock(), threading.Lock()
    with fast.Held([one, two]) as held:
        assert held
        assert one.locked()
        with fast.Held([two], blocking=False) as second:
            assert not second
        assert two.locked(), "who did not get it does not release it"
    assert not one.locked()
    assert not two.locked()
    with two, fast.Held([one, two], blocking=False) as held:
        assert not held
        assert not one.locked()
    both = fast.Held([one, Trap()])
    with pytest.raises(KeyboardInterrupt), both:
        pytest.fail("not both are held")
    assert not one.locked()


def test_locks_that_are_held_are_released_with_what_holds_them() -> None:
    lock = threading.Lock()
    held = fast.Held(iter([lock]))
    held.__enter__()
    with pytest.raises(RuntimeError, match="already"):
        held.__enter__()
    assert lock.locked()
    del held
    assert not lock.locked()


def test_a_lock_that_cannot_be_released_leaves_the_others_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    one, two = threading.Lock(), threading.Lock()
    with fast.Held([one, two]):
        two.release()
    assert not one.locked()
    assert len(told) == 1


def test_only_locks_can_be_held() -> None:
    for wrong in (1, [1]):
        made: Any = fast.Held
        with pytest.raises((TypeError, AttributeError)), made(wrong):
            pytest.fail("held what is no lock")


GOOD: dict[str, tuple[Callable[[hs.Store], Args], tuple[int, ...]]] = {
    "ackmap_ack": (lambda _: [acks(), 9], (0, 1)),
    "ackmap_ack_many": (lambda _: [acks(), [9]], (0, 1)),
    "ackmap_ack_range": (lambda _: [acks(), 1, 9], (0, 1, 2)),
    "ackmap_ack_runs": (lambda _: [acks(), run_bytes(1, 8, 1)], (0, 1)),
    "ackmap_acked_ever": (lambda _: [acks()], (0,)),
    "ackmap_acked_since": (lambda _: [acks()], (0,)),
    "ackmap_advance": (lambda _: [acks(), 50, True], (0, 1)),
    "ackmap_attention": (lambda _: [acks(), 9], (0, 1)),
    "ackmap_check": (lambda _: [acks()], (0,)),
    "ackmap_count": (lambda _: [acks(), 1, 9], (0, 1, 2)),
    "ackmap_drain": (lambda _: [acks()], (0,)),
    "ackmap_drain_piece": (lambda _: [acks(), SHARD, 1, 1, 1], (0, 1, 2, 3, 4)),
    "ackmap_hold": (lambda _: [acks(), 1, 9, True], (0, 1, 2)),
    "ackmap_load": (lambda _: [weighed(), 1, bytes(4), 1], (0, 1, 2, 3)),
    "ackmap_next_unacked": (lambda _: [acks(), 9], (0, 1)),
    "ackmap_reserve_load": (lambda _: [acks(), 9], (0, 1)),
    "ackmap_reset": (lambda _: [acks(), 1], (0, 1)),
    "ackmap_runs": (lambda _: [acks(), 0, 1, 9, 5], (0, 1, 2, 3, 4)),
    "ackmap_skip": (lambda _: [acks(), 9], (0, 1)),
    "ackmap_state": (lambda _: [acks()], (0,)),
    "ackmap_unload": (lambda _: [weighed(), 1, 9], (0, 1, 2)),
    "ackmap_weigh": (lambda _: [weighed(), TOTALS.address], (0, 1)),
    "append": (lambda s: [handle(s), SHARD, b"x", None, SYNC, True], (0, 1, 2, 3, 4)),
    "bounds": (lambda s: [handle(s), SHARD], (0, 1)),
    "cursor": (lambda s: [handle(s), SHARD, 1], (0, 1, 2)),
    "cursor_address": (lambda s: [cursor(s)], (0,)),
    "cursor_lsn": (lambda s: [cursor(s)], (0,)),
    "cursor_seek": (lambda s: [cursor(s), 1], (0, 1)),
    "cursor_told": (lambda s: [cursor(s)], (0,)),
    "key_hashes": (lambda s: [cursor(s), handle(s), 9, END, True, 1], (0, 2, 3, 5)),
    "loads_bytes": (lambda _: [TOTALS.address, 1], (0, 1)),
    "mono_ns": (lambda _: [posix_files()._address], (0,)),
    "pack_below": (lambda _: [1, [(3, 4)], 1], (0, 2)),
    "read": (lambda s: [cursor(s), handle(s), 9, 99, END, None, 1, True, False], (0, 2, 3, 4, 6)),
    "read_batches": (lambda s: [cursor(s), handle(s), 9, 99, END, True], (0, 2, 3, 4)),
    "read_runs": (lambda s: [cursor(s), handle(s), run_bytes(1, 1, 1), 99, True], (0, 2, 3)),
    "record_bytes": (lambda _: [b"x"], (0,)),
    "stage": (lambda s: [handle(s), [(SHARD, [b"x"], None)], SYNC, False, True], (0, 2)),
    "wait": (lambda s: [handle(s), 1], (0, 1)),
}
"""Arguments that do, and which of them are looked at before anything is done."""


@pytest.mark.parametrize("items", [[("3",)], [(3, 4), (5,)]])
def test_only_tuples_of_numbers_are_packed(items: list[Any]) -> None:
    with pytest.raises((TypeError, IndexError)):
        fast.pack_below(1, items, 1)
    assert fast.pack_below(2, [(3, 4)], 1) == (1).to_bytes(4, "little") + (4).to_bytes(4, "little")


@pytest.mark.parametrize("items", [(), 3, [3]])
def test_what_is_no_list_of_tuples_is_not_packed(items: Any) -> None:
    with pytest.raises(SystemError):
        fast.pack_below(1, items, 1)


def test_there_is_no_clock_without_files() -> None:
    with pytest.raises(ValueError, match="the files have no address"):
        fast.mono_ns(0)


def kept(store: hs.Store) -> list[Any]:
    return [record.payload for record in store.stream("a").read()]


@pytest.mark.parametrize("name", GOOD)
def test_a_wrong_argument_is_refused_and_nothing_done(name: str, store: hs.Store) -> None:
    call, (make, places) = getattr(fast, name), GOOD[name]
    for place in places:
        args = make(store)
        args[place] = object()
        with pytest.raises((TypeError, ValueError)):
            call(*args)
    assert kept(store) == [b"first"]
    call(*make(store))


@pytest.mark.parametrize("name", [*GOOD, "set_hooks"])
def test_a_wrong_number_of_arguments_is_told(name: str) -> None:
    for args in ((), (None,) * 12):
        with pytest.raises(TypeError, match=f"{name} takes . arguments, got {len(args)}"):
            getattr(fast, name)(*args)


@pytest.mark.parametrize(
    ("op", "error"),
    [
        ((SHARD, [b"x"]), TypeError),
        ((SHARD, 0, b"x", 1), TypeError),
        ([SHARD, [b"x"], None], TypeError),
        (("1", [b"x"], None), TypeError),
        ((SHARD, [b"x"], 1), TypeError),
        ((SHARD, "0", b"x", 1, 1), TypeError),
        ((SHARD, 0, "x", 1, 1), TypeError),
        ((SHARD, 0, b"x", "1", 1), TypeError),
        ((SHARD, 0, b"x", 1, "1"), TypeError),
        ((SHARD, 0, b"x", 1, 1, "1"), TypeError),
        ((SHARD, 0, bytes(8), 1, 1, 2), ValueError),
        ((SHARD, 0, b"x", 1, 1, 1), ValueError),
        ((SHARD, 0, b"x", 0, 1), hs.RecordTooLarge),
        ((SHARD, 0, bytes(2 << 20), 1, 1), hs.RecordTooLarge),
    ],
)
def test_an_op_of_another_shape_stages_nothing(
    op: Any, error: type[Exception], store: hs.Store
) -> None:
    for ops in [(SHARD, [b"before"], None), op], [op]:
        with pytest.raises(error):
            fast.stage(handle(store), ops, SYNC, False, True)
    assert kept(store) == [b"first"]


def test_a_shard_that_is_not_known_has_no_bounds(store: hs.Store) -> None:
    assert fast.bounds(handle(store), 77) is None
    with pytest.raises(StreamNotFound, match="shard 77"):
        store._engine.journal.bounds(77)


@pytest.mark.parametrize("item", [b"x", bytearray(b"x")])
def test_a_call_that_waits_is_told_that_its_sync_failed(item: Any) -> None:
    env = SimEnv()
    store = hs.open("/db", env=env)
    store.create_stream("a").append(b"first")
    env.disk.inject(Fail(ops=Op.DATASYNC))
    with pytest.raises(StoreFailed):
        fast.stage(handle(store), [(SHARD, [item], None)], SYNC, False, True)
    with pytest.raises(StoreFailed):
        store.close()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("ackmap_reset", (0,)),
        ("ackmap_reset", (2**62 + 1,)),
        ("ackmap_skip", (2**62 + 1,)),
        ("ackmap_advance", (2**40, False)),
    ],
)
def test_a_number_that_no_map_of_acks_takes_changes_nothing(name: str, args: Any) -> None:
    address = acks()
    before = fast.ackmap_state(address)
    with pytest.raises(ValueError, match=r"within|outside"):
        getattr(fast, name)(address, *args)
    with pytest.raises(ValueError, match="no address"):
        getattr(fast, name)(0, *args)
    assert fast.ackmap_state(address) == before


OF_KEYS: dict[str, Args] = {
    "attempts": [1],
    "check": [],
    "confirm": [1, 9, 9],
    "count": [1],
    "delay": [1],
    "describe": [2, bytes(8)],
    "drain_piece": [ACKS.address, 1, 0, 1, 1],
    "due_of": [1],
    "extend": [1, 1, 9, 9],
    "first_out": [9],
    "fresh_in": [1],
    "handed": [1],
    "holds": [1, 1, 9],
    "next_due": [],
    "open": [1],
    "out": [1],
    "ready": [1, 9, 9],
    "release": [1, 1, 9, True],
    "restore": [bytes(160), 0],
    "state": [],
    "take": [1, 0, 9, 9, 41],
    "take_back": [1],
    "take_back_due": [9],
    "take_back_of": [1],
    "wake": [1],
}


@pytest.mark.parametrize("name", OF_KEYS)
def test_a_table_of_keys_refuses_wrong_arguments_and_goes_on(name: str) -> None:
    """With none of them, one too many, each of another type, and no table."""
    acks()
    table = KeyTable(ACKS)
    call, good = getattr(fast, f"keytab_{name}"), [table.address, *OF_KEYS[name]]
    wrong: list[Args] = [[], [*good, 1]]
    wrong += [[*good[:at], object(), *good[at + 1 :]] for at in range(len(good))]
    table.describe(1, bytes(8))
    assert table.take(1, 0, 1, 1, 2)[2] == 1
    before = table.state
    for args in wrong:
        with pytest.raises(TypeError):
            call(*args)
    with pytest.raises(ValueError, match="no address"):
        call(0, *good[1:])
    assert table.state == before
    call(*good)
    table.check_invariants()


@pytest.mark.parametrize("name", ["confirm", "fresh_in", "open", "take", "take_back"])
def test_a_parcel_that_a_table_of_keys_does_not_have_changes_nothing(name: str) -> None:
    acks()
    table = KeyTable(ACKS)
    before = table.state
    call, good = getattr(fast, f"keytab_{name}"), [table.address, *OF_KEYS[name]]
    for number in (1, 2**31):
        good[2 if name == "take" else 1] = number
        with pytest.raises(ValueError, match=f"no parcel {number}"):
            call(*good)
    assert table.state == before


def test_a_piece_is_drained_of_a_map_with_an_address() -> None:
    table = KeyTable(ACKS)
    with pytest.raises(ValueError, match="the ack map has no address"):
        fast.keytab_drain_piece(table.address, 0, 1, 0, 1, 1)


def test_a_table_of_keys_takes_what_there_is_and_keys_in_order() -> None:
    acks()
    table = KeyTable(ACKS)
    table.describe(1, bytes(8 * 39))
    before = table.state
    with pytest.raises(ValueError, match="in order"):
        table.describe(1, bytes(8))
    assert table.state == before
    sent, fresh, parcel, runs = table.take(1, 0, 9, 9, 40)
    assert (sent, fresh, runs_of(runs)) == (9, 9, [KeyRun(1, 9, 1)])
    assert table.confirm(parcel, 1 << 58, 0) == (9, runs)
    assert table.take(1, 0, 1 << 58, 1 << 58, 1 << 58)[0] == 30


def test_a_long_list_with_a_number_that_was_never_given_acks_nothing() -> None:
    address = acks()
    flags = fast.ackmap_ack_many(address, [1] * 2000 + [99])
    assert flags[:3] == (0, 0, 0)
    assert flags[3] == AckFlag.UNKNOWN
    assert fast.ackmap_count(address, 1, 40) == 39


def test_a_gate_stands_behind_a_gate_or_nothing() -> None:
    with pytest.raises(TypeError, match="behind must be an AckGate or None"):
        fast.AckGate(object())


# Compressed bodies, as a client may send them.


def body_of(*payloads: bytes) -> bytes:
    return bytes(fast.encode_batch(list(payloads), None))


def stage_body(store: hs.Store, codec: int, body: bytes, count: int, decoded: int) -> None:
    fast.stage(handle(store), [(SHARD, codec, body, count, decoded)], SYNC, False, True)


PARTS = body_of(b"one"), body_of(b"two", b"three")


@pytest.mark.parametrize("decoded", [0, len(b"".join(PARTS))], ids=["unknown", "known"])
def test_a_gzip_body_of_several_streams_is_read_whole(decoded: int, store: hs.Store) -> None:
    stage_body(store, 1, b"".join(map(gzip.compress, PARTS)), 3, decoded)
    assert kept(store) == [b"first", b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("codec", "body", "decoded"),
    [
        (1, b"no gzip", 99),
        (2, b"no zstd", 99),
        (7, PARTS[0], 99),
        (1, gzip.compress(PARTS[0]), len(PARTS[0]) - 1),
        (2, compress(2, PARTS[0]), len(PARTS[0]) - 1),
        (1, b"".join(map(gzip.compress, PARTS)), len(PARTS[0])),
        (2, compress(2, b"\xff" * 9), 9),
    ],
    ids=[
        *("no gzip", "no zstd", "unknown type", "gzip grows", "zstd grows", "second grows"),
        "no batch",
    ],
)
def test_a_body_that_is_not_what_its_header_says_is_reported_with_its_ids(
    codec: int, body: bytes, decoded: int, store: hs.Store
) -> None:
    stage_body(store, codec, body, 1, decoded)
    reader = store.stream("a").read()
    assert next(reader).payload == b"first"
    for _ in range(2):
        with pytest.raises(CorruptionError, match="a record batch in block 1-2") as caught:
            next(reader)
        assert caught.value.lost == (hs.LostRecords(1, 2, 2, "a"),)
    at = store._engine.journal.cursor(SHARD, 2)
    with pytest.raises(CorruptionError, match="a record batch in block 1-2"):
        at.key_hashes(1, end=3, seed=1, may_block=True)


# What has to be read from a file.


def test_a_call_that_may_not_block_says_that_it_would_have_to() -> None:
    env, config = SimEnv(), small_config()
    with hs.open("/db", env=env, config=config) as store:
        stream = store.create_stream("a")
        payloads = [b"%d;" % n * 1000 for n in range(60)]
        for payload in payloads:
            stream.append(payload)
    with hs.open("/db", env=env, config=config) as store:
        at = store._engine.journal.cursor(SHARD, 40)  # behind the segment of the catalog
        with pytest.raises(NotReady):
            at.peek(may_block=False)
        assert at.read(1, may_block=False) is None
        assert at.read_batches(1, may_block=False) is None
        assert at.peek() is not None
        assert [r.payload for r in at.read(1) or ()] == [payloads[39]]


def test_batches_before_one_that_is_damaged_are_read_first() -> None:
    env = SimEnv()
    with hs.open("/db", env=env) as store:
        stream = store.create_stream("a")
        for letter in b"abc":
            stream.append(bytes([letter]) * 9000)
        path = next(path for path in env.disk.walk("/db") if path.endswith(".seg"))
        at = env.disk.read_all(path).index(b"b" * 9000)
    env.disk.flip(path, at * 8)
    with hs.open("/db", env=env) as store:
        cursor = store._engine.journal.cursor(SHARD, 1)
        batches = cursor.read_batches(9)
        assert [(b.batch_id, b.records) for b in batches or ()] == [(1, 1)]
        with pytest.raises(CorruptionError):
            cursor.read_batches(9)


def test_a_payload_that_is_asked_for_while_it_is_decoded_is_one_object() -> None:
    """A collection may run whatever code there is, amid the decoding of a JSON payload."""
    made = hs.Record({f"k{n}": [{"a": n}] for n in range(200)})
    (record,) = fast.decode_batch(fast.encode_batch([made], None), 1, 1, 0, 1, 0)
    seen: list[Any] = []

    def look(phase: str, _: Any) -> None:
        if phase == "start" and not seen:
            seen.append(record.payload)

    threshold = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(5)
    try:
        payload = record.payload
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look)
    assert seen[0] is payload
    assert payload == made.payload


def test_more_hashes_than_memory_holds_are_refused(store: hs.Store) -> None:
    at = cursor(store)
    with pytest.raises(MemoryError):
        fast.key_hashes(at, handle(store), 2**64 - 1, END, True, 1)
    assert len(fast.key_hashes(at, handle(store), 9, END, True, 1) or b"") == 8


def test_records_are_not_decoded_or_picked_from_before_a_body_begins() -> None:
    body = fast.encode_batch([b"x"] * 3, None)
    with pytest.raises(ValueError, match="begins with record 2, behind record 1"):
        fast.decode_batch(body, 1, 1, first=1, base=2)
    for runs in ([3], [(0, 1), ("1", 2)], [(0,)]):
        with pytest.raises((TypeError, SystemError)):
            fast.pick_batch(body, runs)  # type: ignore[arg-type]
    assert fast.pick_batch(body, [(0, 3)]) == body
