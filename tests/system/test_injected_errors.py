"""Each system call of a run fails once, or is the last: from outside, in a process that knows
nothing of it."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native import lib
from tests.system.ledger import Ledger, small
from tests.system.machine import need
from tests.system.workers import Worker, Workers, trace

LEVELS = ["sync", "os", "memory"]
CONFIG = small()
STRUCK = re.compile(r"<([^>]*)>.*\(INJECTED\)")
UNSEEN = {"LOCK", "segments"}
ROOM = {"spare", "reserve", "TAIL"}
"""Files that only hold space, or copies: a store may go without, until it needs it."""

RESERVING = "pwrite64" if lib.hsl_io_portable() else "fallocate"
"""The call that takes space: without one for it, zeros are written."""

FAULTS = {
    "space cannot be reserved": RESERVING + ":error=EIO:when={}",
    "fdatasync fails": "fdatasync:error=EIO:when={}",
    "fsync fails": "fsync:error=EIO:when={}",
    "write fails": "pwrite64:error=EIO:when={}",
    "write finds the disk full": "pwrite64:error=ENOSPC:when={}",
    "disk is full": RESERVING + ":error=ENOSPC:when={}+",
    "killed at fdatasync": "fdatasync:signal=KILL:when={}",
    "killed at fsync": "fsync:signal=KILL:when={}",
    "killed at a write": "pwrite64:signal=KILL:when={}",
}


def struck_files(log: Path) -> set[str]:
    """Return the names of the files whose calls failed. A call beside one of another thread takes
    two lines."""
    begun: dict[str, str] = {}
    found = set()
    for line in log.read_text().splitlines():
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
        elif call.lstrip().startswith("<..."):
            call = begun.pop(thread, "") + call
        if match := STRUCK.search(call):
            found.add(Path(match[1]).name)
    return found


def attach(worker: Worker, fault: str, log: Path) -> subprocess.Popen[str]:
    """Let a call of a worker that waits fail. The calls of each thread are counted."""
    call = fault.partition(":")[0]
    return trace(worker, log, "-e", f"trace={call}", "-e", f"inject={fault}")


class Run:
    """One life of a worker, of which one call fails."""

    def __init__(self, workers: Workers, path: Path, fault: str, *, whole: bool) -> None:
        self.ledger = Ledger()
        self.path = path
        write = {"do": "write", "path": str(path), "levels": LEVELS, "config": CONFIG}
        if not whole:
            for words in workers.start(**write, life=self.ledger.begin(), rounds=1):
                self.ledger.take(words)
        worker = workers.start(
            **write,
            life=self.ledger.begin(),
            rounds=1 if whole else 2,
            waits="pid" if whole else "opened",
        )
        log = path.with_suffix(".log")
        strace = attach(worker, fault, log) if whole else None
        self.full = False
        for words in worker:
            self.ledger.take(words)
            self.full |= words[0] == "full"
            if words == ["opened"] and not whole:
                strace = attach(worker, fault, log)
        assert strace is not None
        strace.communicate()
        self.killed = worker.status == -signal.SIGKILL
        assert self.killed or worker.status == 0
        struck = struck_files(log)
        self.struck = bool(struck) or self.killed
        self.end = self.ledger.failed or "killed" * self.killed or "full" * self.full
        reserving = fault.startswith(RESERVING)
        if not (reserving and self.ledger.failed == "StorageUnavailable none"):
            assert self.ledger.failed_well() or not self.ledger.failed
        unseen = UNSEEN | ROOM if reserving else UNSEEN
        assert self.end or struck <= unseen, f"nobody noticed what failed at {struck}"

    def check(self) -> None:
        self.ledger.end("kill")
        with hs.open(self.path, config=hs.StoreConfig(**CONFIG)) as store:
            self.ledger.check(store)
            if self.ledger.counts["acknowledged"]:
                self.ledger.drain(store)


@pytest.mark.parametrize("whole", [True, False], ids=["from the start", "once open"])
@pytest.mark.parametrize("name", FAULTS)
def test_no_call_that_fails_costs_what_was_acknowledged(
    tmp_path: Path, name: str, whole: bool, say: Callable[[str], None]
) -> None:
    need("strace")
    ends: Counter[str] = Counter()
    total: Counter[str] = Counter()
    with Workers() as workers:
        for number in count(1):
            fault = FAULTS[name].format(number)
            run = Run(workers, tmp_path / str(number), fault, whole=whole)
            run.check()
            if not run.struck:
                assert not run.end
                break
            ends[run.end or "not seen, and harmless"] += 1
            total += run.ledger.counts
    when = "from the start" if whole else "once open"
    say(f"{name}, {when}: {number - 1} times, {dict(ends)}; {Ledger.tell(total)}")
