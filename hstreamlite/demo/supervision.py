"""Running a worker to its end, with kills on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

from hstreamlite.demo.leash import Report, Worker, WorkerFailed

_STUCK_SECONDS = 60.0
"""Time without progress after which a worker counts as stuck."""
_REPRIEVE_REPORTS = 6
_KILLING_SHARE = 0.75


@dataclass(slots=True)
class Phase:
    """What came of running a worker again and again until it was done."""

    kills: list[int] = field(default_factory=list)
    """Count at which each kill struck, as last reported."""
    lost: int = 0
    """Records reported as safe and missing after the restart, over all restarts."""
    active_seconds: float = 0.0
    """Time at work: without process starts, loading of files, and waiting for an ack timeout."""


class Supervisor:
    """Starts a worker, kills it at given counts, starts it again, until it is done.

    A report's counts are what is safe, per stream, and never go back; their sum is the progress.
    A kill strikes at a random one of the first
    reports after its count is reached, and then after a random part of the time that the worker
    takes from one report to the next: in the middle of its work, whatever that is.
    """

    def __init__(
        self,
        command: Sequence[str],
        last: Sequence[str],
        kills: Sequence[int],
        chance: random.Random,
        show: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        """Take the arguments of the worker, and those to add in the life that ends by itself."""
        self._command = command
        self._last = last
        self._kills = list(kills)
        self._chance = chance
        self._show = show
        self._note = note
        self._reprieve = chance.randrange(_REPRIEVE_REPORTS)
        self._phase = Phase()
        self._steps = 0
        self._moved = 0.0
        self._safe: tuple[int, ...] = ()

    def run(self) -> Phase:
        """Run to the end. WorkerFailed when the worker ends or stops in a way we did not cause."""
        while self._live():
            pass
        return self._phase

    def _live(self) -> bool:
        """Run one life of the worker, and tell whether it was killed."""
        with Worker([*self._command, *(() if self._kills else self._last)]) as worker:
            report = worker.wait_report(_STUCK_SECONDS)
            self._phase.lost += sum(
                max(0, before - now) for before, now in zip(self._safe, report.counts, strict=False)
            )
            last = self._moved = monotonic()
            while True:
                self._note_report(report)
                if self._kill_due(report):
                    worker.go_on()
                    sleep(self._chance.random() * self._phase.active_seconds / max(1, self._steps))
                    worker.kill()
                    self._strike()
                    return True
                worker.go_on()
                if report.kind == "done":
                    worker.wait(_STUCK_SECONDS)
                    return False
                idle = report.kind == "idle"
                report = worker.wait_report(_STUCK_SECONDS)
                last, before = monotonic(), last
                if not (idle and report.kind == "idle"):
                    self._phase.active_seconds += last - before
                    self._steps += 1

    def _note_report(self, report: Report) -> None:
        if report.counts != self._safe:
            self._safe = report.counts
            self._moved = monotonic()
        elif monotonic() - self._moved > _STUCK_SECONDS:
            raise WorkerFailed(f"A worker process is stuck at {sum(self._safe):,} records.")
        self._show(sum(self._safe))

    def _kill_due(self, report: Report) -> bool:
        if not self._kills or sum(self._safe) < self._kills[0]:
            return False
        self._reprieve -= 1
        return self._reprieve < 0 or report.kind == "done"

    def _strike(self) -> None:
        del self._kills[0]
        self._reprieve = self._chance.randrange(_REPRIEVE_REPORTS)
        count = sum(self._safe)
        self._phase.kills.append(count)
        self._note(f"SIGKILL at {count:,} records; starting the worker again")


def kill_counts(number: int, total: int, chance: random.Random) -> list[int]:
    """Spread kills over most of a phase: a random count in each of as many equal parts.

    The rest is left to the life that ends by itself.
    """
    part = _KILLING_SHARE * total / max(1, number)
    return [int((index + chance.random()) * part) for index in range(number)]
