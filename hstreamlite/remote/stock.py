"""Deliveries that came ahead of being asked for, and are handed over in the order they came."""

from __future__ import annotations

from collections import deque

from hstreamlite._native import fast
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.spans import spans_of
from hstreamlite.sub.keytab import run_bytes

Source = fast.Excerpt | list[Delivery]


class Stock:
    """Deliveries at the client that nobody has seen."""

    def __init__(self) -> None:
        self._parts: deque[tuple[Source, int]] = deque()

    def __len__(self) -> int:
        return sum(len(source) - at for source, at in self._parts)

    def add(self, source: Source) -> None:
        """Take in what came."""
        if len(source):
            self._parts.append((source, 0))

    def take(self, count: int, owner: object) -> DeliveryBatch:
        """Hand over the next, up to so many, as the owner's."""
        if not self._parts:
            return batch_of([], owner)
        source, at = self._parts.popleft()
        end = min(len(source), at + count)
        if end < len(source):
            self._parts.appendleft((source, end))
        return part_of(source, at, end, owner)

    def clear(self) -> list[Delivery]:
        """Forget all that is left, and return it."""
        left = [d for source, at in self._parts for d in part_of(source, at, len(source), self)]
        self._parts.clear()
        return left


def part_of(source: Source, at: int, end: int, owner: object) -> DeliveryBatch:
    """Return some of what came as a batch of its own."""
    if isinstance(source, list):
        return batch_of(source[at:end], owner)
    batch: DeliveryBatch = source.batch(at, end, owner)
    batch.consumer = owner
    return batch


def batch_of(deliveries: list[Delivery], owner: object) -> DeliveryBatch:
    """Return deliveries as a batch, whose runs are known."""
    batch = DeliveryBatch(deliveries)
    batch._runs = tuple(
        (s, run_bytes(first, end - first, 1)) for s, first, end in spans_of(deliveries)
    )
    batch.consumer = owner
    return batch
