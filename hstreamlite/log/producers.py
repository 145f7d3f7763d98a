"""Idempotent producers: what each has stored, so that nothing is stored twice.

A named producer numbers its records from 1. Each of its batches is staged in one frame with a
record of this table's own log: first number, count, and where the records went. So the table is
exactly as durable as the records, and a restarted producer is told the last number in the log.
Ids are remembered for the newest batches; older numbers are known to be stored, not where.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field

from hstreamlite.config import PRODUCER_WINDOW
from hstreamlite.records import RecordIds


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Numbers [first, first + len(ids)) of a producer, and the ticket they are durable with."""

    first: int
    ids: RecordIds
    ticket: int = 0


@dataclass(slots=True)
class ProducerState:
    """What one named producer of one stream has stored."""

    last: int = 0
    batches: deque[StoredBatch] = field(default_factory=lambda: deque(maxlen=PRODUCER_WINDOW))

    def find(self, sequence: int) -> tuple[StoredBatch, int] | None:
        """Return the remembered batch of a number and the index in it."""
        for batch in reversed(self.batches):
            if batch.first <= sequence < batch.first + len(batch.ids):
                return batch, sequence - batch.first
        return None


class ProducerTable:
    """All named producers of a store. The caller holds the store's lock."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, str], ProducerState] = {}

    def get(self, stream_id: int, name: str) -> ProducerState:
        """Return the state, new if the producer was never seen."""
        return self._states.setdefault((stream_id, name), ProducerState())

    def forget(self, stream_id: int) -> None:
        """Forget the producers of a stream that is gone."""
        for key in [key for key in self._states if key[0] == stream_id]:
            del self._states[key]

    def apply(self, payload: bytes) -> None:
        """Advance by one record of the producers' log."""
        row = json.loads(payload)
        state = self.get(row["stream"], row["name"])
        state.last = max(state.last, row["last"])
        if row["runs"]:
            ids = RecordIds([tuple(run) for run in row["runs"]], row.get("order"))
            state.batches.append(StoredBatch(row["first"], ids))

    def snapshot(self) -> list[bytes]:
        """Return records that rebuild the table."""
        out = []
        for (stream_id, name), state in self._states.items():
            for batch in state.batches:
                out.append(encode(stream_id, name, batch.first, batch.ids))
            if not state.batches and state.last:
                out.append(_row(stream_id, name, state.last, 0, [], None))
        return out


def encode(stream_id: int, name: str, first: int, ids: RecordIds) -> bytes:
    """Return the record of one batch."""
    runs, order = ids.parts()
    return _row(stream_id, name, first + len(ids) - 1, first, runs, order)


def _row(
    stream_id: int,
    name: str,
    last: int,
    first: int,
    runs: list[tuple[int, int, int]],
    order: list[int] | None,
) -> bytes:
    row = {"stream": stream_id, "name": name, "last": last, "first": first, "runs": runs}
    if order is not None:
        row["order"] = order
    return json.dumps(row, separators=(",", ":")).encode()
