"""What the simulated disk promises: durability by syncs only, faults on the point, determinism."""

import errno
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hstreamlite._native import ffi, lib
from hstreamlite._native.files import Files, posix_files
from hstreamlite.env import LockHeld, OpenFlag
from hstreamlite.testing.crash import Recording
from hstreamlite.testing.simenv import SimEnv, SimRng
from hstreamlite.testing.simfs import (
    Delay,
    Fail,
    FailSync,
    Fault,
    Interrupt,
    Op,
    Short,
    SimFiles,
)

READ, WRITE, CREATE, DIRECT = OpenFlag.READ, OpenFlag.WRITE, OpenFlag.CREATE, OpenFlag.DIRECT
RW = READ | WRITE | CREATE
PAGE = 4096


def durable_file(disk: SimFiles, path: str, content: bytes) -> int:
    fd = disk.open(path, RW)
    disk.write_all(fd, content, 0)
    disk.datasync(fd)
    disk.sync_dir("/")
    return fd


def refused(code: int, call: Callable[..., object], *arguments: object) -> OSError:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == code
    return caught.value


def aligned(size: int) -> Any:
    base = ffi.new("char[]", size + PAGE)
    start = -int(ffi.cast("uintptr_t", base)) % PAGE
    return memoryview(ffi.buffer(base))[start : start + size]


class Image:
    """Content of a file after each of many power cuts of one disk."""

    def __init__(self, disk: SimFiles, cuts: int = 400) -> None:
        self.disks = [disk.clone().power_cut(seed=seed) for seed in range(cuts)]

    def contents(self, path: str) -> list[bytes | None]:
        return [cut.read_all(path) if cut.exists(path) else None for cut in self.disks]


def test_op_numbers_are_those_of_the_declaration() -> None:
    for op in Op:
        if op not in (Op.ANY, Op.SYNCS, Op.TRANSFERS):
            assert getattr(lib, f"HSL_SIM_{op.name}") == op
    assert sum(Op) == Op.ANY


def test_what_was_synced_survives_every_power_cut() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"s" * 10_000)
    disk.write_all(fd, b"u" * 5_000, 12_000)
    disk.truncate(disk.open("/b", RW), 100)
    for content in Image(disk).contents("/a"):
        assert content is not None
        assert content[:10_000] == b"s" * 10_000


def test_what_was_not_synced_may_vanish_stay_or_tear() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"")
    data = bytes(1 + sector for sector in range(16) for _ in range(512))
    disk.write_all(fd, data, 0)
    contents = Image(disk).contents("/a")
    assert b"" in contents
    assert data in contents
    assert bytes(len(data)) in contents
    assert any(c and len(c) % 512 and data.startswith(c) for c in contents)
    sectors = [c[512:1024] for c in contents if c and len(c) == len(data)]
    assert {data[512:1024], bytes(512)} < set(sectors)


def test_unbuffered_writes_tear_at_sectors_only() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", b"o" * PAGE)
    fd = disk.open("/a", RW | DIRECT)
    page = aligned(PAGE)
    page[:] = b"n" * PAGE
    disk.pwrite(fd, page, 0)
    for content in Image(disk).contents("/a"):
        assert content is not None
        for at in range(0, PAGE, 512):
            assert len(set(content[at : at + 512])) == 1 or not set(content) <= set(b"on\0")


def test_later_writes_may_survive_earlier_ones() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", bytes(2 * PAGE))
    disk.write_all(fd, b"1" * PAGE, 0)
    disk.write_all(fd, b"2" * PAGE, PAGE)
    contents = Image(disk).contents("/a")
    for first, second in itertools.product((bytes(PAGE), b"1" * PAGE), (bytes(PAGE), b"2" * PAGE)):
        assert first + second in contents


def test_stale_bytes_of_a_removed_file_may_appear() -> None:
    disk = SimFiles()
    durable_file(disk, "/old", b"secret" * 2_000)
    disk.unlink("/old")
    disk.close(0)
    disk.sync_dir("/")
    fd = durable_file(disk, "/new", b"")
    disk.write_all(fd, b"n" * PAGE, 0)
    assert any(c and b"secretsecret" in c for c in Image(disk, 2_000).contents("/new"))


def test_a_file_whose_directory_was_not_synced_may_vanish() -> None:
    disk = SimFiles()
    fd = disk.open("/a", RW)
    disk.write_all(fd, b"x", 0)
    disk.datasync(fd)
    assert set(Image(disk, 100).contents("/a")) == {None, b"x"}
    disk.sync_dir("/")
    assert set(Image(disk, 100).contents("/a")) == {b"x"}


