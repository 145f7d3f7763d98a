"""Records on their way from a file into a stream, with their count shown."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import IO, TYPE_CHECKING

from hstreamlite.cli.exits import Refusal, told
from hstreamlite.cli.lines import BadLine, Layout, records_of
from hstreamlite.errors import BatchTooLarge, RecordTooLarge

if TYPE_CHECKING:
    from hstreamlite.producer import Producer, Submitted

_SHOW_EVERY = 1000


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

    def run(self, file: IO[bytes], layout: Layout) -> None:
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

    def _submit(self, file: IO[bytes], layout: Layout, show: Callable[[int, int], object]) -> None:
        read = 0
        for number, size, record in records_of(file, layout):
            read += size
            if self._skipped < self._skip:
                self._skipped += 1
                continue
            try:
                self._last = self._producer.submit(record)
            except (RecordTooLarge, BatchTooLarge) as error:
                raise BadLine(number, f"is too long: {told(error)}") from None
            self._first = self._first or self._last
            self._records += 1
            self._bytes += size
            if self._records % _SHOW_EVERY == 0:
                show(read, self._records)

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
def _bar(file: IO[bytes]) -> Iterator[Callable[[int, int], object]]:
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


def _size(file: IO[bytes]) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except OSError:  # io.UnsupportedOperation is one: a file that is none of the system's
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
