"""Groups in flight at once: torn by every crash, held back by hand, never acked out of order.

Goal: what is acknowledged was synced after every write before it had returned, whichever of two
writes was the faster; and whoever waits is woken. Method: a scripted load over the simulated disk
is cut off at each of its mutations; then real threads meet a table of file calls whose writes of
groups return when the test lets them, in the order it wants.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import ffi, lib
from hstreamlite._native.files import Files
from hstreamlite.env import system_env
from hstreamlite.errors import HStreamError
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, FailSync, Op
from hstreamlite.testing.witness import Witness, small_config

CUTS = 4
WIDE = {"segment_bytes_min": 512 << 10, "segment_bytes_max": 1 << 20}
"""Room for several groups of one burst in one segment."""


def burst(w: Witness, tag: str, calls: int = 6) -> None:
    for call in range(calls):
        payloads = [f"{tag}-{call}-{n}:".encode().ljust(3900, b".") for n in range(3)]
        outcome = w.append("a", [(None, p) for p in payloads], level="memory")
        assert outcome == "ok" or w.failed or w.env.disk.stopped


def load(w: Witness) -> None:
    """Bursts that nobody waits for, each with one who does behind it or in its middle."""
    if w.create("a") != "ok":
        return
    for number in range(3):
        burst(w, f"x{number}")
        if w.append("a", [(None, b"waited for %d" % number)]) != "ok":
            return
        burst(w, f"y{number}", calls=1)
    w.sync()


def wide(seed: int) -> Witness:
    return Witness(SimEnv(seed=seed), small_config(**WIDE))


def overlapped(w: Witness) -> int:
    return w.store._engine.journal.stats()["overlapped"]


@pytest.mark.parametrize("seed", range(2))
def test_crash_with_two_groups_in_flight_loses_nothing(seed: int) -> None:
    whole = wide(seed)
    first = whole.env.disk.counts().mutations
    load(whole)
    assert overlapped(whole) > 1
    crashes = holes = 0
    for mutation in range(first, whole.env.disk.counts().mutations):
        w = wide(seed)
        w.env.disk.stop_at(mutation)
        with suppress(HStreamError, OSError):
            load(w)
        assert w.env.disk.stopped
        for cut in range(CUTS):
            other = w.branch(w.env.clone())
            other.restart("power", seed=cut)
            other.check()
            holes += other.store.recovery.bytes_discarded > 0
            crashes += 1
    print(f"crash states: {crashes}, of them with valid frames behind a hole: {holes}")
    assert holes > 0


@pytest.mark.parametrize("kind", ["write", "sync lost", "sync reverted"])
def test_fault_with_two_groups_in_flight_acks_nothing_behind_it(kind: str) -> None:
    struck = 0
    nth = 1
    while True:
        w = wide(nth)
        if kind == "write":
            fault: Any = Fail(ops=Op.PWRITE, nth=nth)
        else:
            outcome: Any = kind.removeprefix("sync ")
            fault = FailSync(ops=Op.DATASYNC, nth=nth, outcome=outcome)
        hits = w.env.disk.inject(fault)
        load(w)
        if not hits():
            break
        struck += 1
        w.env.disk.clear_faults()
        w.check()
        w.restart(("process", "power", "close")[nth % 3], seed=nth)
        w.check()
        nth += 1
    assert struck > 5


# Real threads.

JOIN_SECONDS = 60
UNMOVED_NS = 50_000_000
"""How long a test looks at what must not happen."""
GROUP = 16 << 10
"""A write of at least so much is one of a group under test."""


class HeldWrites:
    """File calls of the system whose writes of groups wait until they are let go, one by one; its
    syncs too, if asked for."""

    def __init__(self) -> None:
        self.begun: Queue[int] = Queue()
        self.armed = self.hold_syncs = False
        self._gates: list[Queue[int]] = []
        self._lock = threading.Lock()
        self._system = system = lib.hsl_io_posix()
        self._sync_result = 0
        self.io = ffi.new("struct hsl_io *", system[0])

        def pwrite(ctx: Any, fd: int, data: Any, size: int, offset: int) -> int:
            result = self._hold() if size >= GROUP else 0
            return result or int(system.pwrite(ctx, fd, data, size, offset))

        def datasync(ctx: Any, fd: int) -> int:
            result = self._hold() if self.hold_syncs else self._sync_result
            return result or int(system.datasync(ctx, fd))

        self._keep = (
            ffi.callback("int64_t(void *, int, const void *, size_t, uint64_t)", pwrite),
            ffi.callback("int(void *, int)", datasync),
        )
        self.io.pwrite, self.io.datasync = self._keep

    def _hold(self) -> int:
        with self._lock:
            if not self.armed:
                return 0
            gate: Queue[int] = Queue()
            self._gates.append(gate)
            self.begun.put(len(self._gates) - 1)
        return gate.get()

    def wait_begun(self) -> int:
        """Return the number of the next held call that has begun."""
        return self.begun.get(timeout=JOIN_SECONDS)

    def let_go(self, number: int, *, fail: bool = False) -> None:
        self._gates[number].put(-errno.EIO if fail else 0)

    def let_all_go(self) -> None:
        with self._lock:
            self.armed = self.hold_syncs = False
            for gate in self._gates:
                gate.put(0)

    def fail_syncs(self) -> None:
        self._sync_result = -errno.EIO


class Held:
    """A store with one durable record, whose further writes are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = HeldWrites()
        files = Files(self.writes.io)
        config = hs.StoreConfig(frame_bytes=64 << 10, eager_bytes=GROUP, segment_bytes_min=16 << 20)
        self.store = hs.open(path, config=config, env=system_env(files, files))
        self.stream = self.store.create_stream("a")
        self.stream.append(b"first")
        self.journal = self.store._engine.journal
        self.writes.armed = True
        self.threads: list[threading.Thread] = []
        self.results: list[int] = []

    def stage(self, tag: bytes) -> int:
        """Stage what makes a group of its own, and have it written; return its ticket."""
        self.stream.append_many([tag.ljust(2 * GROUP, b".")] * 2, durability="memory")
        ticket = self.journal.staged()
        self.journal.kick(ticket)
        return ticket

    def wait(self, ticket: int, timeout_ns: int = -1) -> int:
        return int(lib.hsl_log_wait(self.journal.log, ticket, timeout_ns))

    def start(self, wait: Callable[[], int]) -> None:
        thread = threading.Thread(target=lambda: self.results.append(wait()), daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self) -> list[int]:
        for thread in self.threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a waiting thread was not woken"
        return self.results

    def reopened(self) -> list[bytes]:
        """Close, and return what the next open finds."""
        with suppress(HStreamError):
            self.store.close()
        with hs.open(self.path) as again:
            return [bytes(r.payload[:5]) for r in again.stream("a").read()]  # type: ignore[index]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "s")
    yield held
    held.writes.let_all_go()
    with suppress(HStreamError):
        held.store.close()


