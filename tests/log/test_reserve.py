"""The reserve on a full disk: a killed store opens, also where direct I/O is not in use.

Without it the end of the log is written once more, elsewhere: what a failed sync left only in the
cache must not be taken for durable. The reserve gives the room.
"""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

import hstreamlite as hs
from hstreamlite.errors import StorageFull
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config

CONFIG = small_config(direct_io=False)


def killed(size: int) -> SimEnv:
    env = SimEnv(seed=4)
    store = hs.open("/db", config=CONFIG, env=env)
    stream = store.create_stream("a")
    for number in range(size):
        stream.append(b"%d" % number + b"." * 900)
    env = env.process_crash()
    with suppress(FileNotFoundError):
        env.files.unlink("/db/segments/spare")  # it would be given up first
    return env


def fill(env: SimEnv, room: int = 0) -> None:
    """Leave so much room on the disk."""
    disk = env.disk
    low, high = 0, 1 << 30
    while low < high:
        middle = (low + high) // 2
        disk.set_capacity(middle)
        low, high = (low, middle) if disk.free_bytes("/") > room else (middle + 1, high)
    disk.set_capacity(low)


def test_reserve_serves_an_open_that_needs_room() -> None:
    env = killed(20)
    fill(env)
    with hs.open("/db", config=CONFIG, env=env) as store:
        assert len(list(store.stream("a").read())) == 20
        env.disk.set_capacity(1 << 30)
        store.stream("a").append(b"goes on")


def test_reserve_serves_an_open_that_lacks_room_at_its_last_step() -> None:
    """The copy is whole and has its name, and its footer does not fit."""
    env = killed(20)
    struck = env.disk.inject(Fail(ops=Op.PWRITE, path=".seg", errno=errno.ENOSPC))
    with hs.open("/db", config=CONFIG, env=env) as store:
        assert len(list(store.stream("a").read())) == 20
        store.stream("a").append(b"goes on")
    assert struck() == 1


def test_open_that_finds_no_room_says_how_much_and_leaves_all_as_it_was() -> None:
    env = killed(20)
    env.files.unlink("/db/segments/reserve")
    fill(env)
    with pytest.raises(StorageFull, match="open the store again") as caught:
        hs.open("/db", config=CONFIG, env=env)
    assert caught.value.needed > 20_000
    assert not env.files.exists("/db/segments/copy")
    env.disk.set_capacity(1 << 30)
    with hs.open("/db", config=CONFIG, env=env) as store:
        assert len(list(store.stream("a").read())) == 20


def test_reserve_outlives_a_failing_open_of_it() -> None:
    struck = 0
    for nth in range(1, 6):
        env = SimEnv(seed=5)
        store = hs.open("/db", config=small_config(), env=env)
        stream = store.create_stream("a")
        stream.append(b"first")
        fill(env, room=200_000)
        with pytest.raises(StorageFull):
            for _ in range(1000):
                stream.append(b"." * 3000)
        env.disk.inject(Fail(ops=Op.OPEN, path="segments/spare", nth=nth))
        for number in range(200):
            try:
                store.create_stream(f"s{number}")
            except hs.StorageUnavailable:
                struck += 1
                env.disk.clear_faults()
                store.create_stream(f"s{number}")
                break
            except StorageFull:
                break
        env.disk.clear_faults()
        env.disk.set_capacity(1 << 30)
        store.close()
    assert struck > 1