def test_an_unsynced_removal_may_be_undone() -> None:
    disk = SimFiles()
    disk.close(durable_file(disk, "/a", b"x"))
    disk.unlink("/a")
    assert not disk.exists("/a")
    assert set(Image(disk, 100).contents("/a")) == {None, b"x"}


def test_rename_is_all_or_nothing() -> None:
    disk = SimFiles()
    durable_file(disk, "/live", b"old")
    durable_file(disk, "/next", b"new")
    disk.rename("/next", "/live")
    image = Image(disk, 100)
    seen = set(zip(image.contents("/live"), image.contents("/next"), strict=True))
    assert seen == {(b"old", b"new"), (b"new", None)}
    disk.sync_dir("/")
    assert set(Image(disk, 100).contents("/live")) == {b"new"}


def test_a_lost_directory_takes_what_is_below() -> None:
    disk = SimFiles()
    disk.mkdir("/d")
    fd = disk.open("/d/a", RW)
    disk.write_all(fd, b"x", 0)
    disk.datasync(fd)
    disk.sync_dir("/d")
    assert set(Image(disk, 100).contents("/d/a")) == {None, b"x"}


def test_profiles_drop_or_keep_everything() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"synced")
    disk.write_all(fd, b"UN", 2)
    disk.open("/b", RW)
    dropped = disk.clone().power_cut(profile="drop")
    assert (dropped.read_all("/a"), dropped.listdir("/")) == (b"synced", ["a"])
    kept = disk.clone().power_cut(profile="keep")
    assert (kept.read_all("/a"), kept.listdir("/")) == (b"syUNed", ["a", "b"])


def test_a_process_crash_keeps_all_that_was_written_but_does_not_sync_it() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"synced")
    disk.write_all(fd, b"written", 0)
    disk.lock("/LOCK")
    after = disk.process_crash()
    assert after.read_all("/a") == b"written"
    assert after.counts().handles == 0
    after.lock("/LOCK")
    assert after.boot_id() == disk.boot_id()
    assert after.clone().power_cut(profile="drop").read_all("/a") == b"synced"


def test_nothing_of_a_dead_process_reaches_the_disk() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"x")
    after = disk.power_cut()
    refused(errno.EBADF, disk.pwrite, fd, b"y", 0)
    refused(errno.EBADF, disk.open, "/b", RW)
    refused(errno.EBADF, disk.unlink, "/a")
    assert after.read_all("/a") == b"x"
    assert after.boot_id() != b""
    assert disk.mono_ns() == after.mono_ns()


def test_a_power_cut_changes_boot_id_pid_and_monotonic_clock() -> None:
    disk = SimFiles()
    boot, pid, wall = disk.boot_id(), disk.pid, disk.wall_ms()
    disk.advance(60)
    after = disk.power_cut()
    assert after.boot_id() != boot
    assert after.pid == pid + 1
    assert after.wall_ms() == wall + 60_000
    assert after.mono_ns() < 60 * 10**9


def test_crashes_repeat_by_seed() -> None:
    def run(seed: int) -> int:
        disk = SimFiles(seed=3)
        for name in "abc":
            fd = durable_file(disk, f"/{name}", b"0" * 3_000)
            disk.write_all(fd, name.encode() * 9_000, 1_000)
        return disk.power_cut(seed=seed).image_hash()

    hashes = [run(seed) for seed in range(100)]
    assert hashes == [run(seed) for seed in range(100)]
    assert len(set(hashes)) > 30


def test_a_clone_is_independent() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"first" * 2_000)
    disk.write_all(fd, b"second", 0)
    clone = disk.clone()
    assert clone.image_hash() == disk.image_hash()
    before = disk.image_hash()
    other = clone.open("/a", RW)
    clone.write_all(other, b"third", 0)
    clone.unlink("/a")
    clone.sync_dir("/")
    assert disk.image_hash() == before
    assert disk.read_all("/a")[:6] == b"second"
    disk.write_all(fd, b"fourth", 0)
    assert clone.pread(other, 6, 0) == b"thirdd"
    assert clone.counts().handles == 1
    assert clone.power_cut(profile="drop").listdir("/") == []


def test_a_clone_of_a_locked_disk_is_free() -> None:
    disk = SimFiles()
    disk.lock("/LOCK")
    disk.clone().lock("/LOCK")