def two_in_flight(held: Held) -> tuple[int, int, int, int]:
    """Return tickets and write numbers of an older and a younger group, both being written."""
    older = held.stage(b"older")
    first = held.writes.wait_begun()
    younger = held.stage(b"young")
    second = held.writes.wait_begun()
    assert held.journal.stats()["overlapped"] == 1
    return older, younger, first, second


def test_younger_group_waits_for_the_older_one(held: Held) -> None:
    older, younger, first, second = two_in_flight(held)
    before = held.journal.durable()
    held.writes.let_go(second)
    assert held.wait(younger, UNMOVED_NS) == lib.HSL_TIMEOUT
    assert held.journal.durable() == before
    held.writes.let_go(first)
    assert held.wait(older) == held.wait(younger) == lib.HSL_OK
    assert held.reopened() == [b"first", b"older", b"older", b"young", b"young"]


def test_older_group_is_acknowledged_while_the_younger_is_written(held: Held) -> None:
    older, younger, first, second = two_in_flight(held)
    held.writes.let_go(first)
    assert held.wait(older) == lib.HSL_OK
    assert held.wait(younger, UNMOVED_NS) == lib.HSL_TIMEOUT
    assert held.journal.durable() == older
    third = held.stage(b"third")
    number = held.writes.wait_begun()
    held.writes.let_go(number)
    assert held.wait(third, UNMOVED_NS) == lib.HSL_TIMEOUT
    held.writes.let_go(second)
    assert held.wait(third) == lib.HSL_OK
    assert len(held.reopened()) == 7


