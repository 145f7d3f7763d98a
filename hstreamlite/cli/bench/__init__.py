"""`hstreamlite bench`: how fast a store writes and reads here, as HStreamDB's tools tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich_click import RichGroup

from hstreamlite.cli.access import Access, reaches
from hstreamlite.cli.output import Output
from hstreamlite.cli.values import DURATION, SIZE

F = TypeVar("F", bound=Callable[..., Any])

_WHAT = (
    "Everything runs in this one process: threads that append a batch, wait until it is durable, "
    "and append the next, and threads that receive and ack. A server may be any that speaks "
    "HStreamDB's protocol. Streams are made for it, and deleted "
    "at its end unless --keep is given."
)


@click.group(cls=RichGroup)
def bench() -> None:
    """Measure how fast records are written and read here."""


def _positive(*names: str, default: int, text: str) -> Callable[[F], F]:
    return click.option(
        *names, type=click.IntRange(min=1), default=default, show_default=True, help=text
    )


def _duration(name: str, default: str, text: str) -> Callable[[F], F]:
    return click.option(
        name, type=DURATION, default=default, show_default=True, metavar="DURATION", help=text
    )


def _sized(default: str, text: str) -> Callable[[F], F]:
    return click.option(
        "--total-size", type=SIZE, default=default, show_default=True, metavar="SIZE", help=text
    )


def _all(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


_streams = _all(
    [
        _positive("--stream-count", default=1, text="Streams at once."),
        _positive("--shard-count", default=1, text="Shards of each stream."),
        click.option(
            "--stream-name-prefix", default="bench", show_default=True,
            help="The streams are PREFIX-RUN-0 and so on.",
        ),
        _positive("--stream-replication-factor", default=1, text="As `stream create`."),
        _duration("--stream-backlog-duration", "30m", "How long records are kept."),
        click.option("--keep", is_flag=True, help="Leave streams and subscriptions there."),
    ]
)  # fmt: skip
_records = _all(
    [
        click.option(
            "--record-size", type=SIZE, default="1024", show_default=True, metavar="SIZE",
            help="Bytes of a payload, of chance.",
        ),
        _positive("--key-count", default=10_000, text="Different keys."),
        click.option(
            "--payload-type", type=click.Choice(["raw", "json"]), default="raw", show_default=True
        ),
        _positive("--batch-records", default=100, text="Records of one append."),
        click.option(
            "--un-buffered", is_flag=True, help="Append records one by one: batches of 1."
        ),
        click.option(
            "--compression", type=click.Choice(["none", "gzip", "zstd"]), default="none",
            show_default=True, help="Of batches.",
        ),
        click.option(
            "--durability", type=click.Choice(["sync", "os", "memory"]), default="sync",
            show_default=True, help="What an append waits for; a server decides that itself.",
        ),
        click.option(
            "--thread-count", type=click.IntRange(min=1),
            help="Threads that write.  [default: one a stream]",
        ),
    ]
)  # fmt: skip
_limited = click.option(
    "--rate-limit", type=click.IntRange(min=0), default=100_000, show_default=True,
    help="Records written a second, in all threads together; 0 = as many as go.",
)  # fmt: skip
_timed = _all(
    [
        _duration("--report-interval", "3s", "How often to report."),
        _duration("--bench-time", "30s", "How long to measure; 0 = until Ctrl-C."),
        _duration("--warmup", "1s", "How long to run before that, not counted."),
    ]
)
_consumers = _all(
    [
        _positive("--consumer-count", default=1, text="Consumers of each stream."),
        _duration("--ack-timeout", "60s", "Of the subscriptions."),
    ]
)


@bench.command(epilog=_WHAT)
@_streams
@_records
@_limited
@_sized("0", "End when so many payload bytes are written, in all streams; 0 = no limit.")
@_timed
@reaches
def write(access: Access, output: Output, /, **options: Any) -> None:
    """Measure appends: records and bytes a second, and how long an append takes."""
    from hstreamlite.cli.bench.runs import Run

    Run(access, output, **options).write()


@bench.command(epilog=_WHAT)
@_streams
@_records
@_consumers
@_sized("256M", "Payload bytes that are written first, in all streams together.")
@_timed
@reaches
def read(access: Access, output: Output, /, **options: Any) -> None:
    """Measure consumers on a backlog, which is written first; ends when all is read."""
    from hstreamlite.cli.bench.runs import Run

    Run(access, output, **options).read()


@bench.command("write-read", epilog=_WHAT)
@_streams
@_records
@_consumers
@_limited
@_sized("0", "End when so many payload bytes are written, in all streams; 0 = no limit.")
@_timed
@reaches
def write_read(access: Access, output: Output, /, **options: Any) -> None:
    """Measure both at once, and how long a record takes from its append to its consumer.

    At the end consumers get time to read what is left: what they did not get is told as missing.
    """
    from hstreamlite.cli.bench.runs import Run

    Run(access, output, **options).write_read()