def test_the_image_hash_tells_contents_apart_and_zeros_do_not_count() -> None:
    disk, sparse = SimFiles(), SimFiles()
    fd = durable_file(disk, "/a", bytes(300_000))
    hole = sparse.open("/a", RW)
    sparse.truncate(hole, 300_000)
    sparse.sync_all()
    assert disk.image_hash() == sparse.image_hash()
    disk.write_all(fd, b"x", 290_000)
    assert disk.image_hash() != sparse.image_hash()
    disk.write_all(fd, b"\0", 290_000)
    disk.datasync(fd)
    assert disk.image_hash() == sparse.image_hash()
    disk.rename_raw("/a", "/b")
    assert disk.image_hash() != sparse.image_hash()


# Syncs that fail


def written_page(disk: SimFiles) -> int:
    fd = durable_file(disk, "/a", b"old" * 1_000)
    disk.write_all(fd, b"new" * 1_000, 0)
    return fd


def test_a_failed_sync_that_loses_pages_shows_them_until_the_crash() -> None:
    disk = SimFiles()
    fd = written_page(disk)
    disk.inject(FailSync(outcome="lost"))
    refused(errno.EIO, disk.datasync, fd)
    disk.datasync(fd)
    assert disk.read_all("/a") == b"new" * 1_000
    assert set(Image(disk, 50).contents("/a")) == {b"old" * 1_000}


def test_a_page_lost_by_a_sync_is_saved_by_writing_it_again() -> None:
    disk = SimFiles()
    fd = written_page(disk)
    disk.inject(FailSync(outcome="lost"))
    refused(errno.EIO, disk.datasync, fd)
    disk.write_all(fd, b"N", 0)
    disk.datasync(fd)
    assert disk.power_cut().read_all("/a") == b"N" + (b"new" * 1_000)[1:]


def test_a_failed_sync_may_bring_the_old_content_back() -> None:
    disk = SimFiles()
    fd = written_page(disk)
    disk.write_all(fd, b"grown", 5_000)
    disk.inject(FailSync(outcome="reverted", errno=errno.ENOSPC))
    refused(errno.ENOSPC, disk.sync, fd)
    assert disk.pread(fd, 3_000, 0) == b"old" * 1_000
    disk.datasync(fd)
    assert disk.power_cut().read_all("/a")[:3_000] == b"old" * 1_000


def test_a_failed_sync_may_have_saved_the_data() -> None:
    disk = SimFiles()
    fd = written_page(disk)
    disk.inject(FailSync(outcome="survived"))
    refused(errno.EIO, disk.datasync, fd)
    assert disk.power_cut().read_all("/a") == b"new" * 1_000


def test_a_plain_sync_failure_leaves_the_data_dirty() -> None:
    disk = SimFiles()
    fd = written_page(disk)
    disk.inject(Fail(ops=Op.DATASYNC))
    refused(errno.EIO, disk.datasync, fd)
    assert set(Image(disk, 200).contents("/a")) >= {b"old" * 1_000, b"new" * 1_000}
    disk.datasync(fd)
    assert set(Image(disk, 50).contents("/a")) == {b"new" * 1_000}


@pytest.mark.parametrize(("outcome", "durable"), [("lost", []), ("survived", ["a"])])
def test_a_directory_sync_may_fail_too(outcome: Any, durable: list[str]) -> None:
    disk = SimFiles()
    disk.open("/a", RW)
    disk.inject(FailSync(outcome=outcome))
    refused(errno.EIO, disk.sync_dir, "/")
    disk.sync_dir("/")
    assert disk.listdir("/") == ["a"]
    assert disk.power_cut().listdir("/") == durable


# Faults


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_fault_fires_at_the_nth_matching_call_only(nth: int) -> None:
    disk = SimFiles()
    other = disk.open("/other", RW)
    fd = disk.open("/a", RW)
    hits = disk.inject(Fail(ops=Op.PWRITE, path="/a", nth=nth, errno=errno.EDQUOT))
    failed = []
    for attempt in range(1, 8):
        disk.pwrite(other, b"x", 0)
        disk.pread(fd, 1, 0)
        try:
            disk.pwrite(fd, b"x", attempt)
        except OSError as error:
            assert (error.errno, error.filename) == (errno.EDQUOT, "/a")
            failed.append(attempt)
    assert failed == [nth]
    assert hits() == 1


def test_a_fault_may_last() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", b"x")
    hits = disk.inject(Fail(ops=Op.PREAD, nth=3, from_then_on=True))
    assert [disk.pread(fd, 1, 0), disk.pread(fd, 1, 0)] == [b"x", b"x"]
    for _ in range(3):
        refused(errno.EIO, disk.pread, fd, 1, 0)
    assert hits() == 3
    disk.clear_faults()
    assert disk.pread(fd, 1, 0) == b"x"


