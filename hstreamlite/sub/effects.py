"""What the group answers with: frozen values, no behaviour."""

from dataclasses import dataclass, field
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

    @property
    def records(self) -> int:
        return self.end_lsn - self.first_lsn

    @property
    def room(self) -> int:
        """As of a `Parcel`."""
        return self.records


class Parcel(NamedTuple):
    """Records of a shard that a consumer is to get, one delivery of each: runs of a key table.

    Reserved until ``Group.confirm_parcel(lease, ...)`` says how many of them were handed out.
    Where batches go out whole, none but the first may that begins behind ``room`` records.
    """

    shard_id: int
    runs: bytes
    records: int
    lease: int
    room: int = 1 << 62


class Doomed(NamedTuple):
    """A run of records that were delivered ``attempts`` times and go out no more.

    They wait for their move to the dead-letter stream, after which they are acked.
    """

    shard_id: int
    first_lsn: int
    end_lsn: int
    attempts: int
    reason: str


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


@dataclass(frozen=True, slots=True)
class Damaged:
    """Records that cannot be read, and are set aside: unacked, but nobody gets them.

    ``records`` counts them; ``reason`` tells what was found in which file.
    """

    shard_id: int
    first_lsn: int
    end_lsn: int
    records: int
    reason: str


Event = Gap | Sought | Damaged
"""What `Consumer.events` tells of."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind; lags are equal when their records are.

    ``unacked``: delivered and not acked. ``backlog``: durable and never delivered. ``bytes``: what
    both take as stored, about: exact to whole segment files, and within one as if all its records
    of the stream were alike. ``age``: seconds since the oldest of them was appended, by the wall
    clock; 0 if there is none.
    """

    unacked: int
    backlog: int
    bytes: int = field(default=0, compare=False)
    age: float = field(default=0.0, compare=False)

    @property
    def records(self) -> int:
        return self.unacked + self.backlog


class Stand(NamedTuple):
    """Where a group stands in a shard: the oldest LSN not acked, the first never delivered one, the
    first that is not durable, and how many of those between the first two are not acked."""

    shard: int
    low: int
    next: int
    tail: int
    outstanding: int


class Holding(NamedTuple):
    """What a consumer has in flight.

    ``oldest`` is the unacked record (shard, LSN) that falls due first, at ``due_ns``. ``blocks``
    tells whether it holds the record that holds up the group, ``full`` names its own window that is
    full, if one is, and ``could_take`` tells whether it would get something if it asked now.
    """

    consumer: str
    unacked: int
    oldest: tuple[int, int] | None
    due_ns: int | None
    waiting: bool
    blocks: bool
    full: str
    could_take: bool
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """How an attached consumer does.

    ``unacked`` records are in flight at it, of which the one with id ``oldest`` falls due first. It
    asked for records and acked so many seconds ago, counted from its attachment if it never did.
    ``waiting`` tells whether it stands in line for records; ``stalled`` says why it holds up itself
    or the group, or is empty. ``unacked_bytes`` is None unless a window in bytes is set.
    """

    name: str
    unacked: int
    oldest: str
    since_asked: float
    since_acked: float
    waiting: bool
    stalled: str
    unacked_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A snapshot of a group; ``blocked`` says why nothing new can be dispatched, or is empty.

    ``doomed`` counts records that were delivered ``max_attempts`` times and wait for their move to
    the dead-letter stream, ``buried`` those that were moved since the store was opened;
    ``burial_failure`` says why the last try to move some failed, or is empty. ``stalled`` is how
    many seconds there was something to deliver and nothing was delivered or acked; ``attached``
    tells of each consumer. ``in_flight_bytes`` is None unless a window in bytes is set. ``damaged``
    counts records that cannot be read.
    """

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
    doomed: int = 0
    buried: int = 0
    burial_failure: str = ""
    stalled: float = 0.0
    attached: tuple[ConsumerStats, ...] = ()
    in_flight_bytes: int | None = None
    damaged: int = 0
