"""Blocks, calls and files of unusual size, and file systems that cannot do all: nothing is lost."""

from __future__ import annotations

from hashlib import sha256

import pytest

import hstreamlite as hs
from hstreamlite.errors import CorruptionError, StorageFull, StoreFailed
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.log.swap import segment_facts
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op, Short
from hstreamlite.testing.witness import small_config
from tests.log.format_reader import read_store

LARGE = hs.StoreConfig(
    segment_bytes_min=4 << 20,
    segment_bytes_max=8 << 20,
    batch_bytes_max=2 << 20,
    transaction_bytes_max=4 << 20,
    chunk_bytes=4 << 20,
    checkpoint_bytes=64 << 10,
    regroup_bytes=1 << 20,
)
SIZES = (1_500_000, 600_000, 300, 700_000, 40_000, 1_048_576, 5)
"""Of records: over a frame of a regrouped file, and just beside what is read in one piece."""

Shown = dict[str, list[tuple[str, bytes]]]


def shown(store: hs.Store) -> Shown:
    return {
        info.name: [(str(r.id), sha256(r.payload).digest()) for r in store.stream(info.name).read()]
        for info in store.streams()
    }


def with_large_blocks() -> tuple[SimEnv, hs.Store]:
    """Two streams whose large blocks lie mixed in several sealed segments."""
    env = SimEnv(seed=1)
    store = hs.open("/db", config=LARGE, env=env)
    streams = [store.create_stream(name) for name in "ab"]
    for number in range(6):
        for size in SIZES:
            for stream in streams:
                stream.append(b"%06d" % (number * size) * (size // 6 + 1))
    assert len(segment_facts(store._engine.journal)) > 2
    return env, store


def regrouped(store: hs.Store) -> list[int]:
    return [f.number for f in segment_facts(store._engine.journal) if f.number >= LEVEL_1]


def test_blocks_larger_than_a_frame_are_regrouped_over_several_frames() -> None:
    env, store = with_large_blocks()
    before = shown(store)
    store.compact()
    assert regrouped(store)
    assert shown(store) == before
    store.close()
    image = {p.removeprefix("/db/"): env.disk.read_all(p) for p in env.disk.walk("/db")}
    new = [s for s in read_store(image).segments if s.header.level]
    assert max(s.cover.frames for s in new) > 3
    with hs.open("/db", config=LARGE, env=env.process_crash()) as store:
        assert shown(store) == before


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_regrouped_frame_that_cannot_be_written_changes_nothing(nth: int) -> None:
    env, store = with_large_blocks()
    before = shown(store)
    env.disk.inject(Fail(ops=Op.PWRITE, path="/regroup", nth=nth))
    with pytest.raises(OSError, match="write"):
        store.compact()
    assert not regrouped(store)
    assert shown(store) == before
    store.compact()
    assert regrouped(store)
    assert shown(store) == before


def test_a_file_that_became_shorter_ends_its_copying_with_the_place() -> None:
    env, store = with_large_blocks()
    store.close()
    store = hs.open("/db", config=LARGE, env=(env := env.process_crash()))
    path = next(path for path in env.disk.walk("/db") if path.endswith(".seg"))
    env.disk.truncate_raw(path, 8192)
    with pytest.raises(CorruptionError) as caught:
        store.compact()
    assert caught.value.path == path


@pytest.mark.parametrize("count", [1, 16])
def test_a_call_larger_than_the_mapped_stage_takes_is_durable_when_it_returns(count: int) -> None:
    """One large record extends the block before it."""
    env = SimEnv(seed=1)
    config = small_config(
        batch_bytes_max=64 << 10,
        transaction_bytes_max=128 << 10,
        frame_bytes=256 << 10,
        chunk_bytes=256 << 10,
        stage_bytes=1 << 20,
        eager_bytes=128 << 10,
    )
    stream = hs.open("/db", config=config, env=env).create_stream("a")
    stream.append(b"before", durability="os")
    large = [b"%02d" % number * (24_000 // count) for number in range(count)]
    if count == 1:
        stream.append(large[0], durability="os")
    else:
        stream.append_many(large, durability="os")
    stream.append(b"behind", durability="os")
    with hs.open("/db", config=config, env=env.clone()) as store:
        payloads = [record.payload for record in store.stream("a").read()]
        assert payloads == [b"before", *large, b"behind"]
    with hs.open("/db", config=config, env=env.power_cut(profile="drop")) as store:
        assert [r.payload for r in store.stream("a").read()][: count + 1] == [b"before", *large]


def test_entries_of_any_size_wrap_around_the_mapped_stage() -> None:
    """What is left at the end of the ring may be too little for the head of an entry."""
    for size in range(700, 1400, 8):
        env = SimEnv(seed=1)
        store = hs.open("/db", config=small_config(), env=env)
        stream = store.create_stream("a")
        for number in range((64 << 10) // size + 4):
            stream.append(b"%4d" % number * (size // 4), durability="os")
        with hs.open("/db", config=small_config(), env=env.process_crash()) as store:
            found = [int(record.payload[:4]) for record in store.stream("a").read()]
            assert found == list(range((64 << 10) // size + 4)), f"entries of {size} bytes"


ODD = small_config(
    segment_bytes_min=(1 << 20) + 100,
    segment_bytes_max=(1 << 20) + 100,
    frame_bytes=33_000,
    eager_bytes=16_484,
    **dict.fromkeys(["prewrite_bytes", "batch_bytes_max"], 8_292),
    **dict.fromkeys(["chunk_bytes", "checkpoint_bytes", "os_stage_bytes"], 65_636),
    **dict.fromkeys(["transaction_bytes_max", "tail_bytes"], 32_868),
    stage_bytes=524_388,
)


def test_sizes_that_are_no_whole_pages_do_as_well() -> None:
    env = SimEnv(seed=1)
    with (
        hs.open("/db", config=ODD, env=env) as store,
        hs.open("/db", config=ODD, env=env, read_only=True) as follower,
    ):
        for name in "ab":
            store.create_stream(name)
        assert shown(follower) == shown(store)
        for number in range(200):
            for name in "ab":
                store.stream(name).append(b"%d" % number * 900, durability="os")
            store.stream("a").append(b"%d" % number)
        assert shown(follower) == shown(store)
        store.compact()
        assert shown(follower) == shown(store)
        before = shown(store)
    with hs.open("/db", config=ODD, env=env.power_cut(profile="drop")) as store:
        assert shown(store) == before


def test_trims_within_the_segment_being_written_keep_the_rest() -> None:
    config = hs.StoreConfig(segment_bytes_min=4 << 20)
    with hs.open("/db", config=config, env=SimEnv(seed=1)) as store:
        stream = store.create_stream("a")
        kept: list[hs.RecordId] = []
        for number in range(400):
            kept.append(stream.append(b"%d" % number))
            if number % 50 == 49:
                stream.trim(before=kept[-7])
                del kept[:-7]
                store._engine.journal.check_invariants()
            assert [record.id for record in stream.read()] == kept
        assert len(segment_facts(store._engine.journal)) == 1


def test_writes_cut_within_one_page_again_and_again_lose_nothing() -> None:
    env = SimEnv(seed=1)
    env.disk.set_direct(0)
    with hs.open("/db", config=small_config(prewrite_bytes=0), env=env) as store:
        stream = store.create_stream("a")
        hits = [
            env.disk.inject(Short(ops=Op.PWRITE, path="/segments/", count=count, nth=nth))
            for nth, count in enumerate([2048, 1, 4095, 5000, 512, 2048], 1)
        ]
        stream.append(bytes(4000))
        assert [hit() for hit in hits] == [1] * len(hits)
    with hs.open("/db", config=small_config(), env=env.power_cut(seed=1)) as store:
        assert [record.payload for record in store.stream("a").read()] == [bytes(4000)]


def test_a_disk_that_never_takes_a_page_fails_the_store() -> None:
    env = SimEnv(seed=1)
    store = hs.open("/db", config=small_config(prewrite_bytes=0), env=env)
    stream = store.create_stream("a")
    stream.append(b"kept")
    env.disk.inject(Short(ops=Op.PWRITE, path="/segments/", count=512, from_then_on=True))
    with pytest.raises(StoreFailed):
        stream.append(bytes(3000))
    with pytest.raises(StoreFailed):
        store._engine.journal.store_super((0, 0, 0))
    env.disk.clear_faults()
    with hs.open("/db", config=small_config(), env=env.power_cut(seed=1)) as store:
        assert [record.payload for record in store.stream("a").read()][:1] == [b"kept"]


def test_a_reserve_that_cannot_be_taken_on_a_full_disk_is_asked_for_again() -> None:
    env = SimEnv(seed=1, capacity=1 << 20)
    store = hs.open("/db", config=small_config(), env=env)
    stream = store.create_stream("a")
    with pytest.raises(StorageFull):
        while True:
            stream.append(bytes(3000))
    env.disk.set_capacity(env.disk.counts().used)
    hits = env.disk.inject(Fail(ops=Op.RENAME, path="reserve"))
    made = 0
    with pytest.raises(OSError, match="rename"):
        for made in range(200):
            store.create_stream(f"s{made}")
    assert hits() == 1
    store.create_stream("after")
    names = [info.name for info in store.streams()]
    assert sorted(names) == sorted(["a", "after", *(f"s{number}" for number in range(made))])
    with hs.open("/db", config=small_config(), env=env.power_cut(profile="drop")) as store:
        assert [info.name for info in store.streams()] == names


def test_a_store_of_many_segments_keeps_few_files_open() -> None:
    """What is read again is opened again; a file that somebody reads stays open."""
    env = SimEnv(seed=1)
    config = small_config(segment_bytes_max=64 << 10)
    with hs.open("/db", config=config, env=env) as store:
        stream = store.create_stream("a")
        for number in range(1300):
            stream.append(b"%d;" % number * 700, durability="memory")
    with hs.open("/db", config=config, env=env) as store:
        before = env.disk.counts().handles
        segments = len(segment_facts(store._engine.journal))
        for _ in range(2):
            assert [r.payload for r in store.stream("a").read()] == [
                b"%d;" % number * 700 for number in range(1300)
            ]
            assert env.disk.counts().handles - before <= 64 < segments


def test_claims_of_a_large_call_fit_the_segment_that_is_made_for_it() -> None:
    """Beside its checkpoints, which are many where they are close to each other."""
    config = small_config(
        batch_bytes_max=1 << 20,
        transaction_bytes_max=8 << 20,
        frame_bytes=16 << 20,
        chunk_bytes=16 << 20,
        stage_bytes=64 << 20,
    )
    env = SimEnv(seed=1)
    large = [bytes([number]) * 900_000 for number in range(8)]
    with hs.open("/db", config=config, env=env) as store:
        store.create_stream("a").append_many(large)
    with hs.open("/db", config=config, env=env.process_crash()) as store:
        assert [record.payload for record in store.stream("a").read()] == large
