"""Rounds: every contender and every limit of a case in turn, each in a new empty directory."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.cases import Case, Line
from benchmarks.samples import Sample


@dataclass(slots=True)
class Result:
    """The samples of one line: a list by round for each contender and each limit."""

    case: Case
    line: Line
    contenders: dict[str, list[Sample]] = field(default_factory=dict)
    limits: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        return next(iter(self.contenders))

    def best_rival(self) -> str | None:
        """Return the rival with the highest median rate, None where there is no rival."""
        rivals = [name for name in self.contenders if name != self.subject]
        return max(rivals, key=lambda name: rate(self.contenders[name]), default=None)

    def ratio_to(self, other: Sequence[Sample]) -> float:
        """Return the median over the rounds of our rate to another's in the same round."""
        ours = self.contenders[self.subject]
        return median(our.rate / its.rate for our, its in zip(ours, other, strict=True))


def rate(samples: Sequence[Sample]) -> float:
    """Return the median rate."""
    return median(sample.rate for sample in samples)


def run_case(
    case: Case, repeats: int, parent: Path, progress: Callable[[str], None]
) -> list[Result]:
    """Run a case so many rounds; the order rotates by one from round to round."""
    results = [Result(case, line) for line in case.lines]
    turns: list[Callable[[Path], None]] = []
    names: list[str] = []
    for name in case.contenders:
        turns.append(_contender_turn(case, name, results))
        names.append(name)
    for result in results:
        for number, limit in enumerate(result.line.limits):
            turns.append(_limit_turn(result, number))
            names.append(f"limit: {limit.name}")
    for round_number in range(repeats):
        for at in range(len(turns)):
            turn = (at + round_number) % len(turns)
            progress(f"{case.workload}: {case.lines[0].title}: {names[turn]}, {round_number + 1}")
            with empty_directory(parent) as path:
                turns[turn](path)
    return results


def _contender_turn(case: Case, name: str, results: list[Result]) -> Callable[[Path], None]:
    def turn(path: Path) -> None:
        samples = case.contenders[name](path)
        for result, sample in zip(results, samples, strict=True):
            result.contenders[name].append(sample)

    for result in results:
        result.contenders[name] = []
    return turn


def _limit_turn(result: Result, number: int) -> Callable[[Path], None]:
    limit = result.line.limits[number]
    samples = result.limits[limit.name] = []

    def turn(path: Path) -> None:
        samples.append(limit.measure(path))

    return turn


@contextmanager
def empty_directory(parent: Path) -> Iterator[Path]:
    """Make a directory for one turn, with garbage collected and the disk at rest; remove it after.

    Removing drops what the turn left unwritten, so that it is not written during the next one.
    """
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    gc.collect()
    os.sync()
    try:
        yield path
    finally:
        shutil.rmtree(path)
