"""The next segment's file is there before a burst needs it, and not before anybody could."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import ffi, lib
from hstreamlite._native.files import Files
from hstreamlite.env import system_env
from hstreamlite.testing.simenv import SimEnv

JOIN_SECONDS = 60
SPARE = "/db/segments/spare"


def appended(store: hs.Store, kib: int) -> None:
    for _ in range(kib // 60):
        store.stream("a").append(b"." * 60_000, durability="sync")


def test_a_burst_that_fits_the_stage_finds_room_for_all_of_it() -> None:
    """So a small segment that is a quarter full has its successor; half full would be too late."""
    env = SimEnv(seed=1)
    with hs.open("/db", env=env) as store:
        store.create_stream("a")
        appended(store, 120)
        assert SPARE not in env.disk.walk("/db")
        appended(store, 240)
        assert SPARE in env.disk.walk("/db")
        assert store.stats().log["segments_rolled"] == 1


def test_a_large_segment_has_its_successor_when_half_full() -> None:
    env = SimEnv(seed=1)
    config = hs.StoreConfig(stage_bytes=8 << 20, segment_bytes_min=32 << 20)
    with hs.open("/db", env=env, config=config) as store:
        store.create_stream("a")
        appended(store, 14 << 10)
        assert SPARE not in env.disk.walk("/db")
        appended(store, 4 << 10)
        assert SPARE in env.disk.walk("/db")
        assert store.stats().log["segments_rolled"] == 1


class LookAtLock:
    """File calls of the system: one thread is held where it looks at the lock of the store, and the
    disk may be too full for files larger than `most`."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.most: int | None = None
        self.held, self.let_go = threading.Event(), threading.Event()
        system = lib.hsl_io_posix()
        self.io = ffi.new("struct hsl_io *", system[0])

        def locked(ctx: Any, path: Any, owner: Any) -> int:
            if threading.get_ident() == self.thread:
                self.held.set()
                self.let_go.wait(JOIN_SECONDS)
            return int(system.locked(ctx, path, owner))

        def allocate(ctx: Any, fd: int, offset: int, size: int) -> int:
            if self.most is not None and size > self.most:
                return -errno.ENOSPC
            return int(system.allocate(ctx, fd, offset, size))

        self._keep = (
            ffi.callback("int(void *, const char *, int64_t *)", locked),
            ffi.callback("int(void *, int, uint64_t, uint64_t)", allocate),
        )
        self.io.locked, self.io.allocate = self._keep


def test_nothing_counts_on_the_room_of_a_file_that_makes_way_for_a_larger_one(
    tmp_path: Path,
) -> None:
    """Else it would be written behind the end of a file that is too small, if at all."""
    calls, config = LookAtLock(), hs.StoreConfig(segment_bytes_min=64 << 10)
    files = Files(calls.io)
    with hs.open(tmp_path / "s", config=config, env=system_env(files, files)) as store:
        stream, spare = store.create_stream("a"), tmp_path / "s" / "segments" / "spare"
        count = 0
        while not (size := spare.exists() and spare.stat().st_size):
            stream.append(b"." * 10_000)
            count += 1
        fits_it_only = [b"." * (size // 8)] * 6
        calls.most = 64 << 10
        refused: list[BaseException] = []

        def append_more() -> None:
            calls.thread = threading.get_ident()
            try:
                stream.append_many([b"." * size] * 4)
            except hs.StorageFull as error:
                refused.append(error)

        thread = threading.Thread(target=append_more, daemon=True)
        thread.start()
        assert calls.held.wait(JOIN_SECONDS)
        [shard] = store._engine.stream("a").shards
        staged = store._engine.journal.try_stage([(shard.id, fits_it_only, None)], 0)
        calls.let_go.set()
        thread.join(JOIN_SECONDS)
        assert staged is None
        assert len(refused) == 1
        with pytest.raises(hs.StorageFull):
            stream.append_many(fits_it_only)
        stream.append(b"small")
        assert len(list(stream.read())) == count + 1
