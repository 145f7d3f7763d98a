"""Limits of a subscription's group, checked once."""

from dataclasses import dataclass

from hstreamlite.sub.retry import ENDLESS, RetryPolicy

SECOND_NS = 1_000_000_000
TIME_MAX_NS = 1 << 62


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError naming the argument, its value and its range, or TypeError for no int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, must be an int")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, must be within {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a group may have outstanding, and for how long.

    ``ack_timeout_ns``
        From a record's delivery to its next one if it is not acked. Default 60 s, 1 ms to 1 year.
        Too low: records come again while they are still worked on.
    ``max_unacked``
        Records delivered (or about to be) and not acked, over all shards. Default 10,000; 1 to
        10,000,000. Too low: consumers wait for each other's acks.
    ``max_unacked_per_consumer``
        The same for the records in flight at one consumer; 0 (default) is no limit but the group's.
    ``max_unacked_bytes``, ``max_unacked_bytes_per_consumer``
        Bytes in flight at all consumers, and at one, from which on nothing more goes out; 0
        (default) is no limit. Up to 1 TiB. Too low: records go out one by one.
    ``span_records``
        How far delivery may run ahead of the oldest unacked record of a shard; costs 3 bits of
        memory each. Default 1,000,000; 1 to 100,000,000. Reached: one record holds the shard.
    ``checkpoint_acks``
        Acks of one shard after which progress should be stored. Default 1,000; 1 to 10,000,000.
        This many acks may be forgotten by a crash, besides those of the storing interval.
    ``retry``
        How often a record is sent, and the waits between. Default: without end, at once.
    """

    ack_timeout_ns: int = 60 * SECOND_NS
    max_unacked: int = 10_000
    max_unacked_per_consumer: int = 0
    max_unacked_bytes: int = 0
    max_unacked_bytes_per_consumer: int = 0
    span_records: int = 1_000_000
    checkpoint_acks: int = 1_000
    retry: RetryPolicy = ENDLESS

    def __post_init__(self) -> None:
        year = 366 * 86_400 * SECOND_NS
        check_range("ack_timeout_ns", self.ack_timeout_ns, 1_000_000, year)
        check_range("max_unacked", self.max_unacked, 1, 10_000_000)
        check_range("max_unacked_per_consumer", self.max_unacked_per_consumer, 0, 10_000_000)
        check_range("max_unacked_bytes", self.max_unacked_bytes, 0, 1 << 40)
        most = self.max_unacked_bytes_per_consumer
        check_range("max_unacked_bytes_per_consumer", most, 0, 1 << 40)
        check_range("span_records", self.span_records, 1, 100_000_000)
        check_range("checkpoint_acks", self.checkpoint_acks, 1, 10_000_000)
