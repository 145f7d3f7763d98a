"""`hstreamlite sql`: SQL over what a store counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click
from rich_click import RichCommand

from hstreamlite.cli.access import Access, reaches, server_of
from hstreamlite.cli.exits import Exit, Refusal
from hstreamlite.cli.output import Output

_NOTE = (
    "hstreamlite sql: no server has this store, so that counters and rates are 0: they are kept by "
    "the process that has it open"
)


@click.command(cls=RichCommand)
@click.argument("statement")
@click.option(
    "--stats", is_flag=True, required=True,
    help="Over the tables of statistics, the only ones there are.",
)  # fmt: skip
@reaches
def sql(
    access: Access,
    output: Output,
    /,
    statement: str,
    *,
    stats: bool,  # noqa: ARG001 - required, so that it can mean something else without
) -> None:
    """Run one SELECT over tables of statistics, as `SELECT * FROM lag`.

    Tables: streams, append_throughput, read_throughput, append_total_counter,
    append_failed_counter, stream_counters, subscriptions, subscription_throughput,
    subscription_counters, lag, stalls, consumers, server_append_latency,
    server_append_request_latency, server_read_latency.

    The server that has the store answers. Where no server has it, the directory is read: what lies
    in it is told, but counters and rates are 0.
    """
    address = access.service_url or server_of(access.directory())
    if address is not None:
        headers, rows = _asked(address, access, statement)
    else:
        headers, rows = _read(access, statement)
        print(_NOTE, file=sys.stderr)
    columns = list(_unlike(headers))
    output.rows([dict(zip(columns, row, strict=True)) for row in rows], columns, "no rows")


def _asked(
    address: str, access: Access, statement: str
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    from hstreamlite.remote import admin
    from hstreamlite.remote.address import parse

    answer = admin.run(parse(address), access.security(), "sql", statement)
    if answer["type"] != "rows":
        raise Refusal(str(answer["content"]), Exit.USAGE)
    return answer["content"]["headers"], answer["content"]["rows"]


def _read(access: Access, statement: str) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    from hstreamlite.errors import SqlError
    from hstreamlite.tables import tables_of

    with access.reading() as store:
        try:
            found = tables_of(store).select(statement)
        except SqlError as error:
            raise Refusal(str(error), Exit.USAGE) from None
    return found.columns, found.rows


def _unlike(names: Sequence[str]) -> Iterator[str]:
    """Return names of columns, with a number behind those that were there before."""
    seen: dict[str, int] = {}
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        yield name if count == 1 else f"{name}_{count}"
