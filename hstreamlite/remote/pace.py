"""How many records a consumer asks for at a time: more than it needs, while it is quick.

What is asked for ahead lies at the client, and nobody else gets it meanwhile. So it is asked for
only where lists are acked and followed by the next call at once, several times on end, and it is no
more than was worked off lately in half of the time that it may lie.
"""

from __future__ import annotations

from typing import Final

PATIENCE_SECONDS: Final = 0.1
"""For how long records may lie untouched; never longer than a tenth of the ack timeout."""
AHEAD_MAX: Final = 1000
AHEAD_BYTES_MAX: Final = 1 << 20
_PROOFS: Final = 3


class Pace:
    """Decides how many to ask for, told what came and when. Never waits, and has no clock."""

    def __init__(self, ack_timeout: float, most: int) -> None:
        """most: how many records may be asked for ahead; 0 for none."""
        self.patience = min(PATIENCE_SECONDS, ack_timeout / 10)
        self._most = min(most, AHEAD_MAX)
        self._wanted = 0
        self._came = 0
        self._at = 0.0
        self._each = 1.0
        self._proofs = 0

    def ask(self, now: float, wanted: int, *, settled: bool) -> int:
        """Return how many to ask for where so many are wanted, and none lies here.

        settled: whether all that was handed over since this was last asked is acked.
        """
        took = now - self._at
        quick = took <= self.patience / 2
        if not (settled and quick and wanted == self._wanted and self._came >= wanted):
            self._proofs = 0
        came, self._wanted, self._came = self._came, wanted, 0
        if self._proofs < _PROOFS:
            self._proofs += 1
            return wanted
        worked_off = came * 2 if took <= self.patience / 4 else came
        most = min(self._most, int(AHEAD_BYTES_MAX / self._each))
        return max(wanted, min(worked_off, most))

    def came(self, now: float, records: int, size: int) -> None:
        """Note what was answered."""
        self._at, self._came = now, records
        self._each = max(1.0, size / records) if records else self._each

    def left(self, now: float) -> float:
        """Return for how many seconds what came last may still lie here."""
        return self._at + self.patience - now

    def slack(self) -> None:
        """Note that something lay here for too long, or was not to be had any more."""
        self._proofs = self._came = 0
