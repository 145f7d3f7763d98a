"""Run a command of the package: ``python -m hstreamlite COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """\
usage: python -m hstreamlite COMMAND [OPTION ...]

commands:
  demo    replay a year of flights through a store whose processes are killed, and check it all
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return the exit code of the process."""
    if arguments[:1] == ["demo"]:
        from hstreamlite import demo

        return demo.main(arguments[1:])
    sys.stderr.write(USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
