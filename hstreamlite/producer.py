"""The blocking face of a producer: submit, flush, results."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from hstreamlite.batcher import OpenBatch, ProducerCore, record_size
from hstreamlite.records import Payload, Record, RecordId
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import record_of


class Submitted:
    """A record on its way: `result` waits for its id."""

    __slots__ = ("_batch", "_index", "_producer")

    def __init__(self, producer: Producer, batch: OpenBatch, index: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index

    def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error.

        Sends the batch at once if it is still gathering.
        """
        batch = self._batch
        if not batch.settled:
            self._producer._send(batch)
        if batch.error is not None:
            raise batch.error
        assert batch.ids is not None
        self._producer._engine.journal.wait(batch.ticket)
        return batch.ids[self._index]

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        batch = self._batch
        return batch.error is not None or (
            batch.ids is not None and batch.ticket <= self._producer._engine.journal.durable()
        )

    def __repr__(self) -> str:
        return f"<Submitted {'done' if self.done() else 'pending'}>"


class Producer:
    """Gathers records into batches. Thread-safe.

    With a name it is idempotent: its records are numbered from 1, `last_sequence` tells after a
    restart how far they are stored, and submitting a number again stores nothing and answers with
    the id of the first time. One producer of a name at a time.
    """

    def __init__(self, ticker: Ticker, core: ProducerCore) -> None:
        self._ticker = ticker
        self._engine = core.engine
        self._core = core
        self._lock = core.engine.env.threads.rlock()
        ticker.add_producer(self)

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._core.last_sequence

    def submit(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        sequence: int | None = None,
    ) -> Submitted:
        """Take a record in; waits only while the buffer is full.

        sequence: its number, for producers with a name; by default the next one.
        """
        item: Any = payload
        if type(payload) is not bytes or key is not None or attributes is not None:
            item = record_of(payload, key, attributes)
        size = record_size(item, self._engine.config.batch_bytes_max)
        core = self._core
        self._engine.check_open()
        with self._lock:
            core.check()
            if sequence is not None:
                known = core.duplicate(sequence)
                if known is not None:
                    return Submitted(self, known[0], known[1])
            while not core.room(size):
                if core.options.on_full == "raise":
                    raise core.full(size)
                core.send()
                core.check()
                ticket = core.oldest_ticket()
                if ticket is not None:
                    self._engine.journal.wait(ticket)
            fresh = core.open is None
            batch, index = core.add(item, size)
            if core.due():
                core.send()
            elif fresh:
                self._ticker.wake()
        return Submitted(self, batch, index)

    def _send(self, batch: OpenBatch) -> None:
        if self._engine.forked:
            self._engine.check_open()
        with self._lock:
            if not batch.settled:
                self._core.send()

    def send_if_due(self, now: int) -> int | None:
        """Send a batch whose age is up; return the next such time. For the store's own thread."""
        with self._lock:
            deadline = 0 if self._core.sending is not None else self._core.deadline_ns()
            if deadline is not None and deadline <= now:
                self._core.send()
                deadline = None
            ticket = self._core.last_ticket()
        if ticket:
            self._engine.journal.kick(ticket)
        return deadline

    def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        if self._engine.forked:
            self._engine.check_open()
        with self._lock:
            self._core.send()
            ticket = self._core.last_ticket()
        self._engine.journal.wait(ticket)
        with self._lock:
            self._core.reap()
            if self._core.failure is not None:
                raise self._core.failure

    def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        if self._engine.forked:
            return
        core = self._core
        with self._lock:
            if core.closed and core.open is None and core.sending is None:
                return
            core.closed = True
        self._ticker.remove_producer(self)
        if not self._engine.closed:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Producer {self._core.label} buffered={self._core.buffered}>"
