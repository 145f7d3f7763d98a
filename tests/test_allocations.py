"""Every allocation of the native core failing once: a clean error, nothing acknowledged lost.

Method: one workload over a simulated machine, run again and again with the next allocation failing,
until a run meets no failure. What ended with MemoryError must not have happened; a store that calls
itself failed is opened again; what does not succeed is tried again, and must succeed then. The
model judges everything that is there, and every allocation must have been freed in the end.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hstreamlite._native import lib
from hstreamlite.testing.model import Model, Violation
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Restart, Witness, small_config
from tests import effort

pytestmark = pytest.mark.usefixtures("frozen_heap")

PARTS = 4
LEAST_FAILURES = 300
"""With fewer the workload no longer goes where memory is asked for."""


@pytest.fixture(autouse=True)
def _allocations_succeed_afterwards() -> Iterator[None]:
    yield
    lib.hsl_alloc_fail_at(0)


class Trial:
    """One run of the workload in which the n-th allocation fails; 0 = none."""

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.outcomes: Counter[str] = Counter()
        self.number = 0
        self.drained_once = False
        env = SimEnv(seed=7, capacity=64 << 20)
        lib.hsl_alloc_fail_at(nth)
        self.w = self.insist(lambda: Witness(env, small_config(), Model()))

    def failed(self) -> bool:
        return 0 < self.nth <= int(lib.hsl_alloc_count())

    def insist(self, call: Callable[[], Witness]) -> Witness:
        try:
            return call()
        except MemoryError:
            assert self.failed()
            self.outcomes["open"] += 1
            return call()

    def until_done(self, call: Callable[[], str]) -> None:
        """Make a call until it succeeds; one failure at most is allowed."""
        for _ in range(2):
            try:
                outcome = call()
            except MemoryError:
                outcome = "raised"
            if outcome == "ok":
                return
            assert self.failed()
            self.outcomes[outcome] += 1
            if self.w.failed or outcome == "unknown":
                self.outcomes["store failed"] += 1
                self.restart("process")
        pytest.fail(f"allocation {self.nth}: a call does not recover")

    def restart(self, how: Restart) -> None:
        def open_again() -> str:
            self.w.open()
            return "ok"

        self.w.restart(how, reopen=False)
        try:
            open_again()
        except MemoryError:
            assert self.failed()
            self.outcomes["open"] += 1
            open_again()
        self.check()

    def check(self) -> None:
        try:
            self.w.check()
        except MemoryError:
            assert self.failed()
            self.outcomes["read"] += 1
            self.w.check()

    def records(self, count: int, size: int = 60) -> list[tuple[str | None, bytes]]:
        self.number += count
        return [
            (f"k{n % 3}" if n % 2 else None, b"%d:".ljust(size, b".") % n)
            for n in range(self.number - count, self.number)
        ]

    def create(self, name: str, shards: int) -> None:
        self.until_done(
            lambda: "ok" if name in self.w.model.streams else self.w.create(name, shards=shards)
        )

    def received(self, most: int) -> str:
        return "ok" if self.w.receive("s", "one", most) > 0 else "none"

    def consume(self, count: int) -> None:
        """Receive, and ack in a transaction that appends too; then receive more and ack it."""

        def in_transaction() -> str:
            if not self.w.held.get(("s", "one")):
                self.received(count)
            return self.w.transact({"b": self.records(2)}, ("s", "one"), count=count)

        def plain() -> str:
            if not self.w.held.get(("s", "one")):
                self.received(count)
            return self.w.ack("s", "one")

        self.until_done(lambda: self.received(count))
        self.until_done(in_transaction)
        self.until_done(lambda: self.received(count))
        self.until_done(plain)

    def drain(self) -> str:
        try:
            self.w.drain()
        except Violation:  # it ended at a call that failed, or it lost a record
            if self.drained_once or not self.failed():
                raise
            self.drained_once = True
            return "none"
        return "ok"

    def run(self) -> Trial:
        w = self.w
        self.create("a", 3)
        self.create("b", 1)
        self.until_done(lambda: "ok" if "s" in w.model.subs else w.subscribe("s", "a"))
        self.until_done(lambda: w.append("a", self.records(1)))
        for compression in ("none", "zstd"):
            self.until_done(
                lambda how=compression: w.append("a", self.records(40), compression=how)
            )
        self.until_done(lambda: w.append("b", self.records(1), level="os"))
        self.until_done(lambda: w.append("b", self.records(3), level="memory"))
        self.consume(10)
        self.restart("power")
        for _ in range(9):  # over the end of a segment, and over index checkpoints
            self.until_done(lambda: w.append("a", self.records(3, 3000)))
        self.until_done(lambda: w.produce("b", "importer", 12))
        self.until_done(lambda: w.trim("b", self.w.store.stream("b").tail()))
        self.until_done(lambda: w.pass_time(2.0))
        for name in ("a", "b") * 8:
            self.until_done(lambda name=name: w.append(name, self.records(3, 1500)))
        self.until_done(w.compact)
        self.restart("process")
        self.consume(20)
        self.until_done(lambda: w.delete("b") if "b" in w.model.streams else "ok")
        self.restart("close")
        self.until_done(self.drain)
        self.check()
        self.until_done(lambda: w.attempt(w.store.close)[0])
        return self


def live() -> int:
    gc.collect()
    return int(lib.hsl_alloc_live())


@pytest.mark.parametrize("part", range(PARTS))
def test_each_allocation_may_fail_once(part: int) -> None:
    outcomes: Counter[str] = Counter()
    before = live()
    Trial(0).run()
    assert live() == before
    nth, step = part + 1, PARTS * effort.of(1, brief=8)
    while True:
        trial = Trial(nth).run()
        assert trial.w.env.disk.counts().handles == 0, f"allocation {nth}"
        reached = trial.failed()
        outcomes += trial.outcomes
        del trial
        assert live() == before, f"allocation {nth}"
        if not reached:
            break
        nth += step
    print(f"every {step}th of {nth} allocations failed once: {dict(outcomes)}")
    assert nth > LEAST_FAILURES


def test_an_idle_mark_for_which_memory_lacks_is_left_out() -> None:
    outcomes: Counter[str] = Counter()
    for count in range(1, 20):  # until there is a store whose memory for frames is used up
        w = Witness(SimEnv(seed=7), small_config(), Model())
        assert w.create("a") == "ok"
        for number in range(count):
            assert w.append("a", [(None, b"%d;" % number * 900)]) == "ok"
        lib.hsl_alloc_fail_at(1)
        assert w.pass_time(5.0) == "ok"
        reached = lib.hsl_alloc_count() > 0
        lib.hsl_alloc_fail_at(0)
        outcomes["left out" if reached else "written"] += 1
        assert w.append("a", [(None, b"after")]) == "ok"
        w.restart("power")
        w.check()
        w.store.close()
    assert outcomes["left out"] > 0 < outcomes["written"], outcomes
