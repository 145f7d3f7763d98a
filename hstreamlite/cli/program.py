"""The command line as a tree of click's commands, and what becomes of errors and interrupts."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module

import click
from click.shell_completion import shell_complete
from rich_click import RichGroup

from hstreamlite import __version__
from hstreamlite.cli import COMPLETE_VARIABLE
from hstreamlite.cli.access import PATH, connecting
from hstreamlite.cli.exits import MEANINGS, Exit, code_of, told
from hstreamlite.cli.index import ALIASES, COMMANDS
from hstreamlite.signals import exit_on_sigterm

NAME = "hstreamlite"


class Tree(RichGroup):
    """The commands of the index. Each module is loaded when a command of it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        where = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if where is None:
            return None
        module, name = where
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, *_ = args
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            like = get_close_matches(name, COMMANDS, 1)
            ctx.fail(f"No such command {name!r}." + "".join(f" Did you mean {n!r}?" for n in like))
        return super().resolve_command(ctx, args)


_EPILOG = "Exit codes: " + "; ".join(f"{code:d} {text}" for code, text in MEANINGS.items()) + "."


@click.command(NAME, cls=Tree, epilog=_EPILOG)
@click.version_option(__version__, prog_name=NAME)
@connecting
def hstreamlite() -> None:
    """Durable streams: in a directory, or at a server.

    Say with --store which directory, or with --service-url which server. On a terminal commands
    print tables; elsewhere, or with --json, JSON.
    """


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code of the process."""
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        return shell_complete(hstreamlite, {}, NAME, COMPLETE_VARIABLE, instruction)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it has to say, commands tell
    path = NAME
    try:
        with _ended_by_sigterm(), hstreamlite.make_context(NAME, list(arguments)) as context:
            try:
                hstreamlite.invoke(context)
            finally:
                path = context.meta.get(PATH, path)
            if sys.stdout is not None:
                sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        sys.stdout = None  # who closed the pipe has read enough
        return Exit.DONE
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except click.ClickException as error:
        code, said = Exit.USAGE, _usage(error, path)
    except Exception as error:  # noqa: BLE001 - a traceback would end with a code of its own
        code, said = code_of(error), f"{path}: {told(error)}"
    else:
        return Exit.DONE
    with suppress(OSError):
        print(said, file=sys.stderr)
    return code


def _usage(error: click.ClickException, path: str) -> str:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.message.rstrip()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    message = " ".join(error.format_message().split())
    if message[-1:] not in {".", "?", ")"}:
        message += "."
    return f"{path}: {message} See `{path} --help`."


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Close stores when SIGTERM comes; what handled it before does so again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    exit_on_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
