"""`hstreamlite stream`: create, describe, fill, read and follow streams."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich_click import RichGroup

from hstreamlite.cli.access import Access, reaches
from hstreamlite.cli.completion import complete_streams, complete_subscriptions
from hstreamlite.cli.exits import Exit, told
from hstreamlite.cli.output import Output, plain
from hstreamlite.cli.records import formatted, liner, separated
from hstreamlite.cli.shards import create_stream, ranges_of
from hstreamlite.cli.values import DURATION, PLACE, PLACES, SIZE, InputFile
from hstreamlite.errors import MalformedBatch, RecordTrimmed, StreamNotFound

if TYPE_CHECKING:
    from hstreamlite.place import Place
    from hstreamlite.records import Record
    from hstreamlite.stream import Reader


_Missed: TypeAlias = RecordTrimmed | MalformedBatch


@click.group(cls=RichGroup)
def stream() -> None:
    """Create, describe, fill, read and follow streams."""


named = click.argument("name", metavar="STREAM", shell_complete=complete_streams)
only_key = click.option("--key", help="Only records of this key.")
only_shard = click.option("--shard", type=int, metavar="ID", help="Only records of this shard.")


@stream.command("list")
@reaches
def list_streams(access: Access, output: Output, /) -> None:
    """List the streams, by name."""
    with access.reading() as store:
        rows = [plain(info) for info in store.streams()]
    columns = ("name", "records", "bytes", "backlog", "shards", "created")
    output.rows(rows, columns, "no streams yet; `hstreamlite stream create NAME` makes one")


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option(
    "-b", "--backlog-duration", "backlog", type=DURATION, default=0, metavar="DURATION",
    help="How long records are kept; 0 = for ever.  [default: 0]",
)  # fmt: skip
@click.option(
    "--max-bytes", type=SIZE, default=0, metavar="SIZE",
    help="How much is kept; 0 = everything.  [default: 0]",
)  # fmt: skip
@click.option(
    "--protect", multiple=True, metavar="SUBSCRIPTION", shell_complete=complete_subscriptions,
    help="Drop nothing that this subscription has not read; may be given again.",
)  # fmt: skip
@click.option(
    "-s", "--shards", type=int, default=1, show_default=True,
    help="Slices of the key space. One is right here; clients of HStreamDB spread over more.",
)  # fmt: skip
@click.option(
    "-r", "--replication-factor", "replication", type=int, default=1, show_default=True,
    help="Kept for clients of HStreamDB; the disk decides.",
)  # fmt: skip
@click.option("--exists-ok", is_flag=True, help="Leave a stream that exists as it is.")
@reaches
def create(
    access: Access, output: Output, /, name: str, *, exists_ok: bool, **options: Any
) -> None:
    """Create a stream, and the store if the directory is absent or empty."""
    with access.writing(create=True) as store:
        create_stream(store, name, exists_ok=exists_ok, **options)
        facts = plain(store.stream(name).info())
    output.done(f"stream {name!r} is there", facts)


@stream.command()
@named
@reaches
def describe(access: Access, output: Output, /, name: str) -> None:
    """Tell all about a stream."""
    with access.reading() as store:
        facts: dict[str, Any] = plain(store.stream(name).info())
        tail = store.stream(name).tail()
        facts["tail"] = None if tail is None else str(tail)
        facts["subscriptions"] = [s.name for s in store.subscriptions() if s.stream == name]
    output.facts(facts)


@stream.command()
@named
@click.option(
    "--force", is_flag=True,
    help="Also when subscriptions use it; they go on with what was appended before.",
)  # fmt: skip
@click.option("--ignore-missing", is_flag=True, help="It is no error if there is none.")
@reaches
def delete(
    access: Access, output: Output, /, name: str, *, force: bool, ignore_missing: bool
) -> None:
    """Delete a stream and its records."""
    deleted = True
    with access.writing() as store:
        try:
            store.delete_stream(name, force=force)
        except StreamNotFound:
            if not ignore_missing:
                raise
            deleted = False
    said = f"stream {name!r} is deleted" if deleted else f"there was no stream {name!r}"
    output.done(said, {"name": name, "deleted": deleted})


@stream.command("list-shard")
@named
@reaches
def list_shard(access: Access, output: Output, /, name: str) -> None:
    """List the shards of a stream: id, range of key hashes, records."""
    with access.reading() as store:
        rows = [
            {"id": s.id, "start": str(s.start), "end": str(s.end), "records": s.records}
            for s in ranges_of(store, name)
        ]
    output.rows(rows, ("id", "start", "end", "records"), "no shards")


@stream.command(epilog=PLACES)
@named
@click.option(
    "--before", type=PLACE, required=True, metavar="PLACE",
    help="The first record to keep; latest keeps none of those there are.",
)  # fmt: skip
@reaches
def trim(access: Access, output: Output, /, name: str, before: Place) -> None:
    """Remove the records before a place, for good."""
    with access.writing() as store:
        kept = store.stream(name)
        had = kept.info().records
        kept.trim(before=before)
        left = kept.info().records
    facts = {"name": name, "trimmed": had - left, "records": left}
    output.done(f"{had - left:,} records of {name!r} are gone, {left:,} are left", facts)


@stream.command(epilog=PLACES)
@named
@click.option(
    "--from", "start", type=PLACE, default="earliest", show_default=True, metavar="PLACE",
    help="The first record to read.",
)  # fmt: skip
@click.option("--until", type=PLACE, metavar="PLACE", help="Where to stop; not read itself.")
@click.option("-n", "--limit", type=click.IntRange(min=0), help="Stop after so many records.")
@only_key
@only_shard
@formatted
@separated
@reaches
def read(
    access: Access, output: Output, /, name: str, form: str | None, separator: str, **options: Any
) -> None:
    """Print the records that there are now, in the order in which they were appended.

    Exit code 1 if some could not be read: dropped meanwhile, or no records at all, as a client of
    HStreamDB may have written them.
    """
    line = liner(output, form, separator)
    gaps: list[_Missed] = []
    with access.reading() as store, store.stream(name).read(**options) as reader:
        for record in _through(reader, gaps.append):
            output.write(line(record))
        output.flush()
    for gap in gaps:
        _note(gap)
    if gaps:
        click.get_current_context().exit(Exit.REFUSED)


@stream.command(epilog=PLACES)
@named
@click.option(
    "--from", "start", type=PLACE, default="latest", show_default=True, metavar="PLACE",
    help="Where to begin.",
)  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@only_key
@only_shard
@formatted
@separated
@reaches
def follow(
    access: Access, output: Output, /, name: str, form: str | None, separator: str, **options: Any
) -> None:
    """Print records as they come, until Ctrl-C."""
    line = liner(output, form, separator)
    with access.reading() as store, store.stream(name).read(follow=True, **options) as reader:
        for record in _through(reader, _note):
            output.write(line(record))
            output.flush()


def _through(reader: Reader, on_gap: Callable[[_Missed], object]) -> Iterator[Record]:
    """Yield all records, also those behind some that cannot be had, which are told of."""
    while True:
        try:
            yield from reader
        except (RecordTrimmed, MalformedBatch) as gap:
            on_gap(gap)
        else:
            return


def _note(gap: _Missed) -> None:
    print(f"{click.get_current_context().command_path}: {told(gap)}", file=sys.stderr)


@stream.command()
@named
@click.argument("file", type=InputFile(), default="-")
@click.option(
    "--format", "form", default="raw", show_default=True,
    type=click.Choice(["raw", "json", "records"]),
    help="What a line is. raw: bytes. json: an object, stored as a JSON record. records: what "
    "`stream read --format json` prints, with key and attributes.",
)  # fmt: skip
@click.option("-k", "--key", help="The key of all records.")
@click.option("--key-field", metavar="NAME", help="Take the key from this field of JSON lines.")
@click.option(
    "--separator",
    metavar="TEXT",
    help="Split raw lines into key and payload at the first of these.",
)
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, metavar="COUNT",
    help="Leave out so many records at the beginning.",
)  # fmt: skip
@click.option(
    "--producer", metavar="NAME",
    help="Number the records under this name, so that the same input, given again after a crash or "
    "a failure, goes on where it ended and stores nothing twice.",
)  # fmt: skip
@click.option(
    "--batch-records", type=click.IntRange(min=1), default=1000, show_default=True,
    help="Records that go out together, at most.",
)  # fmt: skip
@click.option(
    "--batch-age", type=DURATION, default=0.01, metavar="DURATION",
    help="How long a record waits for others.  [default: 10ms]",
)  # fmt: skip
@click.option(
    "--compression", type=click.Choice(["none", "gzip", "zstd"]), default="none", show_default=True
)
@click.option(
    "--durability", type=click.Choice(["sync", "os", "memory"]), default="sync", show_default=True
)
@reaches
def append(
    access: Access,
    output: Output,
    /,
    name: str,
    file: BufferedIOBase,
    form: str,
    key: str | None,
    key_field: str | None,
    separator: str | None,
    skip: int,
    producer: str | None,
    **options: Any,
) -> None:
    """Append the lines of a file, or of standard input, each as a record.

    All are on disk when this ends with 0. A line that cannot be a record ends it; those before it
    are appended then.
    """
    from hstreamlite.cli.lines import Layout
    from hstreamlite.cli.pour import Pour

    if key is not None and (separator is not None or key_field is not None):
        raise click.UsageError("--key excludes --key-field and --separator: one key a record.")
    if key_field is not None and form != "json":
        raise click.UsageError("--key-field needs --format json.")
    if separator is not None and (form != "raw" or not separator):
        raise click.UsageError("--separator needs --format raw, and some text.")
    layout = Layout(
        form=form,
        key=key,
        key_field=key_field,
        separator=separator.encode() if separator else None,
    )
    with access.writing() as store:
        target = store.stream(name).producer(name=producer, **options)
        pour = Pour(target, skip)
        pour.run(file, layout)
        output.done(pour.said(name), {"stream": name, **pour.facts()})
