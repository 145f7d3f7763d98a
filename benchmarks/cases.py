"""What a workload consists of: cases, each one comparison between contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.samples import Sample

Run: TypeAlias = Callable[[Path], Sequence[Sample]]
"""Do the work in an empty directory and return one sample for each line of the case."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that no contender can outrun on this machine, measured in the same rounds."""

    name: str
    measure: Callable[[Path], Sample]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a case. Ratios are to the first limit; the others are shown beside it.

    `unit` is "rec" for a rate of records, or "ms" for the time of one call, which is shown as that
    but compared as a rate like everything else.
    """

    title: str
    limits: tuple[Limit, ...]
    unit: str = "rec"


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders by name at the same work. The first one is ours."""

    workload: str
    lines: tuple[Line, ...]
    contenders: Mapping[str, Run]


class WrongResult(Exception):
    """A contender lost or invented records, so that its time means nothing."""


def expect(what: str, found: object, expected: object) -> None:
    """Raise WrongResult unless the two are equal."""
    if found != expected:
        raise WrongResult(f"{what}: expected {expected}, found {found}")
