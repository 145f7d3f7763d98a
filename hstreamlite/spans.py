"""Ranges of records: how those who deliver and those who ack name what they speak of."""

from collections.abc import Iterable, Mapping
from itertools import takewhile

from hstreamlite.records import Delivery, DeliveryBatch, RecordId
from hstreamlite.sub.keytab import runs_of

Span = tuple[int, int, int]
"""Shard, first LSN, end LSN."""

Runs = tuple[int, bytes]
"""Shard, and runs of a key table."""

Deliveries = Delivery | RecordId | Iterable[Delivery | RecordId]
"""What names deliveries: one, its id, several, or what `receive` returned."""


def spans_in(runs: Iterable[Runs]) -> list[Span]:
    """Return runs as ranges."""
    return [(shard, r.first, r.first + r.size) for shard, part in runs for r in runs_of(part)]


def leading(runs: bytes, first: int, end: int) -> int:
    """Return how many records at the start of runs lie in ``[first, end)``."""
    inside = takewhile(lambda run: first <= run.first < end, runs_of(runs))
    return sum(min(run.size, end - run.first) for run in inside)


def spans_of(item: object) -> list[Span]:
    """Return the ranges of what a user passes to ack, release or extend.

    That is a Delivery, a RecordId, a DeliveryBatch, or an iterable of the first two.
    """
    if isinstance(item, DeliveryBatch) and item._runs:
        return item.spans
    if isinstance(item, Delivery):
        item = item.id
    if isinstance(item, RecordId):
        return [(item.shard_id, item.lsn, item.lsn + 1)]
    if isinstance(item, str | bytes | Mapping) or not isinstance(item, Iterable):
        raise TypeError(
            "deliveries must be a Delivery, a RecordId, what receive returned, or an iterable of "
            f"these, not {type(item).__name__}"
        )
    return _merge(item)


def _merge(items: Iterable[object]) -> list[Span]:
    spans: list[Span] = []
    for item in items:
        record_id = item.id if isinstance(item, Delivery) else item
        if not isinstance(record_id, RecordId):
            raise TypeError(f"deliveries must hold RecordIds, not {type(item).__name__}")
        shard, lsn = record_id.shard_id, record_id.lsn
        if spans and spans[-1][0] == shard and spans[-1][2] == lsn:
            spans[-1] = (shard, spans[-1][1], lsn + 1)
        else:
            spans.append((shard, lsn, lsn + 1))
    return spans
