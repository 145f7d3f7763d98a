"""`hstreamlite backup`: copy a store while it goes on working."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import click
from rich_click import RichCommand

from hstreamlite.cli.access import Access, reaches
from hstreamlite.cli.exits import Refusal
from hstreamlite.cli.output import Output
from hstreamlite.cli.progress import Progress

if TYPE_CHECKING:
    from hstreamlite.remote.blocking import Store


@click.command(cls=RichCommand)
@click.argument("to", metavar="TO")
@reaches
def backup(access: Access, output: Output, /, to: str) -> None:
    """Copy a store to a new directory, verified, while others go on using it.

    Of a directory (--store), which nobody else may have open to write, TO is the path of the copy.
    Of a server (--service-url), TO is a name: the copy is made on the machine of the server, in its
    backup_dir. To restore one, start a server on it, or open it. What ends a backup before it is
    whole, as Ctrl-C does, leaves nothing.
    """
    bar = Progress(sys.stderr)

    def show(done: int, total: int) -> None:
        bar.show("backing up", done, total)

    try:
        with access.writing() as store:
            if access.service_url:
                path = cast("Store", store).backup(to, progress=show)
            else:
                from hstreamlite.store import real_path

                path = real_path(to)
                store.backup(path, progress=show)
    except FileExistsError as error:
        raise Refusal(f"{error.filename}: {error.strerror}; choose another name") from None
    finally:
        bar.clear()
    output.done(f"Backed up to {path}", {"path": path})
