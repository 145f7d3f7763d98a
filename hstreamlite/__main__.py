"""Run a command of the package: ``hstreamlite COMMAND`` or ``python -m hstreamlite COMMAND``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit code of the process."""
    if arguments is None:
        arguments = sys.argv[1:]
    logging.getLogger("hstreamlite").addHandler(
        logging.NullHandler()
    )  # commands tell it themselves
    if arguments[:1] == ["demo"]:
        from hstreamlite import demo

        return demo.main(arguments[1:])
    if arguments[:1] == ["server"]:
        from hstreamlite.net import main as server

        return server.main(arguments[1:])
    from hstreamlite import cli

    try:
        return cli.main(arguments)
    except KeyboardInterrupt:  # while a command is still being loaded
        return 130


if __name__ == "__main__":
    sys.exit(main())
