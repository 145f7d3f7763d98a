"""A core built for systems that are not Linux calls nothing that only Linux has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hstreamlite import _native
from hstreamlite._native import lib
from tests.system.machine import need
from tests.system.workers import PACKAGE

PORTABLE = bool(lib.hsl_io_portable())

POSIX = """
    abort aligned_alloc calloc clock_gettime close closedir fcntl fdatasync free fstat fsync
    ftruncate fwrite getpid malloc memchr memcmp memcpy memmove memset mkdir mmap munmap
    nanosleep open opendir pipe pread pthread_atfork pthread_cond_broadcast pthread_cond_destroy
    pthread_cond_init pthread_cond_signal pthread_cond_timedwait pthread_cond_wait
    pthread_condattr_destroy pthread_condattr_init pthread_create pthread_join
    pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock pthread_mutex_trylock
    pthread_mutex_unlock pthread_once pthread_self pwrite qsort read readdir realloc rename
    rmdir sched_yield shm_open snprintf statvfs stderr stpcpy strchr strcmp strcpy strcspn
    strdup strlen strncmp strspn strstr strtoll strtoull unlink write
"""
BEYOND_POSIX = {"flock", "posix_fadvise"}
"""macOS has the first; the second is left out by the preprocessor where headers lack it."""

NAMES_OF_GLIBC = {"__errno_location": "", "__register_atfork": "pthread_atfork"}
OF_THE_COMPILER = re.compile(r"_?Py|_ITM_|__gmon_start__|__cxa_finalize|__stack_chk_fail")

ONLY_LINUX = {
    "O_DIRECT": r"\bO_DIRECT\b",
    "locks of open files": r"\bF_OFD_",
    "/proc": r'"/proc/(?!sys/vm/overcommit_memory")',  # which free() of the C library asks for
} | {
    call: rf"^\d+ +{call}[0-9]*\("
    for call in (
        *("fallocate", "sync_file_range", "copy_file_range", "sendfile", "splice", "preadv"),
        *("pwritev", "eventfd", "memfd_create", "io_uring_", "futex_", "inotify_"),
        *("timerfd_", "signalfd", "statx", "renameat", "syncfs", "sched_getaffinity", "getcpu"),
        *("membarrier", "userfaultfd", "io_submit", "openat2", "close_range", "tmpfile"),
    )
}
"""Not gettid and files of /sys: Python itself asks for the numbers of threads and of processors."""

USED_ON_LINUX = {"O_DIRECT", "locks of open files", "/proc", "fallocate", "eventfd"}

WORK = """
import asyncio, sys
import hstreamlite as hs
from hstreamlite import aio

BEGIN = open("/dev/null")  # what an interpreter does before is none of ours

async def converse(path):
    async with aio.open(path) as store:
        stream = await store.create_stream("calls")
        await asyncio.gather(*(stream.append(b"call") for _ in range(20)))

def work(path):
    for _ in range(2):
        with hs.open(path, config=hs.StoreConfig(segment_bytes_max=1 << 20)) as store:
            stream = store.create_stream("orders", exists_ok=True)
            for level in ("sync", "os", "memory"):
                stream.append_many([b"." * 3000] * 300, key="k", durability=level)
            with store.transaction() as tx:
                tx.append("orders", b"one")
            with hs.open(path, read_only=True) as follower:
                assert sum(1 for _ in follower.stream("orders").read()) >= 901
            named = store.create_subscription("billing", stream="orders", exists_ok=True)
            with named.consumer("c") as consumer:
                consumer.ack(consumer.receive(500, timeout=0))
            stream.trim(before=stream.tail())
            store.compact()
            try:
                hs.open(path)
            except hs.StoreLocked:
                pass
            else:
                raise AssertionError("two writers")

work(sys.argv[1])
with hs.open(sys.argv[1]) as store:
    store.backup(sys.argv[2])
asyncio.run(converse(sys.argv[1]))
"""


@pytest.mark.skipif(not PORTABLE, reason="the core for Linux calls what Linux has")
def test_the_functions_it_links_are_those_of_posix() -> None:
    need("nm")
    module = next(Path(_native.__file__).parent.glob("_lib*.so"))
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}
    functions = {
        re.sub(r"^__isoc\d+_|^__(?=.*_chk$)|_chk$|64$", "", NAMES_OF_GLIBC.get(name, name))
        for name in names
        if not OF_THE_COMPILER.match(name)
    }
    assert len(functions) > 40
    assert functions - {""} <= {*POSIX.split(), *BEYOND_POSIX}


def test_the_calls_it_makes_are_not_those_of_linux_alone(tmp_path: Path) -> None:
    need("strace")
    log = tmp_path / "calls"
    strace = ["strace", "-f", "-o", str(log), "-s", "64"]
    subprocess.run(
        [*strace, sys.executable, "-c", WORK, tmp_path / "store", tmp_path / "copy"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        check=True,
    )
    calls = log.read_text().partition('"/dev/null"')[2].splitlines()
    assert len(calls) > 500
    seen = {
        what
        for what, pattern in ONLY_LINUX.items()
        if any(re.search(pattern, call) for call in calls)
    }
    if PORTABLE:
        assert seen == set()
    else:
        assert seen >= USED_ON_LINUX
