"""The commands for stores in trouble, which need the core alone: check and salvage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress

from hstreamlite._native.files import real_env
from hstreamlite.cli.exits import Exit, told
from hstreamlite.cli.progress import Progress
from hstreamlite.store import real_path
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from hstreamlite.tools.target import check_apart

_EXIT_CODES = """\
exit codes:
  0  done; check: everything verifies; salvage: nothing had to be left behind
  1  damage was found, and reported
  2  wrong usage: nothing was done
  3  cannot read or write: no store, no permission, in use, disk full, newer format
"""


def main(arguments: Sequence[str], *, more: str = "") -> int:
    """Run a command and return the exit code of the process; `more` is told behind the help."""
    parser = _parser(more)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    if options.command is None:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    progress = Progress(sys.stderr)
    try:
        return int(options.run(options, progress))
    except KeyboardInterrupt:
        said, code = "interrupted", Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a traceback would end with the code for damage
        said, code = told(error), Exit.UNREACHABLE
    progress.clear()
    progress.note(f"hstreamlite {options.command}: {said}")
    return code


def _print(text: str) -> None:
    """Print a report, whatever stream names are in it. Who closed the pipe has read enough."""
    if sys.stdout is None:
        return
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = None
    except OSError as error:
        sys.stdout = None  # else leaving the process would try again
        raise OSError(error.errno, f"cannot print the report: {error.strerror}") from None


def _parser(more: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hstreamlite",
        description="Look after stores. Every command has a --help of its own.",
        epilog=f"{more}\n{_EXIT_CODES}" if more else _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    checking = commands.add_parser(
        "check",
        help="read a whole store and report what is damaged",
        description="Read everything in a store and report what does not verify: file, bytes, "
        "stream, ids. Changes nothing, and may run while the store is in use.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    checking.add_argument("path", metavar="PATH", type=_path, help="directory of the store")
    checking.add_argument("--json", action="store_true", help="print the report as JSON")
    checking.set_defaults(run=_check)
    saving = commands.add_parser(
        "salvage",
        help="save what verifies of a damaged store into a new one",
        description="Write everything that verifies to a new store, with the ids, times and "
        "subscriptions it had, and report what does not. The damaged store is not changed.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    saving.add_argument("path", metavar="PATH", type=_path, help="directory of the damaged store")
    saving.add_argument("out", metavar="OUT", type=_path, help="a new directory")
    saving.add_argument("--json", action="store_true", help="print the report as JSON")
    saving.set_defaults(run=_salvage)
    commands.add_parser(
        "demo",
        help="replay a year of flights through a store whose processes are killed",
        add_help=False,
    )
    commands.add_parser(
        "server",
        help="serve a store to HStreamDB's clients and to hstreamlite.connect",
        add_help=False,
    )
    return parser


def _path(text: str) -> str:
    try:
        return real_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check(options: argparse.Namespace, progress: Progress) -> int:
    report = check(
        real_env(), options.path, lambda done, total: progress.show("checking", done, total)
    )
    progress.clear()
    _print(json.dumps(report.facts(), indent=2) if options.json else "\n".join(report.lines()))
    return Exit.DONE if report.sound else Exit.REFUSED


def _salvage(options: argparse.Namespace, progress: Progress) -> int:
    env = real_env()
    try:
        check_apart(env, options.out, options.path)
    except ValueError as error:
        progress.note(f"hstreamlite salvage: {error}")
        return Exit.USAGE
    try:
        report = salvage(
            env,
            options.path,
            options.out,
            lambda done, total: progress.show("salvaging", done, total),
        )
    except FileExistsError as error:
        progress.clear()
        progress.note(f"hstreamlite salvage: {told(error)}; choose another name")
        return Exit.UNREACHABLE
    progress.clear()
    _print(json.dumps(report.facts(), indent=2) if options.json else "\n".join(report.lines()))
    return Exit.DONE if report.whole else Exit.REFUSED
