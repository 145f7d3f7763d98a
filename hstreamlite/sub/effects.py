"""What the group answers with: frozen values, no behaviour."""

from dataclasses import dataclass
from typing import NamedTuple


class Assignment(NamedTuple):
    """A run of records that a consumer is to get, as one delivery of each.

    Reserved until ``Group.confirm(lease, ...)`` says how much of it was handed out.
    """

    shard_id: int
    first_lsn: int
    end_lsn: int
    attempt: int
    lease: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that can never be delivered: trimmed or expired before they were acked.

    ``records`` counts those of ``[first_lsn, end_lsn)`` that were not acked; ``undelivered`` those
    that no consumer ever got.
    """

    shard_id: int
    first_lsn: int
    end_lsn: int
    records: int
    undelivered: int


@dataclass(frozen=True, slots=True)
class Sought:
    """The subscription was moved to ``to``; what was delivered before is void.

    ``positions`` holds the shards and the first LSN of each that is delivered from then on.
    """

    to: object
    positions: tuple[tuple[int, int], ...]


Event = Gap | Sought
"""What `Consumer.events` tells of."""


@dataclass(frozen=True, slots=True)
class Lag:
    """``unacked``: delivered and not acked. ``backlog``: durable and never delivered.

    What retention or a trim took counts in ``backlog`` until a consumer comes to the gap.
    """

    unacked: int
    backlog: int


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A snapshot of a group; ``blocked`` says why nothing new can be dispatched, or is empty."""

    consumers: tuple[str, ...]
    paused: bool
    unacked: int
    reserved: int
    in_flight: int
    waiting: int
    backlog: int
    gaps: int
    gap_records: int
    blocked: str
