"""`hstreamlite completion`, and the names it completes."""

from __future__ import annotations

import click
from rich_click import RichCommand

from hstreamlite.cli import COMPLETE_VARIABLE
from hstreamlite.cli.access import access_of
from hstreamlite.cli.output import Output

_HOW = {
    "bash": 'eval "$(hstreamlite completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(hstreamlite completion zsh)"  # in ~/.zshrc, behind compinit',
    "fish": "hstreamlite completion fish > ~/.config/fish/completions/hstreamlite.fish",
}


_HELP = "Print what makes a shell complete commands, options, and names of streams.\n\n\b\n"


@click.command(
    cls=RichCommand,
    help=_HELP + "\n".join(f"{shell}: {how}" for shell, how in _HOW.items()),
    short_help="Print what makes a shell complete commands and names.",
)
@click.argument("shell", type=click.Choice(list(_HOW)))
def completion(shell: str) -> None:
    from click.shell_completion import get_completion_class

    from hstreamlite.cli.program import NAME, hstreamlite

    found = get_completion_class(shell)
    assert found is not None
    Output(as_json=False).text(found(hstreamlite, {}, NAME, COMPLETE_VARIABLE).source())


def complete_streams(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the streams of the store whose names begin so; none where it cannot be read."""
    try:
        with access_of(ctx).reading() as store:
            return [s.name for s in store.streams() if s.name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - who presses a key wants no message
        return []


def complete_subscriptions(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[str]:
    """Return the subscriptions of the store whose names begin so."""
    try:
        with access_of(ctx).reading() as store:
            return [s.name for s in store.subscriptions() if s.name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - who presses a key wants no message
        return []
