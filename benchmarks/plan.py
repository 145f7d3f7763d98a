"""How much work a run does, and the bytes it does it with."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The seed of all payloads, and the share of the full volume that is run.

    Payloads are random bytes: no contender gains by compressing them.
    """

    seed: int = 1
    volume: float = 1.0

    def count(self, full: int, least: int = 1) -> int:
        """Return the share of a full count, at least `least`."""
        return max(least, round(full * self.volume))

    def payloads(self, count: int, size: int) -> list[bytes]:
        """Return count payloads of size bytes, the same for equal arguments and seed."""
        source = random.Random(f"{self.seed}/{count}/{size}")
        return [source.randbytes(size) for _ in range(count)]

    def lists(self, lists: int, records: int, size: int) -> list[list[bytes]]:
        """Return lists of records payloads each."""
        payloads = self.payloads(lists * records, size)
        return [payloads[at : at + records] for at in range(0, len(payloads), records)]
