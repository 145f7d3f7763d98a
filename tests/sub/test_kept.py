"""What the kept state of a shard counts."""

from hstreamlite.sub.ackmap import AckMap
from hstreamlite.sub.checkpoint import KeptShard


def test_runs_of_attempts_below_low_do_not_hide_those_above() -> None:
    acks = AckMap(5, 1000)
    acks.advance(10, hold=False)
    kept = KeptShard(0, acks, listed=False, attempts=[(1, 4, 3), (6, 8, 2)])
    assert kept.delivered_counts() == [(5, 6, 1), (6, 8, 2), (8, 10, 1)]


def test_of_listed_attempts_the_last_told_counts_and_others_are_none() -> None:
    acks = AckMap(5, 1000)
    acks.advance(10, hold=False)
    kept = KeptShard(0, acks, listed=True, attempts=[(1, 7, 1), (6, 8, 2), (6, 7, 3)])
    assert list(kept.counts()) == [1, 3, 2, 0, 0]
