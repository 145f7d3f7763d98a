"""The command: runs workloads and prints one line for each figure."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import callers, consume, lists, reopen, singles, streams
from benchmarks.cases import Case
from benchmarks.contenders import chosen, contenders
from benchmarks.machine import describe
from benchmarks.plan import Plan
from benchmarks.rivals import Opener
from benchmarks.rounds import Result, rate, run_case
from benchmarks.samples import Sample

WORKLOADS: dict[str, Callable[[Plan, Mapping[str, Opener]], list[Case]]] = {
    module.WORKLOAD: module.cases for module in (lists, singles, callers, streams, reopen, consume)
}
_VOLUMES = {"full": 1.0, "quick": 0.1, "tiny": 0.001}
_FULL_REPEATS = 5
_QUICK_REPEATS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code is 0, or 2 for a wrong argument."""
    parser = _parser()
    options = parser.parse_args(arguments)
    openers, versions = contenders()
    try:
        openers = chosen(openers, options.rivals)
    except ValueError as error:
        parser.error(str(error))
    repeats = options.repeats or (_FULL_REPEATS if options.scale == "full" else _QUICK_REPEATS)
    plan = Plan(options.seed, _VOLUMES[options.scale])
    facts = {
        **describe(options.dir),
        **versions,
        "seed": str(plan.seed),
        "scale": options.scale,
        "rounds": str(repeats),
    }
    for name, fact in facts.items():
        print(f"{name:14} {fact}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="hstreamlite-bench-", dir=options.dir) as directory:
        for workload in options.workload or WORKLOADS:
            print(f"\n{_heading(workload)}")
            for case in WORKLOADS[workload](plan, openers):
                found = run_case(case, repeats, Path(directory), _progress)
                _progress("")
                for result in found:
                    print("\n".join(_rows(result, every=options.all)), flush=True)
                results += found
    if options.json:
        content = {"machine": facts, "results": [_plain(result) for result in results]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--workload", action="append", choices=WORKLOADS, help="only this one; may be repeated")
    add("--rivals", metavar="NAMES", help="only these rivals, comma-separated; empty for none")
    add("--repeats", type=_rounds, metavar="N", help=f"rounds, {_FULL_REPEATS} if not given")
    add("--scale", choices=_VOLUMES, default="full", help="share of the full volume")
    add(
        "--quick",
        action="store_const",
        const="quick",
        dest="scale",
        help=f"a tenth of the volume, {_QUICK_REPEATS} rounds",
    )
    add("--seed", type=int, default=1, help="seed of all payloads")
    add("--all", action="store_true", help="also a row for each rival and each limit")
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add(
        "--dir",
        type=Path,
        default=Path.cwd(),
        help="where the data goes, in a directory that is removed; a disk, not a tmpfs",
    )
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)


_COLUMNS = "{:42} {:>9} {:>9} {:>9} {:>16}  {:>6} {:24} {:>6} {:24}"


def _heading(workload: str) -> str:
    names = ("median", "min", "max", "p50/p99 us", "ratio", "to best rival", "ratio", "to limit")
    return _COLUMNS.format(workload, *names).rstrip()


def _rows(result: Result, *, every: bool) -> list[str]:
    ours = result.contenders[result.subject]
    best = result.best_rival()
    limit = next(iter(result.limits))
    versus = ("", "-") if best is None else _versus(result, best, result.contenders[best])
    bound = _versus(result, limit, result.limits[limit])
    rows = [_COLUMNS.format(result.line.title, *figures(ours, result.line.unit), *versus, *bound)]
    if every:
        for name, samples in [*result.contenders.items(), *result.limits.items()]:
            ratio = _versus(result, "", samples)[0]
            told = figures(samples, result.line.unit)
            rows.append(_COLUMNS.format(f"  {name}", *told, ratio, "", "", ""))
    return [row.rstrip() for row in rows]


def _versus(result: Result, name: str, samples: Sequence[Sample]) -> tuple[str, str]:
    ratio = result.ratio_to(samples)
    digits = 3 if ratio < 0.1 else 2 if ratio < 100 else 0
    return f"{ratio:.{digits}f}", name


def figures(samples: Sequence[Sample], unit: str) -> tuple[str, str, str, str]:
    rates = sorted(sample.rate for sample in samples)
    middle, low, high = rate(samples), rates[0], rates[-1]
    if unit == "ms":
        return _milliseconds(middle), _milliseconds(high), _milliseconds(low), _latency(samples)
    return _rate(middle), _rate(low), _rate(high), _latency(samples)


def _milliseconds(rate_of_calls: float) -> str:
    return f"{1e3 / rate_of_calls:.2f} ms"


def _rate(per_second: float) -> str:
    for unit, size in (("M/s", 1e6), ("k/s", 1e3)):
        if per_second >= size:
            return f"{per_second / size:.3g} {unit}"
    return f"{per_second:.3g} /s"


def _latency(samples: Sequence[Sample]) -> str:
    if not samples[0].calls_ns:
        return "-"
    half, most = (
        median(sample.percentile_us(percent) or 0.0 for sample in samples) for percent in (50, 99)
    )
    return f"{_microseconds(half)}/{_microseconds(most)}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(result: Result) -> dict[str, object]:
    groups = {"contenders": result.contenders, "limits": result.limits}
    best = result.best_rival()
    return {
        "workload": result.case.workload,
        "line": result.line.title,
        "unit": result.line.unit,
        "best_rival": best,
        "ratio_to_best_rival": result.ratio_to(result.contenders[best]) if best else None,
        "ratio_to_limit": result.ratio_to(next(iter(result.limits.values()))),
        **{
            group: {name: [_plain_sample(sample) for sample in found] for name, found in by.items()}
            for group, by in groups.items()
        },
    }


def _plain_sample(sample: Sample) -> dict[str, float | None]:
    return {
        "units": sample.units,
        "seconds": sample.seconds,
        "rate": sample.rate,
        "p50_us": sample.percentile_us(50),
        "p99_us": sample.percentile_us(99),
    }
