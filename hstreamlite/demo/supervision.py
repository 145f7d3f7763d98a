"""Running a worker to its end, with kills on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

from hstreamlite.demo.leash import Worker, WorkerFailed

_STUCK_SECONDS = 60.0
"""Time without progress after which a worker counts as stuck."""


@dataclass(slots=True)
class Phase:
    """What came of running a worker again and again until it was done."""

    kills: list[int] = field(default_factory=list)
    """Count at which each kill struck, as last reported."""
    lost: int = 0
    """Records reported as safe and missing after the restart, over all restarts."""
    active_seconds: float = 0.0
    """Time between the first and the last report of each life: without start and data loading."""


class Supervisor:
    """Starts a worker, kills it at given counts, starts it again, until it is done.

    A report's counts are what is safe, per stream, and never go back; their sum is the progress. A
    kill strikes at the first report that has reached its count, after a random part of the
    time that the worker takes from one report to the next: in the middle of its work.
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
        self._phase = Phase()
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
            self._safe = report.counts
            began = last = moved = monotonic()
            steps = 0
            while report.kind != "done":
                count = sum(report.counts)
                self._show(count)
                worker.go_on()
                if self._kills and count >= self._kills[0]:
                    self._phase.active_seconds += last - began
                    sleep(self._chance.random() * (last - began) / max(1, steps))
                    worker.kill()
                    self._strike(count)
                    return True
                report = worker.wait_report(_STUCK_SECONDS)
                last = monotonic()
                steps += 1
                if report.counts != self._safe:
                    self._safe = report.counts
                    moved = last
                elif last - moved > _STUCK_SECONDS:
                    raise WorkerFailed(f"A worker process is stuck at {count:,} records.")
            self._phase.active_seconds += last - began
            worker.go_on()
            worker.wait(_STUCK_SECONDS)
            return False

    def _strike(self, count: int) -> None:
        del self._kills[0]
        self._phase.kills.append(count)
        self._note(f"SIGKILL at {count:,} records; starting the worker again")


def kill_counts(number: int, total: int, chance: random.Random) -> list[int]:
    """Spread kills over a phase: a random count in each of as many equal parts of it."""
    part = total / max(1, number)
    return [int((index + chance.random()) * part) for index in range(number)]
