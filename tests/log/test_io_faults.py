"""Every call to the disk fails, in every way, once and from then on: typed, honest, survivable.

Goal: what fails says so by its exact type, nothing hangs, nothing that was acknowledged is lost and
nothing that failed appears. Method: a scripted life of a store, from its creation over a restart to
reading all of it, meets each fault at each of its calls, witnessed by the reference model.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from hstreamlite.errors import HStreamError, StoreFailed
from hstreamlite.testing.model import Outcome
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Call, Fail, FailSync, Fault, Interrupt, Op, Short
from hstreamlite.testing.witness import Witness
from tests import effort
from tests.log.scripted import Stopped, finish, run

NOT_CLOSING = Op.ANY & ~Op.CLOSE & ~Op.UNMAP
SPACE = Op.ALLOCATE | Op.PWRITE | Op.MKDIR | Op.OPEN
FILE_SYNCS = Op.DATASYNC | Op.SYNC
"""A directory entry that a failed sync lost cannot be made durable again by anybody; journalling
file systems stop at that point, and so is not asked of the store."""

FAULTS: dict[str, Callable[..., Fault]] = {
    "EIO": lambda **when: Fail(ops=NOT_CLOSING, **when),
    "ENOSPC": lambda **when: Fail(ops=SPACE, errno=errno.ENOSPC, **when),
    "EINTR": lambda **when: Interrupt(**when),
    "short write": lambda **when: Short(ops=Op.PWRITE, count=4096, **when),
    "short read": lambda **when: Short(ops=Op.PREAD, **when),
    "sync lost": lambda **when: FailSync(ops=FILE_SYNCS, outcome="lost", **when),
    "sync reverted": lambda **when: FailSync(ops=FILE_SYNCS, outcome="reverted", **when),
    "sync survived": lambda **when: FailSync(outcome="survived", **when),
}
HARMLESS = ("EINTR", "short write", "short read")

WRITING = Op.PWRITE | Op.SYNCS | Op.TRUNCATE | Op.RENAME
"""What poisons a running store when it fails; the superblock does so by any call."""


class Victim(Witness):
    """Notes the first error of a call, and the call to the disk that failed last before it."""

    error: BaseException | None = None
    struck: Call | None = None
    closing = False

    def attempt(self, call: Callable[[], Any]) -> tuple[Outcome, Any]:
        outcome, got = super().attempt(call)
        if outcome != "ok" and self.error is None:
            self.error = got
            self.closing = call == self.store.close
            failed = [c for c in self.env.disk.traced() if -c.result in (errno.EIO, errno.ENOSPC)]
            self.struck = failed[-1] if failed else None
        return outcome, got


def judge_call(victim: Victim, code: int) -> None:
    """A call of a running store failed: by StoreFailed, and for good, if what is on disk can no
    longer be known; else by an OSError, and the store goes on."""
    error, struck = victim.error, victim.struck
    assert error is not None
    assert struck is not None, error
    path = struck.path or ""
    if victim.closing:
        # What was staged is durable or StoreFailed says so; the seal, or the lock, may fail beside.
        assert isinstance(error, OSError | StoreFailed), (struck, error)
    elif path.endswith("SUPER") or (struck.op & WRITING and "/segments" in path):
        assert type(error) is StoreFailed, (struck, error)
        assert error.outcome == "unknown"
        assert isinstance(error.cause, OSError)
        assert error.cause.errno == code
    else:
        judge_open(error, code)
        assert not victim.failed, (struck, error)


def judge_open(error: BaseException | None, code: int) -> None:
    assert isinstance(error, OSError), error
    assert error.errno == code, error


def live(env: SimEnv, nth: int) -> tuple[Victim | None, BaseException | None]:
    """Create, use, leave, reopen and read a store; return it, and the error of an open."""
    try:
        victim = Victim(env)
    except (HStreamError, OSError, MemoryError) as error:
        return None, error
    try:
        run(victim)
    except Stopped:
        return victim, None
    try:
        victim.restart("process" if nth % 2 else "close")
        victim.check()
    except (HStreamError, OSError, MemoryError) as error:
        return victim, error
    return victim, None


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", FAULTS)
def test_fault_at_every_call_is_typed_and_loses_nothing(
    kind: str, *, forever: bool, direct: bool
) -> None:
    code = errno.ENOSPC if kind == "ENOSPC" else errno.EIO
    struck = refused = 0
    nth = 1
    while True:
        env = SimEnv(seed=nth)
        if not direct:
            env.disk.set_direct(0)
        env.disk.trace()
        hits = env.disk.inject(FAULTS[kind](nth=nth, from_then_on=forever))
        victim, error = live(env, nth)
        if not hits():
            break
        struck += 1
        if kind in HARMLESS:
            assert error is None, f"call {nth}"
            assert victim is not None
            assert victim.error is None, f"call {nth}"
        elif victim and victim.error:
            refused += 1
            judge_call(victim, code)
        elif error:
            refused += 1
            judge_open(error, code)
        env.disk.clear_faults()
        if victim is None:
            victim = Victim(env.process_crash())
        elif error:
            victim.restart("power", seed=nth)
        else:
            victim.check()
            if not victim.failed and not victim.error:
                finish(victim)
            victim.restart(("process", "power", "close")[nth % 3], seed=nth)
        finish(victim)
        nth += 1 if direct and not effort.BRIEF else 3
    print(f"faults: {struck}, calls that failed: {refused}")
    assert struck > 4
    assert (refused > struck // 2) == (kind not in HARMLESS)
