"""`hstreamlite subscription`: create, describe, consume and move subscriptions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich_click import RichGroup

from hstreamlite.cli.access import Access, reaches
from hstreamlite.cli.completion import complete_streams, complete_subscriptions
from hstreamlite.cli.exits import told
from hstreamlite.cli.output import Output, plain
from hstreamlite.cli.records import formatted, liner, separated
from hstreamlite.cli.values import BACKOFF, DURATION, PLACE, PLACES
from hstreamlite.errors import MalformedBatch, SubscriptionNotFound

if TYPE_CHECKING:
    from hstreamlite.consumer import Consumer
    from hstreamlite.place import Place
    from hstreamlite.records import DeliveryBatch
    from hstreamlite.store import Store

_RECEIVE = 100


@click.group(cls=RichGroup)
def subscription() -> None:
    """Create, describe, consume and move subscriptions."""


named = click.argument("name", metavar="SUBSCRIPTION", shell_complete=complete_subscriptions)


@subscription.command("list")
@reaches
def list_subscriptions(access: Access, output: Output, /) -> None:
    """List the subscriptions, by name."""
    with access.reading() as store:
        rows = [plain(info) for info in store.subscriptions()]
    columns = ("name", "stream", "mode", "backlog", "unacked", "paused", "consumers")
    output.rows(rows, columns, "no subscriptions yet; `hstreamlite subscription create` makes one")


@subscription.command(epilog=PLACES)
@click.argument("name", metavar="SUBSCRIPTION")
@click.option(
    "-s", "--stream", required=True, shell_complete=complete_streams,
    help="The stream whose records its consumers share.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["ordered", "shared"]), default="ordered", show_default=True,
    help="ordered: records of one key are at one consumer at a time, in order. shared: no order.",
)  # fmt: skip
@click.option(
    "--ack-timeout", type=DURATION, default=60, metavar="DURATION",
    help="A record that is not acked for so long is sent again.  [default: 60s]",
)  # fmt: skip
@click.option(
    "--max-unacked-records", "max_unacked", type=int, default=10_000, show_default=True,
    help="Records that are out at a time, at most.",
)  # fmt: skip
@click.option(
    "--offset", "start", type=PLACE, default="earliest", show_default=True, metavar="PLACE",
    help="Where to begin; fixed now.",
)  # fmt: skip
@click.option(
    "--max-attempts", type=int, default=0,
    help="Deliveries after which a record goes to the dead letters; 0 = no limit.  [default: 0]",
)  # fmt: skip
@click.option(
    "--dead-letter", metavar="STREAM", shell_complete=complete_streams,
    help="The stream of the dead letters.",
)  # fmt: skip
@click.option(
    "--backoff", type=BACKOFF, metavar="FIRST:MOST",
    help="How long a record waits that was given back or timed out, such as 1s:5m: FIRST after the "
    "first delivery, twice as long after each further one, MOST at most.",
)  # fmt: skip
@click.option("--exists-ok", is_flag=True, help="Leave a subscription that exists as it is.")
@reaches
def create(access: Access, output: Output, /, name: str, **options: Any) -> None:
    """Create a subscription of a stream."""
    if options["max_attempts"] and options["dead_letter"] is None:
        raise click.UsageError(
            "--max-attempts needs --dead-letter, the stream for what was delivered so often."
        )
    with access.writing() as store:
        store.create_subscription(name, **options)
        facts = plain(store.subscription(name).info())
    output.done(f"subscription {name!r} is there", facts)


@subscription.command()
@named
@reaches
def describe(access: Access, output: Output, /, name: str) -> None:
    """Tell all about a subscription, and how far it is behind."""
    with access.reading() as store:
        handle = store.subscription(name)
        facts = plain(handle.info())
        facts["lag"] = plain(handle.lag())
    output.facts(facts)


@subscription.command()
@named
@click.option("--force", is_flag=True, help="Also while consumers are attached.")
@click.option("--ignore-missing", is_flag=True, help="It is no error if there is none.")
@reaches
def delete(
    access: Access, output: Output, /, name: str, *, force: bool, ignore_missing: bool
) -> None:
    """Delete a subscription and its progress."""
    deleted = True
    with access.writing() as store:
        try:
            store.delete_subscription(name, force=force)
        except SubscriptionNotFound:
            if not ignore_missing:
                raise
            deleted = False
    said = f"subscription {name!r} is deleted" if deleted else f"there was no subscription {name!r}"
    output.done(said, {"name": name, "deleted": deleted})


@subscription.command(epilog=PLACES)
@named
@click.argument("to", type=PLACE, metavar="PLACE")
@reaches
def seek(access: Access, output: Output, /, name: str, to: Place) -> None:
    """Deliver from another place on, whatever was acked."""
    with access.writing() as store:
        store.subscription(name).seek(to)
        facts = _standing(store, name)
    output.done(f"{name!r} was moved; {facts['backlog']:,} records are before it", facts)


@subscription.command()
@named
@reaches
def pause(access: Access, output: Output, /, name: str) -> None:
    """Deliver nothing until `resume`, also after a restart."""
    with access.writing() as store:
        store.subscription(name).pause()
        facts = _standing(store, name)
    output.done(f"{name!r} is paused", facts)


@subscription.command()
@named
@reaches
def resume(access: Access, output: Output, /, name: str) -> None:
    """Deliver again."""
    with access.writing() as store:
        store.subscription(name).resume()
        facts = _standing(store, name)
    output.done(f"{name!r} goes on", facts)


@subscription.command()
@named
@click.option("-n", "--limit", type=click.IntRange(min=0), help="So many of them at most.")
@reaches
def redrive(access: Access, output: Output, /, name: str, limit: int | None) -> None:
    """Append the dead letters to the stream again, each once."""
    with access.writing() as store:
        count = store.subscription(name).redrive(limit)
    output.done(f"{count:,} dead letters went back", {"name": name, "records": count})


@subscription.command("skip-damaged")
@named
@reaches
def skip_damaged(access: Access, output: Output, /, name: str) -> None:
    """Give up the records that consumers came to and that cannot be read.

    They count as acked from now on. Of a store that no server has open, nobody has come to any:
    `seek` goes past them.
    """
    with access.writing() as store:
        count = store.subscription(name).skip_damaged()
    output.done(f"{count:,} records were given up", {"name": name, "records": count})


@subscription.command()
@named
@click.option(
    "-c", "--consumer", metavar="NAME", default=lambda: f"cli-{os.getpid()}",
    help="Name of the consumer.  [default: cli-PID]",
)  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(min=0), help="Stop after so many records.")
@click.option(
    "--timeout", type=DURATION, metavar="DURATION", help="Stop when nothing came for so long."
)
@click.option(
    "--no-ack", is_flag=True,
    help="Ack nothing: what was printed goes to other consumers when this ends.",
)  # fmt: skip
@formatted
@separated
@reaches
def consume(
    access: Access,
    output: Output,
    /,
    name: str,
    consumer: str,
    limit: int | None,
    timeout: float | None,
    form: str | None,
    separator: str,
    *,
    no_ack: bool,
) -> None:
    """Print records as they are delivered, and ack them, until Ctrl-C.

    A record is acked when it went out to where it is printed, so none is lost on the way there: one
    may come again if that fails.
    """
    line = liner(output, form, separator)
    with access.writing() as store, store.subscription(name).consumer(consumer) as attached:
        for batch in batches(attached, limit, timeout):
            for delivery in batch:
                output.write(line(delivery))
            output.flush()
            if not no_ack:
                attached.ack(batch)


def batches(
    consumer: Consumer, limit: int | None, timeout: float | None
) -> Iterator[DeliveryBatch]:
    """Yield what is delivered, and tell of what cannot be."""
    left = limit
    while left is None or left > 0:
        try:
            batch = consumer.receive(_RECEIVE if left is None else min(left, _RECEIVE), timeout)
        except MalformedBatch as error:
            _note(told(error))
            continue
        for gap in consumer.gaps():
            if gap.records:
                _note(f"{gap.records:,} records were dropped before they were acked")
        if not batch:
            return
        yield batch
        if left is not None:
            left -= len(batch)


def _note(said: str) -> None:
    print(f"{click.get_current_context().command_path}: {said}", file=sys.stderr)


def _standing(store: Store, name: str) -> dict[str, Any]:
    info = store.subscription(name).info()
    return {"name": name, "paused": info.paused, "backlog": info.backlog, "unacked": info.unacked}
