"""The index finds what a scan of the frames finds, also where a footer is damaged."""

from __future__ import annotations

import bisect
import ctypes
import dataclasses
import gc
import re
import struct
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import ffi, lib
from hstreamlite.errors import CorruptionError, StreamNotFound
from hstreamlite.log.journal import Journal
from hstreamlite.log.swap import segment_facts
from hstreamlite.testing.simenv import SimEnv
from tests import effort
from tests.log.format_reader import Block, read_store
from tests.log.golden.make import ROOT, image_of

CONFIG = hs.StoreConfig(
    segment_bytes_min=64 << 10,
    segment_bytes_max=128 << 10,
    frame_bytes=16 << 10,
    eager_bytes=4 << 10,
    batch_bytes_max=4 << 10,
    transaction_bytes_max=32 << 10,
    prewrite_bytes=8 << 10,
    checkpoint_bytes=64 << 10,
    index_cache_bytes=256 << 10,
)
HEADER_BYTES = 56

Appends = list[tuple[int, int, int]]
"""(stream, records, seconds that pass before)"""

appends = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 2)), min_size=20, max_size=120
)
small_appends = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 2), st.integers(0, 1)), min_size=150, max_size=300
)
"""So many blocks of a shard in one segment that they make several groups of rows."""


def fill(env: SimEnv, program: Appends) -> hs.Store:
    store = hs.open(ROOT, config=CONFIG, env=env)
    streams = [store.create_stream(f"s{number}") for number in range(4)]
    for number, records, seconds in program:
        env.advance(seconds)
        streams[number].append_many([bytes(90)] * records, durability="os")
    return store


def blocks_of(env: SimEnv) -> dict[int, list[Block]]:
    shards: dict[int, list[Block]] = {}
    for segment in read_store(image_of(env)).segments:
        for _, block in segment.blocks:
            shards.setdefault(block.shard, []).append(block)
    return shards


def length(block: Block) -> int:
    return HEADER_BYTES + len(block.payload)


