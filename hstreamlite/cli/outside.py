"""The commands that do without click: how they appear among the others."""

from __future__ import annotations

import click
from rich_click import RichCommand

from hstreamlite.cli.access import access_of
from hstreamlite.cli.exits import Exit, Refusal

_PASSED: dict[str, object] = {"ignore_unknown_options": True, "help_option_names": []}
_arguments = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)


def _care(name: str, arguments: tuple[str, ...]) -> None:
    from hstreamlite.cli import care

    click.get_current_context().exit(care.main([name, *arguments]))


@click.command(cls=RichCommand, context_settings=_PASSED)
@_arguments
def server(arguments: tuple[str, ...]) -> None:
    """Serve a store to HStreamDB's clients and to hstreamlite.connect.

    `hstreamlite server --help` tells all settings.
    """
    from hstreamlite.net import main as net

    ctx = click.get_current_context()
    store = access_of(ctx).store
    if store and not any(word.partition("=")[0] == "--store" for word in arguments):
        arguments = ("--store", store, *arguments)
    ctx.exit(net.main(arguments))


@click.command(cls=RichCommand, context_settings=_PASSED)
@_arguments
def check(arguments: tuple[str, ...]) -> None:
    """Read a whole store and report what is damaged."""
    _care("check", arguments)


@click.command(cls=RichCommand, context_settings=_PASSED)
@_arguments
def salvage(arguments: tuple[str, ...]) -> None:
    """Save what verifies of a damaged store into a new one."""
    _care("salvage", arguments)


@click.command(cls=RichCommand, context_settings=_PASSED)
@_arguments
def demo(arguments: tuple[str, ...]) -> None:
    """Replay a year of flights through a store whose processes are killed.

    `hstreamlite demo --help` tells its options.
    """
    raise Refusal(
        f"run it as `hstreamlite {' '.join(['demo', *arguments])}`, without options before it",
        Exit.USAGE,
    )
