"""A reader for a server: what comes next, within a time, so many and so large at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from hstreamlite.aio.bell import Bell
from hstreamlite.aio.stream import _Scanner
from hstreamlite.config import check_int, check_seconds
from hstreamlite.engine import Engine
from hstreamlite.errors import RecordTrimmed
from hstreamlite.log.reader import Batch, Scan

ID_BYTES = 26
"""What one record id takes in an answer of HStreamDB's protocol, at most."""
ANSWER_BYTES = 3 << 20
"""Size of an answer that every client takes."""
_TIMEOUT_MAX = 1e9


class RawReader(_Scanner):
    """Reads whole batches, also those of which a part is trimmed. One task at a time."""

    _most = 64

    def __init__(
        self,
        engine: Engine,
        bell: Bell,
        stream: str,
        scan: Scan,
        most: int,
    ) -> None:
        super().__init__(engine, bell, stream, scan, scan.batches, follow=True)
        self._left = most

    @property
    def done(self) -> bool:
        """Nothing more will come, whatever is appended."""
        return self._closed or self._left == 0 or (not self._buffer and self._scan.done)

    async def _more(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - readers have it
        """Fill the buffer; False when done, or when nothing came in time."""
        engine, clock = self._engine, self._engine.env.clock
        end = None
        if timeout is not None:
            end = clock.mono_ns() + int(check_seconds("timeout", timeout, 0, _TIMEOUT_MAX) * 1e9)
        while not self._buffer:
            engine.check_open()
            if self.done:
                return False
            durable = engine.journal.durable()
            try:
                found = await self._found()
            except RecordTrimmed:
                engine.check_scanned(self._stream, self._scan)
                continue  # the scan stands behind that
            if found or self._scan.done:
                self._buffer = found
                continue
            engine.check_scanned(self._stream, self._scan)
            seconds = None if end is None else (end - clock.mono_ns()) / 1e9
            if seconds is not None and seconds <= 0:
                return False
            await self._bell.change(durable, seconds)
        return not self.done

    def _taken(self, most: int, max_bytes: int, sizes: Iterable[int]) -> list[Batch]:
        """Take from the buffer; one that is too large comes alone."""
        count = total = 0
        for size in sizes:
            total += size
            if count == min(most, self._left) or (count and total > max_bytes):
                break
            count += 1
        taken: list[Batch] = self._buffer[:count]
        del self._buffer[:count]
        self._left -= count
        return taken

    async def read(
        self,
        max_batches: int = 100,
        *,
        max_bytes: int = ANSWER_BYTES,
        timeout: float | None = 0,  # noqa: ASYNC109 - as of Consumer.receive
    ) -> list[Batch]:
        """Return the next batches as soon as there is one.

        Empty when done, and when nothing came within timeout seconds; None waits for ever.
        max_bytes bounds what they take in an answer with all their ids, but for the first.
        StreamNotFound if the stream is deleted meanwhile. A cancelled call loses nothing.
        """
        check_int("max_batches", max_batches, 1, 1 << 62)
        if not await self._more(timeout):
            return []
        sizes = (64 + len(b.payload) + ID_BYTES * b.size for b in self._buffer)
        batches = self._taken(max_batches, max_bytes, sizes)
        return [replace(batch, first=0, end=batch.size) for batch in batches]

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while batches := await self.read(1, timeout=None):
            yield batches[0]
