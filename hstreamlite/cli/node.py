"""`hstreamlite node`: who has the store, and how it is. A directory is one node."""

from __future__ import annotations

from typing import Any

import click
from rich_click import RichGroup

from hstreamlite.cli.access import Access, reaches, server_of
from hstreamlite.cli.exits import Refusal
from hstreamlite.cli.output import Output


@click.group(cls=RichGroup)
def node() -> None:
    """Tell which processes have the store, and how it is."""


@node.command("list")
@reaches
def list_nodes(access: Access, output: Output, /) -> None:
    """List the nodes and their states."""
    rows = _nodes(access)
    output.rows(rows, ("id", "state", "address", "version", "pid", "store"), "no nodes")


@node.command()
@click.option("--id", "number", type=int, metavar="NODE", help="Which.  [default: the only one]")
@reaches
def status(access: Access, output: Output, /, number: int | None) -> None:
    """Tell the state of a node, and what its store holds."""
    from hstreamlite._native.files import real_env

    found = [row for row in _nodes(access) if number in {None, row["id"]}]
    if len(found) != 1:
        known = "no such node" if not found else f"{len(found)} nodes"
        raise Refusal(f"{known}; take an id from `hstreamlite node list`, and give it with --id")
    with access.reading() as store:
        stats = store.stats()
    facts = found[0] | {
        "streams": stats.streams,
        "subscriptions": len(stats.subscriptions),
        "records": stats.records,
        "bytes": stats.bytes,
        "disk_bytes": stats.disk_bytes,
        "free_bytes": None,
    }
    if not access.service_url:
        facts["free_bytes"] = real_env().files.free_bytes(access.directory())
    output.facts(facts)


@node.command("check-running")
@click.option(
    "-n", "--number", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many nodes there have to be.",
)  # fmt: skip
@reaches
def check_running(access: Access, output: Output, /, number: int) -> None:
    """Exit with 0 if so many nodes run, with 1 if not, with 3 if nobody answers."""
    running = [node for node in _nodes(access) if node["state"] == "running"]
    said = f"{len(running)} of {number} nodes run"
    if len(running) < number:
        raise Refusal(said)
    output.done(said, {"running": len(running), "wanted": number})


def _nodes(access: Access) -> list[dict[str, Any]]:
    """Return what is known of each node. A directory is one: running while somebody writes it."""
    if access.service_url:
        with access.wire() as wire:
            return wire.nodes()
    import hstreamlite
    from hstreamlite._native.files import real_env

    with access.reading() as store:  # so that it is one
        path = store.path
    pid = real_env().files.lock_holder(f"{path}/LOCK")
    return [
        {
            "id": 1,
            "state": "stopped" if pid is None else "running",
            "address": server_of(path),
            "version": hstreamlite.__version__,
            "pid": pid or None,
            "store": path,
        }
    ]
