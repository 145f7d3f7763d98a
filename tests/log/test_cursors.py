"""A cursor reads the same records in whatever steps, from memory, from files, and from parts of
blocks that it read before; damage shows wherever it lies."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.errors import CorruptionError
from hstreamlite.log.journal import Cursor
from hstreamlite.sub.keytab import run_bytes
from hstreamlite.testing.simenv import SimEnv
from tests.log.golden.make import ROOT, image_of

CONFIG = hs.StoreConfig(
    segment_bytes_min=1 << 20,
    segment_bytes_max=1 << 20,
    batch_bytes_max=128 << 10,
    chunk_bytes=256 << 10,
    stage_bytes=1 << 20,
)

Appends = list[tuple[int, int, hs.Compression]]
"""(records, bytes of the largest, compression); the blocks are of up to 100 KiB."""

blocks = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 330), st.sampled_from(get_args(hs.Compression))),
    min_size=1,
    max_size=6,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 400), st.integers(1, 60_000)),
        st.tuples(st.just("batches"), st.integers(1, 4), st.integers(1, 60_000)),
        st.tuples(st.just("runs"), st.integers(0, 1 << 60), st.integers(1, 60_000)),
        st.tuples(st.just("seek"), st.integers(0, 10_000), st.just(0)),
        st.tuples(st.just("anew"), st.integers(0, 10_000), st.just(0)),
    ),
    min_size=1,
    max_size=30,
)


def payloads_of(program: Appends) -> list[list[bytes]]:
    return [
        [(b"%d.%d " % (number, at) * 100)[: at * 7919 % (size + 1)] for at in range(records)]
        for number, (records, size, _) in enumerate(program)
    ]


@contextmanager
def stored(program: Appends, *, reopened: bool) -> Iterator[tuple[SimEnv, hs.Store]]:
    env = SimEnv(seed=1)
    with hs.open(ROOT, config=CONFIG, env=env) as store:
        stream = store.create_stream("s")
        for batch, (_, _, compression) in zip(payloads_of(program), program, strict=True):
            stream.append_many(batch, compression=compression)
        if not reopened:
            yield env, store
    if reopened:
        env = env.process_crash()
        with hs.open(ROOT, config=CONFIG, env=env) as store:
            yield env, store


def new_cursor(store: hs.Store, lsn: int = 1) -> Cursor:
    engine = store._engine
    (shard,) = engine.stream("s").shard_ids
    return engine.journal.cursor(shard, lsn)


def payloads(records: list[Any] | None) -> list[bytes]:
    assert records is not None
    return [record.payload for record in records]


def read_some_runs(cursor: Cursor, expected: list[bytes], seed: int, most: int) -> None:
    """Read runs near to each other and far apart, upwards and downwards, and twice."""
    source = random.Random(seed)
    runs = []
    for _ in range(source.randint(1, 8)):
        first = source.randint(1, len(expected))
        for _ in range(source.randint(1, 4)):
            size = min(source.randint(1, 20), len(expected) + 1 - first)
            runs.append((first, size, source.randint(1, 9)))
            first += size + source.randint(0, 70)
            if first > len(expected):
                break
    wanted = [(lsn, n) for first, size, n in runs for lsn in range(first, first + size)]
    packed = b"".join(run_bytes(*run) for run in runs)
    most = source.choice((most, 1 << 30))
    excerpt = cursor.excerpt_runs(packed, max_bytes=most, may_block=True)
    assert excerpt
    got = excerpt.deliveries(0, len(excerpt), object())
    assert most < 1 << 30 or len(got) == len(wanted)
    assert [(record.id.lsn, record.attempt) for record in got] == wanted[: len(got)]
    assert payloads(got) == [expected[lsn - 1] for lsn, _ in wanted[: len(got)]]


@given(program=blocks, walk=steps, reopened=st.booleans())
@settings(max_examples=60)
def test_any_steps_read_what_was_appended(
    program: Appends, walk: list[tuple[str, int, int]], reopened: bool
) -> None:
    expected = [payload for batch in payloads_of(program) for payload in batch]
    with stored(program, reopened=reopened) as (_, store):
        cursor = new_cursor(store)
        for step, count, most in walk:
            if step == "seek":
                cursor.seek(count % len(expected) + 1)
                continue
            if step == "anew":
                cursor = new_cursor(store, count % len(expected) + 1)
                continue
            if step == "runs":
                read_some_runs(cursor, expected, count, most)
                continue
            at = cursor.lsn - 1
            if step == "batches":
                raw = cursor.read_batches(count, max_bytes=most)
                assert raw is not None
                assert len(raw) <= count
                assert all(batch.batch_id + batch.first == at + 1 for batch in raw[:1])
                assert sum(len(batch.body) for batch in raw[:-1]) < most
                assert cursor.lsn == (raw[-1].batch_id + raw[-1].end if raw else at + 1)
                continue
            got = cursor.read(count, max_bytes=most, last=most % 2 == 0)
            assert got is not None
            assert len(got) <= count
            assert payloads(got) == expected[at : at + len(got)]
            assert [record.id.lsn for record in got] == list(range(at + 1, at + 1 + len(got)))
            assert bool(got) == (at < len(expected))
            if most == 1:
                assert len(got) <= 1


LARGE: Appends = [(300, 330, "none"), (300, 330, "none")]
EXPECTED = [payload for batch in payloads_of(LARGE) for payload in batch]


def bytes_read(store: hs.Store) -> int:
    return store.stats().log["bytes_read"]


def pages_of(first: int, records: list[bytes]) -> int:
    """So many pages may be read for records of one block; if it were more than half, all of it."""
    start = first // 300 * 300
    whole = sum(len(record) + 12 for record in EXPECTED[start : start + 300]) // 4096 + 2
    some = sum(len(record) + 12 for record in records) // 4096 + 4
    return some if 2 * some <= whole - 2 else whole


@given(first=st.integers(0, 599), count=st.integers(1, 300))
@example(first=158, count=99)
@settings(max_examples=40)
def test_a_block_that_was_sought_is_read_in_part(first: int, count: int) -> None:
    with stored(LARGE, reopened=True) as (_, store):
        expected = EXPECTED[first : first + count]
        assert payloads(new_cursor(store, first + 1).read(count)) == expected
        before = bytes_read(store)
        cursor = new_cursor(store, first + 1)
        assert payloads(cursor.read(count)) == expected
        if first // 300 == (first + count - 1) // 300:
            assert bytes_read(store) - before <= 4096 * pages_of(first, expected)
        assert payloads(cursor.read(1000, end=601)) == EXPECTED[first + count :]


def test_the_last_records_across_two_blocks_are_read_in_parts() -> None:
    with stored(LARGE, reopened=True) as (_, store):
        whole = 0
        for first in (1, 301):
            before = bytes_read(store)
            assert new_cursor(store, first).read(1)
            whole = bytes_read(store) - before
        stream = store.stream("s")
        tail = stream.tail()
        assert tail is not None
        start = hs.RecordId(tail.shard_id, 1, 270)
        before = bytes_read(store)
        assert payloads(list(stream.read(start=start, limit=60))) == EXPECTED[270:330]
        assert bytes_read(store) - before < whole


@given(first=st.integers(0, 599))
@settings(max_examples=20)
def test_a_batch_is_whole_wherever_its_block_was_sought(first: int) -> None:
    with stored(LARGE, reopened=True) as (_, store):
        stream = store.stream("s")
        start = list(stream.read())[first].id
        assert start is not None
        for _ in range(2):
            assert next(stream.read(start=start)).payload == EXPECTED[first]
            records = [r for batch in stream.read_batches(start=start) for r in batch.records()]
            assert payloads(records) == EXPECTED[first:]


def place_of(env: SimEnv, payload: bytes) -> tuple[str, int]:
    """Where a payload lies: file and byte."""
    for name, data in image_of(env).items():
        if name.endswith(".seg") and (at := data.find(payload)) >= 0:
            return f"{ROOT}/{name}", at
    raise AssertionError("no file holds the payload")


def test_damage_to_a_part_that_was_read_before_is_found() -> None:
    with stored(LARGE, reopened=True) as (env, store):
        first = next(at for at in range(100, 200) if len(EXPECTED[at]) > 300)
        assert payloads(new_cursor(store, first + 1).read(1)) == [EXPECTED[first]]
        assert payloads(new_cursor(store, first + 1).read(1)) == [EXPECTED[first]]
        path, at = place_of(env, EXPECTED[first])
        env.disk.flip(path, at * 8)
        with pytest.raises(CorruptionError):
            new_cursor(store, first + 1).read(1)


def test_records_before_damage_are_read_in_whatever_steps() -> None:
    with stored(LARGE, reopened=True) as (env, store):
        path, at = place_of(env, next(payload for payload in EXPECTED[400:] if len(payload) > 300))
        env.disk.flip(path, at * 8)
        cursor = new_cursor(store)
        got: list[bytes] = []
        with pytest.raises(CorruptionError, match="301"):
            while records := cursor.read(70, max_bytes=5000):
                got += payloads(records)
        assert got == EXPECTED[:300]
        assert cursor.lsn == 301


def test_records_before_a_block_that_is_no_batch_are_read() -> None:
    with stored([(3, 10, "none")], reopened=False) as (_, store):
        engine = store._engine
        (shard,) = engine.stream("s").shard_ids
        engine.journal.wait(engine.journal.stage([(shard, 0, b"\xff\xff", 2, 2)], 2)[0])
        cursor = new_cursor(store)
        assert len(cursor.read(100) or ()) == 3
        for _ in range(2):
            with pytest.raises(CorruptionError, match="batch"):
                cursor.read(100)


def test_a_file_that_ends_within_a_block_is_damage_with_ids() -> None:
    env = SimEnv()
    with hs.open("/db", env=env) as store:
        stream = store.create_stream("a")
        for letter in b"abc":
            stream.append(bytes([letter]) * 9000)
        path = next(path for path in env.disk.walk("/db") if path.endswith(".seg"))
        at = env.disk.read_all(path).index(b"b" * 9000)
    with hs.open("/db", env=env) as store:
        reader = store.stream("a").read()
        env.disk.truncate_raw(path, at + 4096)
        assert next(reader).payload == b"a" * 9000
        with pytest.raises(hs.CorruptionError) as caught:
            next(reader)
        assert caught.value.lost == (hs.LostRecords(1, 2, 2, "a"),)


def test_a_large_block_that_is_no_batch_is_damage_wherever_it_is_sought() -> None:
    """What is remembered of a block that was sought has the places of its records."""
    with stored([(3, 10, "none")], reopened=False) as (env, store):
        engine = store._engine
        (shard,) = engine.stream("s").shard_ids
        body = b"\xff" * 20_000
        engine.journal.wait(engine.journal.stage([(shard, 0, body, 2, len(body))], 2)[0])
    with hs.open(ROOT, config=CONFIG, env=env) as store:
        for _ in range(2):
            with pytest.raises(CorruptionError, match="batch"):
                new_cursor(store, 5).read(1)


def test_of_many_blocks_that_were_sought_the_newest_are_read_in_part() -> None:
    """As many as there is memory for; the one that was not used for longest gives way."""
    config = dataclasses.replace(CONFIG, index_cache_bytes=256 << 10)
    blocks = 400
    env = SimEnv(seed=1)
    with hs.open(ROOT, config=config, env=env) as store:
        stream = store.create_stream("s")
        for _ in range(blocks):
            stream.append_many([bytes(200)] * 100, durability="memory")
    with hs.open(ROOT, config=config, env=env) as store:

        def cost(block: int) -> int:
            before = bytes_read(store)
            assert payloads(new_cursor(store, 100 * block + 50).read(1)) == [bytes(200)]
            return bytes_read(store) - before

        for block in range(blocks):
            assert cost(block) > 20_000
        assert cost(0) > 20_000
        assert cost(blocks - 1) <= 8192


def test_what_the_system_has_of_a_file_takes_no_wait(tmp_path: Path) -> None:
    batches = 40
    with hs.open(tmp_path / "store", config=CONFIG) as store:
        stream = store.create_stream("s")
        for number in range(batches):
            stream.append_many([b"%d" % number * 500] * 100, durability="memory")
    if not has_cached_reads(next((tmp_path / "store" / "segments").iterdir())):
        pytest.skip("this system does not say what it has of a file")
    with hs.open(tmp_path / "store", config=CONFIG) as store:
        assert len(payloads(new_cursor(store).read(batches * 100))) == batches * 100
        cursor = new_cursor(store)
        assert cursor.read_batches(1, may_block=False) is None
        cursor.use_cache()
        sealed = batches // 4
        found = [cursor.read_batches(1, may_block=False) for _ in range(sealed)]
        assert [batch[0].batch_id for batch in found if batch] == [
            1 + 100 * number for number in range(sealed)
        ]


def test_what_the_system_has_no_more_of_a_file_waits_for_the_disk(tmp_path: Path) -> None:
    with hs.open(tmp_path / "store", config=CONFIG) as store:
        stream = store.create_stream("s")
        for number in range(40):
            stream.append_many([b"%d" % number * 500] * 100, durability="memory")
    segments = sorted((tmp_path / "store" / "segments").glob("*.seg"))
    if not (has_cached_reads(segments[0]) and all(map(forgotten, segments))):
        pytest.skip("this system does not say what it has of a file, or has all of it")
    with hs.open(tmp_path / "store", config=CONFIG) as store:
        waits = False
        for _ in range(50):  # the system may have read some of it again by itself
            cursor = new_cursor(store, 1001)
            cursor.use_cache()
            for segment in segments:
                forgotten(segment)
            if waits := cursor.read_batches(1, may_block=False) is None:
                break
        assert waits
        batches = cursor.read_batches(1)
        assert batches is not None
        assert [batch.batch_id for batch in batches] == [1001]


def test_what_is_read_past_the_system_waits_for_the_disk(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 20, segment_bytes_max=64 << 20)
    with hs.open(tmp_path / "store", config=config) as store:
        stream = store.create_stream("s")
        for number in range(60):
            stream.append_many([b"%d" % number * 2500] * 100, durability="memory")
        store.sync()
        if not store._engine.journal.stats()["direct"]:
            pytest.skip("this file system has no direct reads")
        cursor = new_cursor(store)
        cursor.use_cache()
        assert cursor.read_batches(1, may_block=False) is None
        assert cursor.read_batches(1) is not None


def has_cached_reads(path: Path) -> bool:
    """Tell whether a file that was just read can be read from what the system has of it."""
    path.read_bytes()
    if lib.hsl_io_portable():
        return False
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
        except OSError:
            return False


def forgotten(path: Path) -> bool:
    """Have the system forget what it has of a file, and tell whether it did."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        return False