def test_every_call_can_fail() -> None:
    disk = SimFiles()
    disk.mkdir("/d")
    fd = durable_file(disk, "/a", bytes(PAGE))
    calls: dict[Op, Callable[[], object]] = {
        Op.OPEN: lambda: disk.open("/a", READ),
        Op.PREAD: lambda: disk.pread(fd, 1, 0),
        Op.PWRITE: lambda: disk.pwrite(fd, b"x", 0),
        Op.DATASYNC: lambda: disk.datasync(fd),
        Op.SYNC: lambda: disk.sync(fd),
        Op.ALLOCATE: lambda: disk.allocate(fd, 0, 10),
        Op.TRUNCATE: lambda: disk.truncate(fd, 1),
        Op.SIZE: lambda: disk.size(fd),
        Op.RENAME: lambda: disk.rename("/b", "/a"),
        Op.UNLINK: lambda: disk.unlink("/a"),
        Op.MKDIR: lambda: disk.mkdir("/e"),
        Op.SYNC_DIR: lambda: disk.sync_dir("/"),
        Op.LIST: lambda: disk.listdir("/"),
        Op.LOCK: lambda: disk.lock("/LOCK"),
        Op.FREE_BYTES: lambda: disk.free_bytes("/"),
        Op.CLOSE: lambda: disk.close(fd),
    }
    before = disk.image_hash()
    for op, call in calls.items():
        hits = disk.inject(Fail(ops=op, path="/a" if op is Op.RENAME else None, errno=errno.EROFS))
        refused(errno.EROFS, call)
        assert hits() == 1
    assert disk.image_hash() == before
    assert disk.counts().handles == 0


def test_transfers_may_be_short() -> None:
    disk = SimFiles()
    fd = disk.open("/a", RW)
    disk.inject(Short(ops=Op.PWRITE))
    assert disk.pwrite(fd, b"x" * 100, 0) == 50
    disk.inject(Short(ops=Op.PREAD, count=7))
    assert len(disk.pread(fd, 50, 0)) == 7
    disk.inject(Short(from_then_on=True))
    disk.write_all(fd, b"y" * 1000, 0)
    assert disk.read_all("/a") == b"y" * 1000
    direct = disk.open("/a", RW | DIRECT)
    assert disk.pwrite(direct, aligned(PAGE), 0) == PAGE // 2
    assert disk.pwrite(direct, aligned(512), 0) == 512


def test_an_interrupted_call_is_repeated_underneath() -> None:
    disk = SimFiles()
    hits = disk.inject(Interrupt(from_then_on=True))
    fd = durable_file(disk, "/a", b"x")
    assert disk.pread(fd, 1, 0) == b"x"
    assert hits() == disk.counts().calls


def test_a_slow_call_takes_virtual_time() -> None:
    disk = SimFiles()
    fd = disk.open("/a", RW)
    disk.inject(Delay(ops=Op.DATASYNC, seconds=2.5))
    before, wall = disk.mono_ns(), disk.wall_ms()
    disk.datasync(fd)
    assert disk.mono_ns() - before == 2_500_000_000
    assert disk.wall_ms() - wall == 2_500


def test_a_fault_needs_a_kind_and_a_number() -> None:
    with pytest.raises(TypeError, match="subclasses of Fault"):
        SimFiles().inject(Fault())
    with pytest.raises(ValueError, match="nth"):
        SimFiles().inject(Fail(nth=0))


# The power switch


def small_program(disk: SimFiles) -> None:
    disk.mkdir("/d")
    disk.sync_dir("/")
    fd = disk.open("/d/a", RW)
    disk.write_all(fd, b"one", 0)
    disk.datasync(fd)
    disk.sync_dir("/d")
    disk.rename("/d/a", "/d/b")


def test_the_power_can_fail_before_each_mutation() -> None:
    whole = SimFiles()
    small_program(whole)
    total = whole.counts().mutations
    assert total == 7
    listings = []
    for n in range(total + 1):
        disk = SimFiles()
        disk.stop_at(n)
        try:
            small_program(disk)
        except OSError as error:
            assert error.errno == errno.EIO
        assert disk.stopped == (n < total)
        if n < total:
            refused(errno.EIO, disk.listdir, "/")
        assert disk.counts().mutations == n
        after = disk.power_cut(profile="keep")
        assert not after.stopped
        listings.append(after.walk())
    assert listings == [[], [], [], ["/d/a"], ["/d/a"], ["/d/a"], ["/d/a"], ["/d/b"]]


