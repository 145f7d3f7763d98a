"""Records on their way from a file into a stream, with their count shown."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from time import monotonic
from typing import TYPE_CHECKING

from hstreamlite.cli.exits import Refusal, told
from hstreamlite.cli.lines import BadLine, Layout, Parsed, records_of
from hstreamlite.errors import BatchTooLarge, RecordTooLarge

if TYPE_CHECKING:
    from hstreamlite.producer import Producer, Submitted


class Pour:
    """One run of a producer over a file."""

    def __init__(self, producer: Producer, skip: int) -> None:
        self._producer = producer
        self._skip = max(skip, producer.last_sequence)
        self._records = 0
        self._bytes = 0
        self._skipped = 0
        self._first: Submitted | None = None
        self._last: Submitted | None = None
        self._seconds = 0.0

    def run(self, file: BufferedIOBase, layout: Layout) -> None:
        """Append what the file holds; Refusal at the first line that cannot be."""
        started = monotonic()
        try:
            with self._producer, _bar(file) as show:
                self._submit(file, layout, show)
        except BadLine as error:
            done = self._skipped + self._records
            raise Refusal(
                f"{error}; {self._records:,} records before it were appended; mend it, and go on "
                f"there with --skip {done}"
            ) from None
        self._seconds = monotonic() - started

    def _submit(
        self, file: BufferedIOBase, layout: Layout, show: Callable[[int, int], object]
    ) -> None:
        read = 0
        for found in records_of(file, layout):
            read += sum(size for _, size, _ in found)
            left = max(0, self._skip - self._skipped)
            self._skipped += len(found[:left])
            self._send(found[left:])
            show(read, self._records)

    def _send(self, found: Sequence[Parsed]) -> None:
        """Hand records to the producer; BadLine for one that it refuses."""
        made: list[Submitted] = []
        try:
            for _, _, record in found:
                made.append(self._producer.submit(record))
        except (RecordTooLarge, BatchTooLarge) as error:
            raise BadLine(found[len(made)][0], f"is too long: {told(error)}") from None
        finally:
            if made:
                self._first, self._last = self._first or made[0], made[-1]
            self._records += len(made)
            self._bytes += sum(size for _, size, _ in found[: len(made)])

    def facts(self) -> dict[str, object]:
        return {
            "records": self._records,
            "bytes": self._bytes,
            "skipped": self._skipped,
            "seconds": round(self._seconds, 3),
            "first_id": str(self._first.result()) if self._first else None,
            "last_id": str(self._last.result()) if self._last else None,
        }

    def said(self, name: str) -> str:
        """Return the same for a person."""
        skipped = f" ({self._skipped:,} skipped)" if self._skipped else ""
        last = f", the last is {self._last.result()}" if self._last else ""
        return (
            f"appended {self._records:,} records, {self._bytes:,} bytes, to {name!r}{skipped} in "
            f"{self._seconds:.1f} s{last}"
        )


@contextmanager
def _bar(file: BufferedIOBase) -> Iterator[Callable[[int, int], object]]:
    """Show on a terminal how far reading has come: in bytes, of a file whose size is known."""
    if sys.stderr is None or not sys.stderr.isatty() or file.isatty():
        if file.isatty() and sys.stderr is not None:
            print("a record a line; Ctrl-D ends", file=sys.stderr)
        yield lambda _read, _records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.fields[records]:,} records"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=_size(file), records=0)
        yield lambda read, records: progress.update(task, completed=read, records=records)


def _size(file: BufferedIOBase) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except OSError:  # io.UnsupportedOperation is one: a file that is none of the system's
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
