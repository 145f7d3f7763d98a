"""leanqueue: a leased queue in one directory, whose acked records are gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanqueue import LeanQueueCore

from benchmarks.leased import ACK_TIMEOUT

_SYNC_MS = 1000


class LeanQueue:
    """Its own consumer, for any number of threads. A delivery is a tuple that begins with its id.

    Its core is called as its Python layer calls it, which only wraps what it returns.
    """

    def __init__(self, path: Path):
        self._core = LeanQueueCore(
            str(path),
            sync_interval_ms=_SYNC_MS,
            default_lease_ms=int(ACK_TIMEOUT * 1000),
            auto_compact_bytes=0,
        )
        self.take_one = self._core.dequeue
        self.take_singles = self.take_list = self._core.dequeue_batch

    def fill(self, payloads: list[bytes]) -> None:
        self._core.enqueue_batch(payloads)

    def workers(self, count: int) -> list[LeanQueue]:
        return [self] * count

    def ack_one(self, delivery: Any) -> object:
        return self._core.ack(delivery[0])

    def ack_list(self, deliveries: Sequence[Any]) -> object:
        return self._core.ack_batch([delivery[0] for delivery in deliveries])

    def payloads(self, deliveries: Sequence[Any]) -> Sequence[bytes]:
        return [delivery[1] for delivery in deliveries]

    def left(self) -> int:
        return int(self._core.available() + self._core.in_flight())

    def close(self) -> None:
        self._core.flush()


opener = LeanQueue


def versions() -> dict[str, str]:
    return {}