def test_counts_begin_anew_with_each_process() -> None:
    disk = SimFiles()
    small_program(disk)
    counts = disk.counts()
    assert (counts.calls, counts.mutations, counts.handles) == (7, 7, 1)
    assert counts.unsynced == 1
    after = disk.process_crash()
    assert after.counts()[:2] == (0, 0)
    assert after.counts().unsynced == 1


# Space


def test_a_full_disk_refuses_what_does_not_fit_and_changes_nothing() -> None:
    disk = SimFiles(capacity=10 * PAGE)
    fd = durable_file(disk, "/a", b"x" * PAGE)
    before = disk.image_hash()
    refused(errno.ENOSPC, disk.allocate, fd, 0, 11 * PAGE)
    assert disk.image_hash() == before
    assert disk.free_bytes("/") == 9 * PAGE
    disk.allocate(fd, PAGE, 8 * PAGE)
    assert disk.size(fd) == 9 * PAGE
    assert disk.free_bytes("/") == PAGE
    assert disk.pwrite(fd, b"y" * (3 * PAGE), 8 * PAGE) == 2 * PAGE
    refused(errno.ENOSPC, disk.pwrite, fd, b"z", 10 * PAGE)
    disk.pwrite(fd, b"z" * PAGE, 5 * PAGE)
    disk.set_capacity(12 * PAGE)
    disk.pwrite(fd, b"z", 10 * PAGE)


def test_removed_files_give_their_space_back_when_closed() -> None:
    disk = SimFiles(capacity=10 * PAGE)
    fd = durable_file(disk, "/a", b"x" * (6 * PAGE))
    disk.unlink("/a")
    assert disk.free_bytes("/") == 4 * PAGE
    assert disk.pread(fd, 1, 0) == b"x"
    disk.close(fd)
    assert disk.free_bytes("/") == 10 * PAGE
    fd = durable_file(disk, "/b", b"y" * (5 * PAGE))
    disk.truncate(fd, 10)
    assert disk.free_bytes("/") == 9 * PAGE


def test_replaced_files_and_lost_ones_give_their_space_back() -> None:
    disk = SimFiles(capacity=10 * PAGE)
    disk.close(durable_file(disk, "/a", b"x" * (3 * PAGE)))
    disk.close(durable_file(disk, "/b", b"x" * (2 * PAGE)))
    disk.rename("/b", "/a")
    disk.rename("/a", "/a")
    assert disk.counts().used == 2 * PAGE
    assert disk.clone().power_cut(profile="drop").counts().used == 5 * PAGE
    disk.write_all(disk.open("/c", RW), b"c", 0)
    assert disk.counts().used == 3 * PAGE
    assert disk.power_cut(profile="drop").counts().used == 5 * PAGE


def test_large_sparse_files_cost_nothing() -> None:
    disk = SimFiles(capacity=1 << 40)
    for n in range(20):
        fd = disk.open(f"/{n}", RW)
        disk.allocate(fd, 0, 256 << 20)
        disk.write_all(fd, b"x", 255 << 20)
    clones = [disk.clone() for _ in range(20)]
    assert clones[-1].counts().used == 20 * (256 << 20)


# Unbuffered transfers


def test_unbuffered_transfers_demand_alignment() -> None:
    disk = SimFiles()
    fd = disk.open("/a", RW | DIRECT)
    page = aligned(2 * PAGE)
    assert disk.pwrite(fd, page[:512], 512) == 512
    assert disk.pread_into(fd, page[PAGE:], 0) == 1024
    refused(errno.EINVAL, disk.pwrite, fd, page[1:513], 0)
    refused(errno.EINVAL, disk.pwrite, fd, page[:511], 0)
    refused(errno.EINVAL, disk.pwrite, fd, page[:512], 1)
    refused(errno.EINVAL, disk.pread_into, fd, page[8:520], 0)
    disk.set_direct(4096)
    refused(errno.EINVAL, disk.pwrite, fd, page[:512], 0)
    assert disk.pwrite(fd, page[:PAGE], 0) == PAGE
    with pytest.raises(ValueError, match="power of two"):
        disk.set_direct(1000)


def test_unbuffered_transfers_can_be_refused() -> None:
    disk = SimFiles()
    disk.set_direct(0)
    refused(errno.EINVAL, disk.open, "/a", RW | DIRECT)
    assert disk.listdir("/") == []


# Maps


