"""Every command: what it is for, and the module that has it, loaded when it is run."""

from __future__ import annotations

from typing import Final

COMMANDS: Final = {
    "server": ("hstreamlite.cli.outside", "server"),
    "stream": ("hstreamlite.cli.stream", "stream"),
    "subscription": ("hstreamlite.cli.subscription", "subscription"),
    "node": ("hstreamlite.cli.node", "node"),
    "sql": ("hstreamlite.cli.sql", "sql"),
    "bench": ("hstreamlite.cli.bench", "bench"),
    "backup": ("hstreamlite.cli.backup", "backup"),
    "check": ("hstreamlite.cli.outside", "check"),
    "salvage": ("hstreamlite.cli.outside", "salvage"),
    "doctor": ("hstreamlite.cli.doctor", "doctor"),
    "demo": ("hstreamlite.cli.outside", "demo"),
    "completion": ("hstreamlite.cli.completion", "completion"),
}
"""By name, in the order in which help lists them: module and object."""
ALIASES: Final = {"sub": "subscription"}
"""Short names, which help does not list."""
CORE: Final = ("server", "check", "salvage", "demo")
"""Those that are there without the libraries of the command line."""
