"""Makes the part of docs/cli.md that lists commands, from the tree that runs them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import click

from hstreamlite.cli import care
from hstreamlite.cli.exits import MEANINGS
from hstreamlite.cli.index import COMMANDS
from hstreamlite.cli.program import NAME, hstreamlite

SHARED = {
    "store", "service_url", "retry_timeout", "token", "tls_ca", "tls_cert", "tls_key", "as_json",
    "help", "version",
}  # fmt: skip
"""Told once, for all commands."""
OUTSIDE = ("check", "salvage")


def leaves() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command that does something, with its words."""
    root = click.Context(hstreamlite, info_name=NAME)

    def walk(
        command: click.Command, context: click.Context
    ) -> Iterator[tuple[str, click.Command, click.Context]]:
        if not isinstance(command, click.Group):
            yield context.command_path, command, context
            return
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, click.Context(found, info_name=name, parent=context))

    return walk(hstreamlite, root)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def row(words: str, text: str) -> str:
    return f"| `{cell(words)}` | {cell(text)} |"


def option(parameter: click.Option) -> str:
    words = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if not parameter.is_flag:
        words += f" {value_of(parameter)}"
    text = parameter.help or ""
    if parameter.show_default and parameter.default not in (None, False):
        text += f" [default: {parameter.default}]"
    if parameter.required:
        text += " [required]"
    return row(words, text)


def value_of(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Choice):
        return "/".join(parameter.type.choices)
    return parameter.metavar or parameter.type.name.upper().replace(" RANGE", "")


def help_of(command: click.Command) -> str:
    text = (command.help or "").replace("\b\n", "")
    if command.epilog:
        text += f"\n\n{command.epilog}"
    return "\n\n".join(cell(paragraph) for paragraph in text.split("\n\n"))


def table(rows: list[str]) -> str:
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def outside(name: str) -> str:
    """Return the section of a command that argparse has."""
    (found,) = [
        action
        for action in care._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    parser: Any = found.choices[name]
    words = [a.metavar for a in parser._actions if not a.option_strings]
    rows = [
        row(", ".join(a.option_strings) or a.metavar, a.help)
        for a in parser._actions
        if "--help" not in a.option_strings
    ]
    head = f"### {NAME} {name} {' '.join(words)}"
    return f"{head}\n\n{cell(parser.description)}\n\n{table(rows)}"


def section(path: str, command: click.Command, context: click.Context) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    shown = [p.make_metavar(context) for p in arguments if p.name != "arguments"]
    parts = [f"### {' '.join([path, *shown])}", help_of(command)]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in SHARED]
    if options:
        parts.append(table([option(p) for p in options]))
    return "\n\n".join(parts)


def commands() -> str:
    """Return a section for each command."""
    assert list(hstreamlite.list_commands(click.Context(hstreamlite))) == list(COMMANDS)
    return "\n\n".join(
        outside(command.name) if command.name in OUTSIDE else section(path, command, context)
        for path, command, context in leaves()
    )


def exits() -> str:
    rows = [f"| {code:d} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["| code | means |", "|---|---|", *rows])