class Map:
    def __init__(self, disk: SimFiles, path: str, size: int) -> None:
        self.disk, self.size = disk, size
        self.fd = disk.open(path, RW)
        self.address = disk.io.map_shared(disk.io.ctx, self.fd, size)
        assert self.address != ffi.NULL
        self.bytes = ffi.buffer(self.address, size)

    def unmap(self) -> None:
        assert self.disk.io.unmap(self.disk.io.ctx, self.address, self.size) == 0


def test_mapped_bytes_and_file_are_one() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", b"a" * 2 * PAGE)
    mapped = Map(disk, "/a", PAGE)
    assert mapped.bytes[:] == b"a" * PAGE
    mapped.bytes[100:105] = b"store"
    assert disk.pread(mapped.fd, 5, 100) == b"store"
    disk.write_all(mapped.fd, b"file" * 2, PAGE - 4)
    assert mapped.bytes[PAGE - 4 :] == b"file"
    assert disk.pread(mapped.fd, 8, PAGE - 4) == b"filefile"
    again = Map(disk, "/a", 512)
    assert again.address == mapped.address
    again.unmap()
    mapped.bytes[0:1] = b"z"
    mapped.unmap()
    assert disk.read_all("/a")[:2] == b"za"
    assert disk.counts().maps == 0
    assert disk.io.unmap(disk.io.ctx, mapped.address, PAGE) == -errno.EINVAL


def test_mapped_bytes_survive_the_process_but_not_for_certain_the_machine() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", b"a" * 8 * 512)
    mapped = Map(disk, "/a", 8 * 512)
    mapped.bytes[:] = b"b" * (8 * 512)
    crashed = disk.process_crash()
    mapped.bytes[:] = b"c" * (8 * 512)
    assert crashed.read_all("/a") == b"b" * (8 * 512)
    contents = Image(crashed).contents("/a")
    assert {b"a" * 8 * 512, b"b" * 8 * 512} < set(contents)
    for content in contents:
        assert content is not None
        assert {content[at : at + 512] for at in range(0, 8 * 512, 512)} <= {
            b"a" * 512,
            b"b" * 512,
        }


def test_a_sync_covers_mapped_bytes() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", bytes(1000))
    mapped = Map(disk, "/a", 1000)
    mapped.bytes[990:1000] = b"0123456789"
    disk.datasync(mapped.fd)
    mapped.bytes[0:1] = b"x"
    assert all(c and c[990:] == b"0123456789" for c in Image(disk, 50).contents("/a"))


def test_a_map_needs_the_file_to_be_long_enough() -> None:
    disk = SimFiles()
    fd = durable_file(disk, "/a", bytes(100))
    io = disk.io
    assert io.map_shared(io.ctx, fd, 101) == ffi.NULL
    assert io.map_shared(io.ctx, disk.open("/a", WRITE), 100) == ffi.NULL
    disk.inject(Fail(ops=Op.MAP))
    assert io.map_shared(io.ctx, fd, 100) == ffi.NULL


# Locks


def test_a_lock_excludes_and_tells_the_pid() -> None:
    disk = SimFiles()
    fd = disk.lock("/LOCK")
    with pytest.raises(LockHeld) as caught:
        disk.lock("/LOCK")
    assert caught.value.owner_pid == disk.pid
    assert disk.lock_holder("/LOCK") == disk.pid
    disk.close(fd)
    assert disk.lock_holder("/LOCK") is None
    assert disk.lock_holder("/other/LOCK") is None
    disk.close(disk.lock("/LOCK"))


# Damage


def test_damage_is_durable_and_uncounted() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", bytes(PAGE))
    calls = disk.counts().calls
    disk.flip("/a", 8 * 100 + 3)
    disk.overwrite("/a", 200, b"damage")
    disk.zero_range("/a", 202, 2)
    disk.copy_raw("/a", "/b")
    disk.rename_raw("/b", "/c")
    disk.truncate_raw("/c", 204)
    disk.copy_raw("/c", "/d")
    disk.unlink_raw("/d")
    assert disk.counts().calls == calls
    after = disk.power_cut(profile="drop")
    assert after.listdir("/") == ["a", "c"]
    expected = bytearray(PAGE)
    expected[100] = 8
    expected[200:206] = b"da\0\0ge"
    assert after.read_all("/a") == bytes(expected)
    assert after.read_all("/c") == bytes(expected[:204])


def test_damage_outside_the_file_is_refused() -> None:
    disk = SimFiles()
    durable_file(disk, "/a", b"x")
    disk.mkdir("/d")
    refused(errno.ERANGE, disk.flip, "/a", 8)
    refused(errno.ERANGE, disk.overwrite, "/a", 0, b"xy")
    assert refused(errno.ENOENT, disk.flip, "/b", 0).filename == "/b"
    refused(errno.EISDIR, disk.truncate_raw, "/d", 0)


