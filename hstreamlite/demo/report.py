"""What the demo prints in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hstreamlite.demo.checks import Check
from hstreamlite.demo.delays import Cell
from hstreamlite.demo.supervision import Phase

_HOURS = range(6, 24, 3)


def phase_lines(what: str, phase: Phase) -> Iterator[str]:
    """Tell what was done, and where the kills struck."""
    times = len(phase.kills)
    yield f"{what} killed {'once' if times == 1 else f'{times} times'}"
    if phase.kills:
        yield f"  SIGKILL at {', '.join(f'{count:,}' for count in phase.kills)}"


def rate(verb: str, records: int, seconds: float) -> str:
    """Tell how fast a phase was."""
    return f"  {verb:<10}{records / max(seconds, 1e-9):>10,.0f} records/s, {seconds:.2f} s"


def check_lines(checks: Iterable[Check]) -> Iterator[str]:
    """Tell the verdicts."""
    for check in checks:
        yield f"  {'ok' if check.holds else 'FAILED':<8}{check.claim} ({check.facts})"


def delay_table(means: dict[Cell, float]) -> Iterator[str]:
    """Draw the mean delays of some hours of the day, a line for each airport."""
    yield "  " + " " * 4 + "".join(f"{f'{hour:02}:00':>8}" for hour in _HOURS)
    for origin in sorted({origin for origin, _ in means}):
        cells = (means.get((origin, hour)) for hour in _HOURS)
        yield f"  {origin:<4}" + "".join(
            f"{'-':>8}" if mean is None else f"{mean:>8.1f}" for mean in cells
        )


def directory_bytes(directory: Path) -> int:
    """Return the size of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
