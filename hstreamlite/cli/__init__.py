"""The command line: what a person does to stores without writing a program.

`check`, `salvage` and `demo` run on the core alone. All other commands are click's, which the extra
`cli` brings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INSTALL = "pip install 'hstreamlite[cli]'"
COMPLETE_VARIABLE = "_HSTREAMLITE_COMPLETE"
_LIBRARIES = frozenset(["click", "rich", "rich_click"])


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code of the process."""
    if COMPLETE_VARIABLE not in os.environ and arguments[:1] in (["check"], ["salvage"]):
        from hstreamlite.cli import care

        return care.main(arguments)
    try:
        from hstreamlite.cli import program
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        return _without_libraries(arguments)
    return program.main(arguments)


def _without_libraries(arguments: Sequence[str]) -> int:
    """Answer for the commands that cannot be loaded."""
    from hstreamlite.cli import care
    from hstreamlite.cli.exits import Exit
    from hstreamlite.cli.index import ALIASES, COMMANDS, CORE

    if arguments and ALIASES.get(arguments[0], arguments[0]) in COMMANDS:
        print(
            f"hstreamlite {arguments[0]}: needs the libraries of the command line; run {INSTALL}",
            file=sys.stderr,
        )
        return Exit.USAGE
    others = ", ".join(name for name in COMMANDS if name not in CORE)
    return care.main(arguments, more=f"with {INSTALL} also:\n  {others}\n")