# Observation


def test_calls_are_recorded_on_demand() -> None:
    disk = SimFiles()
    disk.open("/before", RW)
    disk.trace()
    fd = disk.open("/a", RW)
    disk.pwrite(fd, b"abc", 5)
    refused(errno.ENOENT, disk.unlink, "/missing")
    disk.close(fd)
    recorded = disk.traced()
    assert [(c.op, c.path) for c in recorded] == [
        (Op.OPEN, "/a"),
        (Op.PWRITE, "/a"),
        (Op.UNLINK, "/missing"),
        (Op.CLOSE, "/a"),
    ]
    assert recorded[1][2:] == (5, 3, 3)
    assert recorded[2].result == -errno.ENOENT
    disk.trace(on=False)
    assert disk.traced() == []


# The environment around it


def test_virtual_time_moves_only_when_told() -> None:
    env = SimEnv()
    mono, wall = env.clock.mono_ns(), env.clock.wall_ms()
    assert (env.clock.mono_ns(), env.clock.wall_ms()) == (mono, wall)
    env.advance(0.0015)
    env.advance(0.0005)
    assert env.clock.mono_ns() - mono == 2_000_000
    assert env.clock.wall_ms() - wall == 2
    env.disk.set_wall_ms(wall - 5_000)
    assert env.clock.wall_ms() == wall - 5_000
    assert env.clock.mono_ns() - mono == 2_000_000
    with pytest.raises(ValueError, match="negative"):
        env.advance(-1)


def test_a_stepped_environment_starts_no_thread_and_waits_in_virtual_time() -> None:
    env = SimEnv()
    assert not env.threaded
    with pytest.raises(RuntimeError, match="starts no thread"):
        env.threads.start("writer", lambda: None)
    before = env.clock.mono_ns()
    with env.threads.lock(), env.threads.rlock():
        pass
    event = env.threads.event()
    assert not event.wait(3)
    with pytest.raises(RuntimeError, match="for ever"):
        event.wait()
    event.set()
    assert event.wait()
    assert event.is_set()
    event.clear()
    assert not event.is_set()
    assert env.clock.mono_ns() - before == 3_000_000_000


def test_each_life_of_a_machine_draws_differently_and_repeats_by_seed() -> None:
    def lives(seed: int) -> list[int]:
        env = SimEnv(seed=seed)
        drawn = []
        for _ in range(3):
            drawn += [env.rng.u64(), env.rng.fork("salt").u64()]
            env = env.power_cut()
        return drawn

    assert lives(5) == lives(5)
    assert len(set(lives(5) + lives(6))) == 12


def test_a_new_caller_does_not_shift_the_other_streams() -> None:
    first, second = SimRng("seed"), SimRng("seed")
    second.fork("other").u64()
    assert first.fork("mine").bytes(20) == second.fork("mine").bytes(20)
    assert first.fork("mine").u64() != SimRng("seed").fork("mine").u64()


# Against the operating system

PATHS = st.sampled_from(["a", "b", "d", "d/a", "d/b", "d/e", "d/e/f", "missing/a", "a/b"])
FLAGS = st.sampled_from(
    [READ, WRITE, READ | WRITE, WRITE | CREATE, RW, RW | OpenFlag.EXCL, READ | CREATE]
)
HANDLES = st.integers(0, 3)
OFFSETS = st.one_of(st.integers(0, 20_000), st.sampled_from([0, 511, 512, 4095, 4096, 8192]))
SIZES = st.integers(0, 9_000)

STEPS = st.one_of(
    st.tuples(st.just("open"), PATHS, FLAGS),
    st.tuples(st.just("open"), PATHS, st.just(RW)),
    st.tuples(st.just("close"), HANDLES),
    st.tuples(st.just("pread"), HANDLES, SIZES, OFFSETS),
    st.tuples(st.just("pwrite"), HANDLES, st.integers(0, 255), SIZES, OFFSETS),
    st.tuples(st.just("truncate"), HANDLES, OFFSETS),
    st.tuples(st.just("allocate"), HANDLES, OFFSETS, SIZES),
    st.tuples(st.sampled_from(["size", "datasync", "sync"]), HANDLES),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.sampled_from(["unlink", "mkdir", "sync_dir", "listdir", "exists"]), PATHS),
)


