"""The table over system calls, against a real file system."""

import errno
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native import ffi, lib
from hstreamlite._native.files import Files, posix_files, real_env
from hstreamlite.env import LockHeld, OpenFlag

READ, WRITE, CREATE = OpenFlag.READ, OpenFlag.WRITE, OpenFlag.CREATE
PACKAGE = Path(hs.__file__).parent.parent


@pytest.fixture
def files() -> Files:
    return posix_files()


def test_flags_are_those_of_the_declaration() -> None:
    for flag in OpenFlag:
        assert getattr(lib, f"HSL_OPEN_{flag.name}") == flag


def test_written_bytes_are_read_back(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    fd = files.open(path, READ | WRITE | CREATE)
    files.write_all(fd, b"hello world", 3)
    files.datasync(fd)
    files.sync(fd)
    assert files.size(fd) == 14
    assert files.pread(fd, 100, 0) == b"\0\0\0hello world"
    assert files.pread(fd, 5, 14) == b""
    files.truncate(fd, 5)
    files.close(fd)
    assert files.read_all(path) == b"\0\0\0he"


def test_created_files_and_directories_belong_to_the_owner_only(
    files: Files, tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        files.close(files.open(str(tmp_path / "a"), WRITE | CREATE))
        files.close(files.lock(str(tmp_path / "LOCK")))
        files.mkdir(str(tmp_path / "d"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "LOCK").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700


def test_a_symbolic_link_is_not_followed(files: Files, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for use in (lambda p: files.open(p, READ), files.lock):
        with pytest.raises(OSError) as caught:
            use(str(tmp_path / "link"))
        assert caught.value.errno == errno.ELOOP


def test_descriptors_do_not_leak_into_children(files: Files, tmp_path: Path) -> None:
    for fd in (
        files.open(str(tmp_path / "a"), WRITE | CREATE),
        files.lock(str(tmp_path / "LOCK")),
    ):
        assert not os.get_inheritable(fd)
        files.close(fd)


def test_errors_carry_errno_and_filename(files: Files, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        files.open(missing, READ)
    assert caught.value.filename == missing
    with pytest.raises(FileNotFoundError) as caught:
        files.rename(missing, str(tmp_path / "b"))
    assert (caught.value.filename, caught.value.filename2) == (missing, str(tmp_path / "b"))
    path = str(tmp_path / "a")
    fd = files.open(path, WRITE | CREATE)
    with pytest.raises(OSError) as bad:
        files.pread(fd, 1, 0)
    assert (bad.value.errno, bad.value.filename) == (errno.EBADF, path)
    files.close(fd)
    with pytest.raises(FileExistsError):
        files.open(path, WRITE | CREATE | OpenFlag.EXCL)
    with pytest.raises(NotADirectoryError):
        files.listdir(path)
    with pytest.raises(IsADirectoryError):
        files.open(str(tmp_path), READ)
    with pytest.raises(OSError) as neither:
        files.open(path, OpenFlag(0))
    assert neither.value.errno == errno.EINVAL


def test_names_are_listed_in_byte_order_however_many(files: Files, tmp_path: Path) -> None:
    names = [f"n{i:04}" for i in range(500)] + ["é", "Z", "a", "ß" * 100]
    for name in names:
        (tmp_path / name).touch()
    assert files.listdir(str(tmp_path)) == sorted(names, key=os.fsencode)
    (tmp_path / "empty").mkdir()
    assert files.listdir(str(tmp_path / "empty")) == []


def test_names_change_and_directories_sync(files: Files, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    files.close(files.open(a, WRITE | CREATE))
    files.rename(a, b)
    files.sync_dir(str(tmp_path))
    assert (files.exists(a), files.exists(b)) == (False, True)
    files.unlink(b)
    assert not files.exists(b)
    assert not files.exists(b + "/below")
    assert files.exists(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        files.sync_dir(a)


def test_allocation_extends_with_zeros_and_takes_blocks(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    fd = files.open(path, READ | WRITE | CREATE)
    files.write_all(fd, b"x", 0)
    files.allocate(fd, 0, 1 << 20)
    assert files.size(fd) == 1 << 20
    assert os.stat(path).st_blocks * 512 >= 1 << 20
    assert files.pread(fd, 4096, 0) == b"x" + bytes(4095)
    files.close(fd)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.getuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("mounting a small ext4 needs root and mkfs.ext4")
    image, top = tmp_path / "image", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    top.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(top)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a loop device: {mounted.stderr.decode().strip()}")
    try:
        yield top
    finally:
        subprocess.run(["umount", str(top)], check=True)


def test_allocation_on_a_full_disk_leaves_no_block_behind(files: Files, small_disk: Path) -> None:
    path = str(small_disk / "a")
    fd = files.open(path, READ | WRITE | CREATE)
    files.write_all(fd, b"x" * 5000, 0)
    files.sync(fd)
    before = files.free_bytes(path)
    try:
        with pytest.raises(OSError) as caught:
            files.allocate(fd, 0, 64 << 20)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
        assert files.size(fd) == 5000
        files.sync(fd)
        # The map of the extents tried may keep a block of the file system's own.
        assert files.free_bytes(path) >= before - 4096
        assert files.pread(fd, 5000, 0) == b"x" * 5000
    finally:
        files.close(fd)


def test_unbuffered_transfers(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    try:
        fd = files.open(path, READ | WRITE | CREATE | OpenFlag.DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("the file system of the temporary directory refuses O_DIRECT")
    # Unclosed: views of it live on in the traceback of the refused write.
    view = memoryview(mmap.mmap(-1, 8192))
    view[:4096] = b"d" * 4096
    assert files.pwrite(fd, view[:4096], 4096) == 4096
    files.datasync(fd)
    assert files.pread_into(fd, view[4096:], 4096) == 4096
    assert view[4096:] == b"d" * 4096
    with pytest.raises(OSError) as caught:
        files.pwrite(fd, view[:100], 0)
    assert caught.value.errno == errno.EINVAL
    files.close(fd)
    assert files.read_all(path) == bytes(4096) + b"d" * 4096


def test_a_lock_excludes_others_in_this_process_and_tells_the_pid(
    files: Files, tmp_path: Path
) -> None:
    path = str(tmp_path / "LOCK")
    fd = files.lock(path)
    with pytest.raises(LockHeld) as caught:
        posix_files().lock(path)
    assert caught.value.owner_pid == os.getpid()
    assert caught.value.filename == path
    assert files.lock_holder(path) == os.getpid()
    files.close(fd)
    assert files.lock_holder(path) is None
    files.close(files.lock(path))


def test_asking_for_the_holder_of_a_lock_takes_and_makes_nothing(
    files: Files, tmp_path: Path
) -> None:
    path = str(tmp_path / "LOCK")
    assert files.lock_holder(path) is None
    assert not files.exists(path)
    files.close(files.lock(path))
    os.chmod(path, 0o400)
    before = os.stat(path)
    assert files.lock_holder(path) is None
    assert os.stat(path) == before


def test_whoever_asks_for_the_holder_keeps_nobody_from_the_lock(
    files: Files, tmp_path: Path
) -> None:
    path = str(tmp_path / "LOCK")
    files.close(files.lock(path))
    asked, done = [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            asked.append(posix_files().lock_holder(path))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(500):
            files.close(files.lock(path))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(asked) <= {None, os.getpid()}


HOLDER = """
import sys
from hstreamlite._native.files import posix_files
fd = posix_files().lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_of_another_process_ends_with_it(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockHeld) as caught:
            files.lock(path)
        assert caught.value.owner_pid == holder.pid
        assert files.lock_holder(path) == holder.pid
        holder.kill()
        holder.wait()
        fd = files.lock(path)
    assert int(Path(path).read_text()) == os.getpid()
    files.close(fd)


def test_a_lock_file_without_a_number_gives_an_unknown_owner(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    fd = files.lock(path)
    files.truncate(fd, 0)
    with pytest.raises(LockHeld) as caught:
        files.lock(path)
    assert caught.value.owner_pid == 0
    files.close(fd)


def test_mapped_bytes_and_file_are_one(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    fd = files.open(path, READ | WRITE | CREATE)
    files.truncate(fd, 8192)
    io = files.io
    memory = io.map_shared(io.ctx, fd, 8192)
    assert memory != ffi.NULL
    mapped = ffi.buffer(memory, 8192)
    mapped[100:105] = b"store"
    assert files.pread(fd, 5, 100) == b"store"
    files.write_all(fd, b"file", 4096)
    assert mapped[4096:4100] == b"file"
    assert io.map_shared(io.ctx, fd, 8193) == ffi.NULL
    assert io.unmap(io.ctx, memory, 8192) == 0
    files.close(fd)


def test_the_boot_id_is_the_kernels(files: Files) -> None:
    kernels = Path("/proc/sys/kernel/random/boot_id")
    if lib.hsl_io_portable() or not kernels.exists():
        pytest.skip("no boot id in /proc")
    assert files.boot_id().hex() == kernels.read_text().strip().replace("-", "")


def test_the_boot_id_is_one_for_all_processes(files: Files) -> None:
    ask = "from hstreamlite._native.files import posix_files; print(posix_files().boot_id().hex())"
    other = subprocess.run(
        [sys.executable, "-c", ask],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert files.boot_id() != bytes(16)
    assert other.stdout.strip() == files.boot_id().hex() == posix_files().boot_id().hex()


@pytest.mark.skipif(lib.hsl_io_portable(), reason="what the system has in memory is not asked for")
def test_what_the_system_has_in_memory_is_read_or_why_not(files: Files, tmp_path: Path) -> None:
    fd = files.open(str(tmp_path / "a"), READ | WRITE | CREATE)
    files.write_all(fd, b"hello", 0)
    buffer = ffi.new("char[5]")
    read = files.io.pread_cached
    found = read(files.io.ctx, fd, buffer, 5, 0)
    assert found == -errno.EAGAIN or ffi.buffer(buffer)[:found] == b"hello"
    files.close(fd)
    assert read(files.io.ctx, fd, buffer, 5, 0) == -errno.EBADF


def test_clocks_and_space(files: Files, tmp_path: Path) -> None:
    first, second = files.mono_ns(), files.mono_ns()
    assert second >= first > 0
    assert files.wall_ms() > 1_600_000_000_000
    assert files.free_bytes(str(tmp_path)) > 0


def test_the_real_environment_is_not_stepped(tmp_path: Path) -> None:
    env = real_env()
    assert env.threaded
    assert env.pid() == os.getpid()
    assert len(env.rng.fork("name").bytes(16)) == 16
    done = env.threads.event()
    thread = env.threads.start("test", done.set)
    assert done.wait(10)
    thread.join(10)
    assert not thread.is_alive()


def test_fork_callbacks_run_in_the_child_and_do_not_keep_objects(tmp_path: Path) -> None:
    script = """
import os, gc, sys
from hstreamlite._native.files import real_env
class Store:
    def __init__(self, name): self.name = name
    def forked(self): os.write(1, self.name)
env = real_env()
kept, dropped = Store(b"kept "), Store(b"dropped ")
env.after_fork_in_child(kept.forked)
env.after_fork_in_child(dropped.forked)
env.after_fork_in_child(lambda: os.write(1, b"function"))
del dropped
gc.collect()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"kept function"


def test_no_fork_callback_is_lost_to_others_that_are_added_meanwhile() -> None:
    script = """
import os, sys, threading
from hstreamlite._native.files import real_env
class Store:
    told = False
    def forked(self): self.told = True
env, kept = real_env(), []
sys.setswitchinterval(1e-6)
def work():
    for _ in range(200):
        store = Store()
        kept.append(store)
        env.after_fork_in_child(store.forked)
        env.after_fork_in_child(Store().forked)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
pid = os.fork()
if pid == 0:
    os.write(1, b"%d of %d" % (sum(store.told for store in kept), len(kept)))
    os._exit(0)
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"800 of 800"


def test_calls_on_what_is_no_handle_say_so(files: Files, tmp_path: Path) -> None:
    fd = files.open(str(tmp_path / "f"), OpenFlag.READ | OpenFlag.WRITE | OpenFlag.CREATE)
    files.close(fd)
    io = files.io
    assert io.close(io.ctx, fd) == -errno.EBADF
    assert io.size(io.ctx, fd) == -errno.EBADF
    assert io.allocate(io.ctx, fd, 0, 4096) == -errno.EBADF


LESSEE = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
signal.sigwait({signal.SIGIO})
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"""


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are of Linux")
def test_whoever_has_a_lease_on_a_file_is_waited_for(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"leased")
    with subprocess.Popen([sys.executable, "-c", LESSEE, path], stdout=subprocess.PIPE) as lessee:
        assert lessee.stdout is not None
        assert lessee.stdout.readline() == b"leased\n"
        fd = files.open(str(path), READ)
        assert lessee.wait() == 0
    assert files.pread(fd, 6, 0) == b"leased"
    files.close(fd)