def test_sync_covers_no_write_that_ended_after_it_began(held: Held) -> None:
    older = held.stage(b"older")
    first = held.writes.wait_begun()
    held.writes.hold_syncs = True
    held.writes.let_go(first)
    sync = held.writes.wait_begun()
    younger = held.stage(b"young")
    second = held.writes.wait_begun()
    held.writes.let_go(second)
    assert held.wait(younger, UNMOVED_NS) == lib.HSL_TIMEOUT
    held.writes.let_go(sync)
    assert held.wait(older) == lib.HSL_OK
    assert held.wait(younger, UNMOVED_NS) == lib.HSL_TIMEOUT
    assert held.journal.durable() == older
    own = held.writes.wait_begun()
    held.writes.let_go(own)
    assert held.wait(younger) == lib.HSL_OK


def test_failed_older_group_takes_the_younger_with_it(held: Held) -> None:
    older, younger, first, second = two_in_flight(held)
    before = held.journal.durable()
    held.writes.let_go(second)
    held.writes.let_go(first, fail=True)
    assert held.wait(older) == held.wait(younger) == lib.HSL_FAILED
    assert held.journal.durable() == before
    with pytest.raises(hs.StoreFailed):
        held.stream.append(b"later")
    assert held.reopened() == [b"first"], "frames behind a hole"


def test_failed_younger_group_leaves_the_older_unknown_or_durable(held: Held) -> None:
    older, younger, first, second = two_in_flight(held)
    held.writes.let_go(second, fail=True)
    assert held.wait(younger) == lib.HSL_FAILED
    held.writes.let_go(first)
    acked = held.wait(older) == lib.HSL_OK
    found = held.reopened()
    assert b"young" not in found
    assert not acked or found == [b"first", b"older", b"older"]


def test_failed_sync_acknowledges_neither_group(held: Held) -> None:
    older, younger, first, second = two_in_flight(held)
    before = held.journal.durable()
    held.writes.fail_syncs()
    held.writes.let_go(second)
    held.writes.let_go(first)
    assert held.wait(older) == held.wait(younger) == lib.HSL_FAILED
    assert held.journal.durable() == before


def test_close_waits_for_both_groups(held: Held) -> None:
    two_in_flight(held)
    closing = threading.Thread(target=held.store.close)
    closing.start()
    held.writes.let_all_go()
    closing.join(JOIN_SECONDS)
    assert not closing.is_alive()
    assert len(held.reopened()) == 5


TICKETS = 40
"""More than there are buckets of waiters."""


@pytest.mark.parametrize("end", ["durable", "failed", "closed"])
def test_every_waiting_thread_is_woken(held: Held, end: str) -> None:
    held.stage(b"older")
    first = held.writes.wait_begun()
    held.stream.append(b"small", durability="memory")
    begun = threading.Barrier(3 * TICKETS + 1)

    def wait(ticket: int) -> int:
        begun.wait(JOIN_SECONDS)
        return held.wait(ticket)

    def wait_tail(ticket: int) -> int:
        begun.wait(JOIN_SECONDS)
        while held.journal.durable() < ticket:
            seen = held.journal.durable()
            status = lib.hsl_log_wait_tail(held.journal.log, seen, -1)
            if status != lib.HSL_OK:
                return int(status)
        return int(lib.HSL_OK)

    for _ in range(TICKETS):
        held.stream.append_many([b"x" * 60_000], durability="memory")
        ticket = held.journal.staged()
        held.start(partial(wait, ticket))
        held.start(partial(wait, ticket))
        held.start(partial(wait_tail, ticket))
    begun.wait(JOIN_SECONDS)
    if end == "failed":
        held.writes.let_go(first, fail=True)
    else:
        held.writes.let_all_go()
    if end == "closed":
        held.store.close()
    held.writes.let_all_go()
    results = held.join()
    assert len(results) == 3 * TICKETS
    allowed = {
        "durable": {lib.HSL_OK},
        "failed": {lib.HSL_FAILED},
        "closed": {lib.HSL_OK, lib.HSL_CLOSED},
    }[end]
    assert set(results) <= allowed
