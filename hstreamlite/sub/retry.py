"""What becomes of a delivery that was not acked: sent again, at once or later, or never.

The rules of every mode, as functions of numbers. A delivery that comes back goes out again until
its record was delivered `max_attempts` times; then it is doomed: it waits for its move to the
dead-letter stream. How long it waits before it goes out again depends on the way it came back:

====================  =============================
came back             waits
====================  =============================
released with a time  that time
released, timed out   what the back-off says
its consumer left     not at all
its consumer is gone  not at all
the process ended     not at all
====================  =============================
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hstreamlite.config import check_int, check_seconds
from hstreamlite.sub.leases import Fate

BACKOFF_SECONDS_MAX: Final = 24 * 3600.0
FACTOR_MAX: Final = 100.0
ATTEMPTS_MAX: Final = 10_000


class Cause(StrEnum):
    """Why a delivery came back; the text is the reason that a dead letter carries."""

    TIMEOUT = "timeout"
    RELEASED = "released"
    LEFT = "consumer left"
    GONE = "consumer gone"
    RESTART = "restart"


_BACKS_OFF: Final = frozenset({Cause.TIMEOUT, Cause.RELEASED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a record waits that was not acked: `first` seconds, then `factor` times as long
    after each further delivery, and never longer than `most`.

    >>> [Backoff(first=1, most=10).after_ns(attempt) / 1e9 for attempt in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 8.0, 10.0]
    """

    first: float
    most: float
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_seconds("backoff.first", self.first, 0.001, BACKOFF_SECONDS_MAX)
        check_seconds("backoff.most", self.most, 0.001, BACKOFF_SECONDS_MAX)
        if self.most < self.first:
            raise ValueError(f"backoff.most is {self.most}, must not be below first, {self.first}")
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float):
            kind = type(self.factor).__name__
            raise TypeError(f"backoff.factor must be a number, not {kind}")
        if not 1.0 <= self.factor <= FACTOR_MAX:
            raise ValueError(f"backoff.factor must be from 1 to {FACTOR_MAX:g}, not {self.factor}")

    def after_ns(self, attempt: int) -> int:
        """Return the wait after the delivery with this number, from 1."""
        try:
            seconds = self.first * float(self.factor) ** (attempt - 1)
        except OverflowError:
            return int(self.most * 1e9)
        return int(min(self.most, seconds) * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a record is delivered (0 = without end), and the waits between."""

    max_attempts: int = 0
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        check_int("max_attempts", self.max_attempts, 0, ATTEMPTS_MAX)


ENDLESS: Final = RetryPolicy()


def fate_of(
    policy: RetryPolicy, attempt: int, cause: Cause, now: int, after_ns: int | None = None
) -> tuple[Fate, int]:
    """Return what a record waits for that came back after its delivery number ``attempt``.

    With the fate comes the time from which on it may be sent; ``after_ns`` is a wait that was asked
    for.
    """
    if policy.max_attempts and attempt >= policy.max_attempts:
        return Fate.DOOMED, now
    if after_ns is None:
        after_ns = policy.backoff.after_ns(attempt) if policy.backoff and cause in _BACKS_OFF else 0
    return (Fate.DELAYED if after_ns > 0 else Fate.READY), now + after_ns