def check_seeks(journal: Journal, shard: int, blocks: list[Block], first: int) -> None:
    kept = [b for b in blocks if b.seq + b.count > first]
    end = blocks[-1].seq + blocks[-1].count
    for block in blocks:
        lsn = block.seq + block.count - 1
        expected = (block.seq, block.order, block.time_ms) if lsn >= first else None
        assert journal.block_of(shard, lsn) == expected
    seqs = [max(b.seq, first) for b in kept] + [end]
    times = [b.time_ms for b in kept]
    for time_ms in {b.time_ms + step for b in blocks for step in (-1, 0, 1)}:
        assert journal.seek_time(shard, time_ms) == seqs[bisect.bisect_left(times, time_ms)]
    orders = [b.order for b in kept]
    for order in {b.order + step for b in blocks for step in (-1, 0, 1)}:
        assert journal.seek_order(shard, order) == seqs[bisect.bisect_left(orders, order)]
    costs = [length(b) / b.count for b in blocks]
    for lsn in {*seqs, (seqs[0] + end) // 2}:
        about = journal.bytes_from(shard, lsn)
        assert int(min(costs) * (end - lsn)) <= about + 20
        assert about <= max(costs) * (end - lsn)
    sums = list(accumulate((length(b) for b in reversed(kept)), initial=0))
    for most in {s + step for s in sums for step in (-1, 0, 1)} - {-1}:
        blocks_kept = bisect.bisect_right(sums, most) - 1
        assert journal.seek_bytes(shard, most) == seqs[len(kept) - blocks_kept]


@given(program=appends | small_appends, cut=st.integers(0, 400))
@settings(max_examples=effort.of(25, brief=8))
def test_seeks_agree_with_a_scan_before_and_after_reopening(program: Appends, cut: int) -> None:
    env = SimEnv(seed=1)
    store = fill(env, program)
    store.close()
    truth = {k: v for k, v in blocks_of(env).items() if k < 1 << 63}
    env = env.process_crash()
    store = hs.open(ROOT, config=CONFIG, env=env)
    journal = store._engine.journal
    for shard, blocks in truth.items():
        assert journal.info(shard).bytes == sum(map(length, blocks))
        check_seeks(journal, shard, blocks, 1)
        first = min(cut, blocks[-1].seq + blocks[-1].count)
        journal.trim(shard, first)
        check_seeks(journal, shard, blocks, max(1, first))
    journal.check_invariants()
    store.close()


@given(program=appends, cut=st.integers(0, 400))
@settings(max_examples=effort.of(25, brief=8))
def test_seeks_agree_with_a_scan_in_the_segment_being_written(program: Appends, cut: int) -> None:
    env = SimEnv(seed=1)
    store = fill(env, program)
    store.sync()
    journal = store._engine.journal
    for shard, blocks in blocks_of(env).items():
        if shard < 1 << 63:
            check_seeks(journal, shard, blocks, 1)
            first = min(cut, blocks[-1].seq + blocks[-1].count)
            journal.trim(shard, first)
            check_seeks(journal, shard, blocks, max(1, first))
    journal.check_invariants()
    store.close()


def test_a_shard_that_is_not_there_is_told_apart_from_an_empty_one() -> None:
    with hs.open(ROOT, config=CONFIG, env=SimEnv(seed=1)) as store:
        store.create_stream("s")
        journal = store._engine.journal
        (shard,) = (shard for shard in journal.shards() if shard < 1 << 63)
        assert journal.seek_time(shard, 0) == journal.seek_bytes(shard, 0) == 1
        assert journal.block_of(shard, 1) is None
        for call in (
            lambda: journal.info(99),
            lambda: journal.trim(99, 1),
            lambda: journal.seek_time(99, 1),
            lambda: journal.bytes_from(99, 1),
            lambda: journal.seek_order(99, 1),
            lambda: journal.seek_bytes(99, 1),
            lambda: journal.stage([(99, [b"x"], None)], 2, system=False),
        ):
            with pytest.raises(StreamNotFound, match="shard 99"):
                call()
        journal.close_shard(shard)
        with pytest.raises(StreamNotFound):
            store.stream("s").append(b"x")


def test_a_seek_for_what_was_trimmed_finds_the_first_record_kept() -> None:
    config = dataclasses.replace(CONFIG, segment_bytes_min=4 << 20, segment_bytes_max=4 << 20)
    env = SimEnv(seed=1)
    with hs.open(ROOT, config=config, env=env) as store:
        stream = store.create_stream("s")
        for _ in range(300):
            env.advance(1)
            stream.append(b"")
    env = env.process_crash()
    with hs.open(ROOT, config=config, env=env) as store:
        journal = store._engine.journal
        (shard,) = (shard for shard in journal.shards() if shard < 1 << 63)
        blocks = blocks_of(env)[shard]
        assert len(blocks) == 300
        journal.trim(shard, 250)
        check_seeks(journal, shard, blocks, 250)


def damaged_rows(env: SimEnv) -> list[tuple[str, int]]:
    """Flip a bit in the rows of every sealed segment; return where."""
    places = []
    for name, data in image_of(env).items():
        trailer = data[-96:]
        if not name.endswith(".seg") or trailer[:8] != b"HSLFOOT1":
            continue
        offset = int.from_bytes(trailer[16:24], "little")
        env.disk.flip(f"{ROOT}/{name}", (offset + 5) * 8)
        places.append((f"{ROOT}/{name}", offset))
    assert places
    return places


def test_rows_that_do_not_verify_are_taken_from_the_frames() -> None:
    env = SimEnv(seed=1)
    fill(env, [(n % 4, 30, 0) for n in range(152)]).close()
    damaged = len(damaged_rows(env))
    with hs.open(ROOT, config=CONFIG, env=env.process_crash()) as store:
        for number in range(4):
            assert len(list(store.stream(f"s{number}").read())) == 30 * 38
        assert store._engine.journal.stats()["footers_rebuilt"] == damaged


def trailer_of(file: bytes) -> tuple[int, int, int] | None:
    """Return footer offset, bytes of rows and bytes of directory of a sealed segment."""
    sealed = file[-96:-88] == b"HSLFOOT1"
    return struct.unpack_from("<QQI", file, len(file) - 80) if sealed else None


def test_a_footer_with_a_flipped_bit_behind_its_rows_is_written_anew_as_it_was() -> None:
    origin = SimEnv(seed=1)
    fill(origin, [(n % 4, 30, 1) for n in range(80)]).close()
    flipped = 0
    for path in (p for p in origin.disk.walk(ROOT) if p.endswith(".seg")):
        sound = origin.disk.read_all(path)
        trailer = len(sound) - 96
        footer, rows, directory = trailer_of(sound) or (0, 0, 0)
        listed = footer + rows + directory
        places = [*range(footer + rows, listed, 3), *range(trailer + 8, len(sound), 7)]
        for at in [listed + 1, *places[:: effort.of(1, brief=4)]]:
            env = origin.clone()
            env.disk.flip(path, at * 8 + at % 8)
            with hs.open(ROOT, config=CONFIG, env=env) as store:
                assert env.disk.read_all(path) == sound, f"byte {at} of {path}"
                store._engine.journal.check_invariants()
            flipped += 1
    assert flipped > effort.of(100, brief=25)


def test_rows_in_several_pieces_are_found_whichever_of_them_are_kept() -> None:
    """More pieces than the cache has room for, looked at here and there."""
    config = dataclasses.replace(CONFIG, segment_bytes_min=8 << 20, segment_bytes_max=8 << 20)
    env = SimEnv(seed=1)
    blocks = 70_000
    with hs.open(ROOT, config=config, env=env) as store:
        streams = [store.create_stream("a"), store.create_stream("b")]
        for number in range(blocks):
            streams[number % 2].append(b"", durability="memory")
    env = env.process_crash()
    with hs.open(ROOT, config=config, env=env) as store:
        journal = store._engine.journal
        rows = sum(
            trailer[1] for trailer in map(trailer_of, image_of(env).values()) if trailer is not None
        )
        assert rows > 5 * (64 << 10)
        for step in range(3000):
            lsn = step * 7919 % (blocks // 2) + 1
            shard = 1 + step % 2
            found = journal.block_of(shard, lsn)
            assert found is not None
            assert found[0] == lsn
            assert journal.seek_order(shard, found[1]) == lsn
        assert len(list(store.stream("b").read())) == blocks // 2


def test_rows_and_frames_that_do_not_verify_are_damage_with_ids() -> None:
    env = SimEnv(seed=1)
    fill(env, [(n % 4, 30, 0) for n in range(152)]).close()
    path, footer = damaged_rows(env)[1]
    env.disk.flip(path, (footer - 4096 + 200) * 8)
    with hs.open(ROOT, config=CONFIG, env=env.process_crash()) as store:
        journal = store._engine.journal
        first = next(store.stream("s1").read()).id
        assert first is not None
        shard = first.shard_id
        with pytest.raises(CorruptionError) as caught:
            list(store.stream("s1").read())
        assert caught.value.path == path
        assert f"shard {shard} " in str(caught.value)
        newest = journal.info(shard).durable_next - 1
        assert journal.block_of(shard, newest) is not None
        at = int(re.findall(r"shard \d+ (\d+)-", str(caught.value))[0])
        with pytest.raises(CorruptionError):
            journal.block_of(shard, at)


def test_a_file_that_was_opened_before_its_segment_was_sealed_is_opened_anew() -> None:
    env = SimEnv(seed=1)
    with hs.open(ROOT, config=CONFIG, env=env) as store:
        stream = store.create_stream("s")
        stream.append(bytes(1000))
        journal = store._engine.journal
        assert journal.stats()["direct"]
        (active,) = segment_facts(journal)
        # What is not sealed is not regrouped: it is opened, and let go of.
        swap = ffi.new("struct hsl_swap **")
        numbers = [active.number]
        found = lib.hsl_swap_begin(journal.log, numbers, 1, 1, 1 << 20, swap)
        assert (found, swap[0]) == (lib.HSL_NOT_FOUND, ffi.NULL)
        for _ in range(600):
            stream.append(bytes(1000))
        assert len(list(stream.read())) == 601


class MallInfo2(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]


def allocated() -> int:
    """Bytes that malloc has handed out in this process: uordblks and hblkhd of mallinfo2(3)."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo2
    info = mallinfo2()
    return int(info.field7 + info.field4)


def bytes_to_open(path: Path, blocks: int, payload: int) -> tuple[int, int]:
    """Fill a store; return the segments it has and what an open one takes of memory."""
    with hs.open(path, config=CONFIG, durability="memory") as store:
        streams = [store.create_stream("a"), store.create_stream("b")]
        for number in range(blocks):
            streams[number % 2].append(bytes(payload))
    before = allocated()
    with hs.open(path, config=CONFIG) as store:
        assert store._engine.journal.stats()["index_blocks"] >= blocks
        return len(segment_facts(store._engine.journal)), allocated() - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc's mallinfo2")
@pytest.mark.unsanitized("mallinfo2 counts nothing of the memory that sanitizers hand out")
def test_memory_of_an_open_store_depends_on_its_segments_not_on_its_blocks(tmp_path: Path) -> None:
    bytes_to_open(tmp_path / "warm", 100, 100)
    few_segments, few = bytes_to_open(tmp_path / "few", 1_500, 3_000)
    many_segments, many = bytes_to_open(tmp_path / "many", 40_000, 20)
    assert many / many_segments < 1.5 * few / few_segments
    assert many < 8 * 40_000
