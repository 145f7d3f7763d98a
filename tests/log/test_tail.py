"""The page TAIL: what it says is durable, at every moment and whatever happens to its writer."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op

PAGE = struct.Struct("<8sIHH16s16sQQQQQQ")
STARTING, OPEN, CLOSED = 1, 2, 3


class Tail(NamedTuple):
    magic: bytes
    crc: int
    major: int
    minor: int
    uuid: bytes
    boot: bytes
    zero0: int
    zero1: int
    sequence: int
    state: int
    epoch: int
    durable: int


def tail_of(env: SimEnv) -> Tail:
    return Tail(*PAGE.unpack_from(env.files.read_all("/db/TAIL")))


def opened(env: SimEnv) -> hs.Store:
    return hs.open("/db", env=env)


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
