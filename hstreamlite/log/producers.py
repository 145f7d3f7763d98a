"""Idempotent producers: what each has stored, so that nothing is stored twice.

A named producer numbers its records from 1. Each of its batches is staged in one frame with a
record of this table's own log: first number, and where the records went. So the table is exactly as
durable as the records, and a restarted producer is told the last number in the log. Ids are
remembered for the newest batches; older numbers are known to be stored, not where.

A record is a u32 length, that many bytes of JSON, and the first LSN of each part as u64; those are
filled in by the log when it stages the batch, since nobody knows them before. A record without
parts forgets its producer. Where one producer may take the name of another, as through a server, it
also holds the session that numbered the batch.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

from hstreamlite._native import fast
from hstreamlite.config import PRODUCER_WINDOW
from hstreamlite.log.journal import PRODUCERS, Op, Run
from hstreamlite.records import RecordIds


@dataclass(frozen=True)
class StoredBatch:
    """Numbers from `first` on. Parts are contiguous runs of one shard each; `order` names the part
    of each record, or is None for one part after the other. Durable with the ticket. The session is
    empty for a producer of this process, which alone has the name."""

    first: int
    parts: tuple[Run, ...]
    order: tuple[int, ...] | None = None
    ticket: int = 0
    session: str = ""

    @cached_property
    def ids(self) -> RecordIds:
        return RecordIds(self.parts, self.order)

    @property
    def last(self) -> int:
        return self.first + sum(part.records for part in self.parts) - 1


@dataclass(slots=True)
class ProducerState:
    """What one named producer of one stream has stored."""

    last: int = 0
    batches: deque[StoredBatch] = field(default_factory=lambda: deque(maxlen=PRODUCER_WINDOW))

    def put(self, batch: StoredBatch) -> None:
        """Remember a batch; the same one again changes nothing."""
        if not self.batches or self.batches[-1].first != batch.first:
            self.batches.append(batch)
        self.last = max(self.last, batch.last)

    def session(self) -> str:
        """Return the session of the newest batch that is remembered."""
        return self.batches[-1].session if self.batches else ""

    def find(self, sequence: int) -> tuple[StoredBatch, int] | None:
        """Return the remembered batch of a number and the index in it.

        Takes no lock: it looks at a copy, since another thread may be storing the next batch.
        """
        for batch in reversed(tuple(self.batches)):
            if batch.first <= sequence <= batch.last:
                return batch, sequence - batch.first
        return None


class ProducerTable:
    """All named producers of a store. The caller holds the store's lock."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, str], ProducerState] = {}

    def get(self, stream_id: int, name: str) -> ProducerState:
        """Return the state, new if the producer was never seen."""
        return self._states.setdefault((stream_id, name), ProducerState())

    def last_sequences(self) -> dict[tuple[int, str], int]:
        """Return the last number stored by (stream id, producer)."""
        return {pair: state.last for pair, state in self._states.items()}

    def forget(self, stream_id: int) -> None:
        """Forget the producers of a stream that is gone."""
        for key in [key for key in self._states if key[0] == stream_id]:
            del self._states[key]

    def __contains__(self, key: object) -> bool:
        return key in self._states

    def names(self) -> list[tuple[int, str]]:
        """Return stream id and name of each producer."""
        return list(self._states)

    def drop(self, stream_id: int, name: str) -> None:
        """Forget a producer whose name nobody will use again."""
        self._states.pop((stream_id, name), None)

    def apply(self, payload: bytes) -> None:
        """Advance by one record of the producers' log."""
        (length,) = struct.unpack_from("<I", payload)
        row = json.loads(payload[4 : 4 + length])
        lsns = struct.unpack_from(f"<{len(row['parts'])}Q", payload, 4 + length)
        parts = tuple(
            Run(shard, lsn, count) for (shard, count), lsn in zip(row["parts"], lsns, strict=True)
        )
        order = tuple(row["order"]) if row["order"] is not None else None
        if not parts:
            self.drop(row["stream"], row["name"])
            return
        batch = StoredBatch(row["first"], parts, order, session=row.get("session", ""))
        self.get(row["stream"], row["name"]).put(batch)

    def snapshot(self) -> list[bytes]:
        """Return records that rebuild the table."""
        return [
            _record(stream_id, name, batch)
            for (stream_id, name), state in self._states.items()
            for batch in state.batches
        ]


def stage_op(stream_id: int, name: str, batch: StoredBatch) -> Op:
    """Return the op that stores a batch; it comes behind the ops of the parts, in their order. The
    LSNs of the parts do not matter."""
    body = fast.encode_batch([_record(stream_id, name, batch)], None)
    return (PRODUCERS, 0, body, 1, len(body), len(batch.parts))


def drop_op(stream_id: int, name: str) -> Op:
    """Return the op that forgets a producer: a record without parts."""
    body = fast.encode_batch([_record(stream_id, name, StoredBatch(0, ()))], None)
    return (PRODUCERS, 0, body, 1, len(body))


def _record(stream_id: int, name: str, batch: StoredBatch) -> bytes:
    row = {
        "stream": stream_id,
        "name": name,
        "first": batch.first,
        "parts": [[part.shard, part.records] for part in batch.parts],
        "order": batch.order,
    }
    if batch.session:
        row["session"] = batch.session
    text = json.dumps(row, separators=(",", ":")).encode()
    lsns = struct.pack(f"<{len(batch.parts)}Q", *(part.first for part in batch.parts))
    return struct.pack("<I", len(text)) + text + lsns
