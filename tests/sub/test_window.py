"""What a window and the kept state of a shard count."""

from hstreamlite.sub.ackmap import AckMap
from hstreamlite.sub.checkpoint import KeptShard
from hstreamlite.sub.window import Window


def test_backlog_counts_reserved_records_and_those_behind_them() -> None:
    window = Window(7, 1, 1000)
    window.tail = 3
    assert window.take(1) == (1, 2)
    assert window.backlog() == 2


def test_runs_of_attempts_below_low_do_not_hide_those_above() -> None:
    acks = AckMap(5, 1000)
    acks.advance(10, hold=False)
    kept = KeptShard(0, acks, [(1, 4, 3), (6, 8, 2)])
    assert kept.delivered_counts() == [(5, 6, 1), (6, 8, 2), (8, 10, 1)]
