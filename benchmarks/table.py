"""The table of goals: what is asked of the engine, and what this machine shows.

    python -m benchmarks table [--quick] [--goal N] [--row TEXT] [--rounds N] [--dir PATH]
                               [--json FILE]

A row is a ratio to a physical limit or to a rival that was measured in the same rounds: its median,
and its least and greatest over the rounds. Figures count only when nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contenders import contenders
from benchmarks.goals import Goal, Group, Sense, Verdict, groups
from benchmarks.machine import describe
from benchmarks.plan import Plan
from benchmarks.rounds import Result, run_case

_VOLUMES = {"full": 1.0, "quick": 0.05, "tiny": 0.001}
_ROUNDS = {"full": 5, "quick": 3, "tiny": 1}
_COLUMNS = "{:2} {:52} {:>10} {:32} {:>10} {:>6} {:>13} {:>8} {}"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; the exit code is 0, whatever is met."""
    commands = parser("python -m benchmarks table", __doc__)
    commands.add_argument(
        "--goal", action="append", metavar="N", help="only the rows of this goal; may be repeated"
    )
    commands.add_argument(
        "--row", action="append", metavar="TEXT", help="only rows with this in their title"
    )
    options = commands.parse_args(arguments)
    openers, versions = contenders()
    plan = plan_of(options)
    wanted = (
        group
        for number, make in groups(plan, openers).items()
        if not options.goal or number in options.goal
        for group in make()
        if _asked(group, options.row)
    )
    print_rows(wanted, options, versions, heading=True)
    return 0


def _asked(group: Group, texts: Sequence[str] | None) -> bool:
    """Return whether a row of the group is asked for; those that share its runs come with it."""
    return not texts or any(text in goal.title for text in texts for goal in group.goals)


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every table of goals can be told."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help=f"{_ROUNDS['full']} if not given")
    add("--scale", choices=_VOLUMES, default="full", help="share of the full volume")
    add("--quick", action="store_const", const="quick", dest="scale", help="a minute or two")
    add("--seed", type=int, default=1, help="seed of all payloads")
    add("--json", type=Path, metavar="FILE", help="write every row there")
    add("--dir", type=Path, default=Path.cwd(), help="where the data goes; a disk, not a tmpfs")
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the volumes that are asked for."""
    return Plan(options.seed, _VOLUMES[options.scale])


def print_rows(
    wanted: Iterable[Group],
    options: argparse.Namespace,
    versions: Mapping[str, str],
    *,
    heading: bool = False,
    detail: Callable[[Case, Sequence[Result]], None] | None = None,
) -> None:
    """Measure groups in turn, and print a row for each of their goals, then the detail."""
    rounds = options.rounds or _ROUNDS[options.scale]
    facts = {**describe(options.dir), **versions, "seed": str(options.seed)}
    facts |= {"scale": options.scale, "rounds": str(rounds)}
    for name, fact in facts.items():
        print(f"{name:14} {fact}")
    print()
    if heading:
        print(
            _COLUMNS.format("", "goal", "figure", "beside", "", "ratio", "min-max", "wanted", "met")
        )
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="hstreamlite-bench-", dir=options.dir) as directory:
        for group in wanted:
            results = run_case(group.case, rounds, Path(directory), _progress)
            _progress("")
            for goal in group.goals:
                verdict = goal.judge(results)
                print(_missing(goal) if verdict is None else _row(verdict), flush=True)
                if verdict is not None:
                    rows.append(_plain(verdict))
            if detail is not None:
                detail(group.case, results)
    if options.json:
        text = json.dumps({"machine": facts, "rows": rows}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)


def _row(verdict: Verdict) -> str:
    goal = verdict.goal
    sign = ">=" if goal.sense is Sense.RATE else "<="
    return _COLUMNS.format(
        goal.number,
        goal.title,
        _figure(verdict.figure, goal.unit),
        verdict.other,
        _figure(verdict.other_figure, goal.unit),
        f"{verdict.ratio:.2f}",
        f"{verdict.ratios[0]:.2f}-{verdict.ratios[-1]:.2f}",
        f"{sign} {goal.bound:g}",
        "yes" if verdict.met else "NO",
    )


def _missing(goal: Goal) -> str:
    none = "no rival installed"
    return _COLUMNS.format(goal.number, goal.title, "", none, *[""] * 5).rstrip()


def _figure(value: float, unit: str) -> str:
    if unit == "ms":
        return f"{1e3 / value:.3g} ms"
    if unit == "rec/s":
        return f"{value / 1e6:.3g} M/s" if value >= 1e6 else f"{value / 1e3:.3g} k/s"
    if unit == "B" and value >= 1 << 20:
        return f"{value / (1 << 20):.3g} MiB"
    return f"{value:.3g} {unit}".rstrip()


def _plain(verdict: Verdict) -> dict[str, object]:
    goal = verdict.goal
    return {
        "goal": goal.number,
        "title": goal.title,
        "figure": verdict.figure,
        "beside": verdict.other,
        "beside_figure": verdict.other_figure,
        "unit": goal.unit,
        "ratio": verdict.ratio,
        "ratios": list(verdict.ratios),
        "wanted": f"{goal.sense.value} {goal.bound:g}",
        "met": verdict.met,
    }
