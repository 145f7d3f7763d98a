"""The page TAIL: what it says is durable, at every moment and whatever happens to its writer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import given, strategies as st

import hstreamlite as hs
from hstreamlite._native import ffi
from hstreamlite.env import OpenFlag
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Interrupt, Op

PAGE = struct.Struct("<8sIHH16s16sQQQQQQQ")
PAGE_BYTES = 4096
STARTING, OPEN, CLOSED = 1, 2, 3


class Tail(NamedTuple):
    magic: bytes
    crc: int
    major: int
    minor: int
    uuid: bytes
    boot: bytes
    ring_bytes: int
    zero: int
    sequence: int
    state: int
    epoch: int
    durable: int
    ring_from: int


def tail_of(env: SimEnv) -> Tail:
    return Tail(*PAGE.unpack_from(env.files.read_all("/db/TAIL")))


def opened(env: SimEnv, *, tail_bytes: int = 1 << 20, read_only: bool = False) -> hs.Store:
    config = hs.StoreConfig(tail_bytes=tail_bytes)
    return hs.open("/db", env=env, config=config, read_only=read_only)


@contextmanager
def mapped(env: SimEnv) -> Iterator[Any]:
    """Yield the memory of TAIL."""
    files, io = env.files, env.files.io
    size = len(files.read_all("/db/TAIL"))
    fd = files.open("/db/TAIL", OpenFlag.READ | OpenFlag.WRITE)
    memory = io.map_shared(io.ctx, fd, size)
    assert memory != ffi.NULL
    yield ffi.buffer(memory, size)
    io.unmap(io.ctx, memory, size)
    files.close(fd)


def payloads(reader: hs.Reader) -> list[object]:
    return [record.payload for record in reader]


def test_the_page_follows_every_group() -> None:
    env = SimEnv()
    store = opened(env)
    stream = store.create_stream("a")
    before = tail_of(env)
    assert (before.magic, before.state, before.boot) == (b"HSLTAIL1", OPEN, env.files.boot_id())
    for _ in range(5):
        stream.append(b"x" * 5000)
        after = tail_of(env)
        assert after.durable == before.durable + 8192
        assert after.sequence > before.sequence
        assert after.sequence % 2 == 0
        before = after
    stream.append(b"x", durability="memory")
    assert tail_of(env) == before
    store.close()
    assert (tail_of(env).state, tail_of(env).durable) == (CLOSED, before.durable + 4096)


def test_what_was_durable_stays_told_when_the_writer_is_killed() -> None:
    env = SimEnv()
    opened(env).create_stream("a").append(b"x")
    before = tail_of(env)
    env = env.process_crash()
    assert tail_of(env) == before
    opened(env)
    after = tail_of(env)
    assert after.durable >= before.durable
    assert (after.state, after.epoch) == (OPEN, before.epoch + 1)


def test_a_page_of_another_boot_is_made_anew_before_anything_changes() -> None:
    env = SimEnv()
    opened(env).create_stream("a").append(b"x")
    env = env.power_cut(profile="keep")
    assert tail_of(env).boot != env.files.boot_id()
    env.disk.inject(Fail(ops=Op.OPEN, path=".seg"))
    with pytest.raises(OSError, match="open /db/segments"):
        opened(env)
    tail = tail_of(env)
    assert (tail.boot, tail.state, tail.durable) == (env.files.boot_id(), STARTING, 0)
    env.disk.clear_faults()
    with opened(env) as store:
        assert [r.payload for r in store.stream("a").read()] == [b"x"]
        assert tail_of(env).state == OPEN


@pytest.mark.parametrize("op", [Op.OPEN, Op.SIZE, Op.MAP])
def test_a_page_that_cannot_be_looked_at_is_an_error_and_no_missing_one(op: Op) -> None:
    env = SimEnv()
    writer = opened(env)
    stream = writer.create_stream("a")
    stream.append(b"x")
    env.disk.inject(Fail(ops=op, path="TAIL"))
    with pytest.raises(OSError, match="TAIL"):
        hs.open("/db", env=env, read_only=True)
    with hs.open("/db", env=env, read_only=True) as follower:
        stream.append(b"y")
        follower._engine.journal.step()
        assert [r.payload for r in follower.stream("a").read()] == [b"x", b"y"]


def test_a_page_that_is_being_made_is_waited_for() -> None:
    """Its file is there before it has its size, and its size before what it says."""
    env = SimEnv()
    writer = opened(env)
    writer.create_stream("a").append(b"x")
    writer.close()
    env.disk.truncate_raw("/db/TAIL", 100)
    with hs.open("/db", env=env, read_only=True) as follower:
        assert [r.payload for r in follower.stream("a").read()] == [b"x"]


# The ring of the newest frames.


def test_a_follower_that_keeps_up_reads_no_file() -> None:
    env = SimEnv()
    with opened(env) as writer:
        stream = writer.create_stream("a")
        stream.append(b"before")
        with opened(env, read_only=True) as follower:
            reader = follower.stream("a").read(follow=True, start=hs.LATEST)
            assert payloads(reader) == []
            hits = env.disk.inject(Fail(ops=Op.PREAD, path=".seg", from_then_on=True))
            for n in range(60):
                stream.append(b"%d;" % n * 2000)
                assert payloads(reader) == [b"%d;" % n * 2000]
            assert hits() == 0
            env.disk.clear_faults()
            assert len(payloads(follower.stream("a").read())) == 61


@given(
    tail_bytes=st.sampled_from([0, 4096, 16 << 10, 20 << 10, 64 << 10]),
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=40),
    looks=st.sets(st.integers(0, 39)),
)
def test_frames_of_any_size_reach_a_follower_that_looks_now_and_then(
    tail_bytes: int, sizes: list[int], looks: set[int]
) -> None:
    env = SimEnv()
    with opened(env, tail_bytes=tail_bytes) as writer:
        stream = writer.create_stream("a")
        with opened(env, read_only=True) as follower:
            reader = follower.stream("a").read(follow=True)
            shown: list[object] = []
            sent: list[object] = []
            for n, size in enumerate(sizes):
                sent.append(bytes([n]) * size)
                stream.append(bytes([n]) * size)
                if n in looks:
                    shown += payloads(reader)
                    assert shown == sent
            assert shown + payloads(reader) == sent


@pytest.mark.parametrize("tail_bytes", [0, 64 << 10, 8 << 20])
def test_a_frame_larger_than_a_chunk_is_taken_in_whole(tail_bytes: int) -> None:
    env = SimEnv()
    config = hs.StoreConfig(tail_bytes=tail_bytes, chunk_bytes=64 << 10, stage_bytes=256 << 10)
    with (
        hs.open("/db", env=env, config=config) as writer,
        hs.open("/db", env=env, config=config, read_only=True) as follower,
    ):
        stream = writer.create_stream("a")
        reader = follower.stream("a").read(follow=True)
        for number in range(5):
            sent = [b"%d;" % n * 10_000 for n in range(20)]
            stream.append(b"small")
            stream.append_many(sent)
            if number % 2 == 0:
                stream.append(b"small")
                assert payloads(reader)[-22:] == [b"small", *sent, b"small"]


@pytest.mark.parametrize("damage", ["zeros", "bits", "place"])
def test_what_the_ring_holds_wrongly_is_read_from_the_file(damage: str) -> None:
    env = SimEnv()
    with opened(env) as writer:
        stream = writer.create_stream("a")
        with opened(env, read_only=True) as follower:
            reader = follower.stream("a").read(follow=True)
            assert payloads(reader) == []
            stream.append(b"true" * 1000)
            tail = tail_of(env)
            hits = env.disk.inject(Interrupt(ops=Op.PREAD, path=".seg", from_then_on=True))
            with mapped(env) as page:
                if damage == "bits":
                    page[PAGE_BYTES + tail.durable % tail.ring_bytes - 8000] = b"?"
                else:
                    page[PAGE_BYTES : len(page)] = bytes(tail.ring_bytes)
                if damage == "place":
                    page[PAGE.size - 8 : PAGE.size] = bytes(8)
            assert payloads(reader) == [b"true" * 1000]
            assert hits() > 0
            stream.append(b"more")
            assert payloads(reader) == [b"more"]


def test_a_store_without_room_for_the_ring_goes_on_without() -> None:
    env = SimEnv(capacity=24 << 20)
    with opened(env, tail_bytes=32 << 20) as writer:
        stream = writer.create_stream("a")
        assert len(env.files.read_all("/db/TAIL")) == PAGE_BYTES
        with opened(env, read_only=True) as follower:
            stream.append(b"x")
            assert payloads(follower.stream("a").read()) == [b"x"]


def test_a_ring_keeps_its_size_and_is_left_alone_where_none_is_wanted() -> None:
    env = SimEnv()
    opened(env, tail_bytes=64 << 10).close()
    with opened(env, tail_bytes=16 << 10) as writer:
        stream = writer.create_stream("a")
        assert tail_of(env).ring_bytes == 64 << 10
        assert tail_of(env).ring_from < tail_of(env).durable
    with opened(env, tail_bytes=0) as writer, opened(env, read_only=True) as follower:
        writer.stream("a").append(b"x")
        assert tail_of(env).ring_from == 2**64 - 1
        assert payloads(follower.stream("a").read()) == [b"x"]
    assert stream.name == "a"