@dataclass
class Driver:
    files: Files
    top: str
    handles: list[int]

    def step(self, step: tuple[Any, ...]) -> object:
        try:
            return self._step(*step)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def _step(self, name: str, *arguments: Any) -> object:
        if name in ("rename", "unlink", "mkdir", "sync_dir", "listdir", "exists"):
            return getattr(self.files, name)(*(f"{self.top}/{path}" for path in arguments))
        if name == "open":
            self.handles.append(self.files.open(f"{self.top}/{arguments[0]}", arguments[1]))
            return len(self.handles)
        if not self.handles:
            return None
        number = arguments[0] % len(self.handles)
        if name == "close":
            self.files.close(self.handles.pop(number))
            return None
        fd, rest = self.handles[number], arguments[1:]
        if name == "pwrite":
            return self.files.pwrite(fd, bytes([rest[0]]) * rest[1], rest[2])
        return getattr(self.files, name)(fd, *rest)

    def tree(self, path: str) -> object:
        try:
            return {name: self.tree(f"{path}/{name}") for name in self.files.listdir(path)}
        except NotADirectoryError:
            return self.files.read_all(path)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=40))
@example([("mkdir", "d"), ("mkdir", "d/e"), ("rename", "d", "d/e"), ("rename", "d/e", "d")])
@example([("mkdir", "d"), ("open", "d/a", RW), ("rename", "d/a", "d"), ("unlink", "d")])
@example([("open", "a", RW), ("truncate", 0, 9000), ("allocate", 0, 5000, 0), ("size", 0)])
@example(
    [("open", "a", RW), ("pwrite", 0, 7, 9000, 0), ("truncate", 0, 100), ("truncate", 0, 9000)]
)
@example([("open", "a", RW), ("rename", "a", "a"), ("mkdir", "d"), ("rename", "d", "d")])
def test_without_faults_it_behaves_as_the_operating_system(steps: list[tuple[Any, ...]]) -> None:
    top = tempfile.mkdtemp()
    disk = SimFiles()
    disk.mkdir("/top")
    real, simulated = Driver(posix_files(), top, []), Driver(disk, "/top", [])
    try:
        for step in steps:
            assert simulated.step(step) == real.step(step), step
        assert simulated.tree("/top") == real.tree(top)
        calm = disk.clone()
        calm.sync_all()
        cut = Driver(calm.power_cut(), "/top", [])
        assert cut.tree("/top") == real.tree(top)
        assert disk.counts().handles == len(simulated.handles)
    finally:
        for fd in real.handles:
            real.files.close(fd)
        shutil.rmtree(top)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pwrite"), st.integers(1, 255), SIZES, OFFSETS),
            st.tuples(st.just("truncate"), OFFSETS),
            st.tuples(st.just("allocate"), OFFSETS, st.integers(1, 9_000)),
        ),
        max_size=20,
    )
)
def test_a_sync_makes_durable_exactly_what_is_seen(steps: list[tuple[Any, ...]]) -> None:
    disk = SimFiles()
    driver = Driver(disk, "", [disk.open("/a", RW)])
    for number, (name, *arguments) in enumerate(steps):
        driver.step((name, 0, *arguments))
        if number % 5 == 4:
            disk.datasync(driver.handles[0])
    disk.datasync(driver.handles[0])
    disk.sync_dir("/")
    seen, used = disk.read_all("/a"), disk.counts().used
    after = disk.power_cut()
    assert after.read_all("/a") == seen
    assert after.counts().used == used
    assert after.counts().unsynced == 0


def test_paths_are_those_of_the_operating_system() -> None:
    disk = SimFiles()
    disk.mkdir("/d")
    disk.open("/d/a", RW)
    assert disk.exists("d/./../d//a")
    refused(errno.ENOENT, disk.open, "", RW)
    refused(errno.ENAMETOOLONG, disk.open, "/" + "x" * 256, RW)
    refused(errno.EBUSY, disk.rename, "/d", "/d/..")
    refused(errno.EEXIST, disk.mkdir, "/")
    odd = os.fsdecode(b"\xff")
    disk.mkdir(f"/{odd}")
    assert disk.listdir("/") == ["d", odd]
    path = ""
    for _ in range(64):
        path += "/x"
        disk.mkdir(path)
    refused(errno.ENAMETOOLONG, disk.mkdir, path + "/x")


def test_a_recording_that_is_dropped_before_its_end_records_no_more() -> None:
    disk = SimFiles()
    recording = Recording(disk)
    disk.mkdir("/a")
    assert len(recording) == 1
    del recording
    gc.collect()
    disk.mkdir("/b")
    assert disk.clone().listdir("/") == ["a", "b"]
