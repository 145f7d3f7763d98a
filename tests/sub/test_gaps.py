"""Retention or a trim that passes a position is told at once, whoever is there to hear it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.sub.limits import Limits
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests.logs import logged
from tests.sub.driven import Driven


class Machine:
    """A store with ten records in stream "a", of which subscription "s" has read none."""

    def __init__(self, *, backlog: float = 0.0, mode: str = "ordered") -> None:
        self.env = SimEnv(seed=1)
        self.open()
        self.stream = self.store.create_stream("a", backlog=backlog)
        self.subscription = self.store.create_subscription(
            "s", stream="a", mode=mode, ack_timeout=20.0
        )
        self.ids = self.stream.append_many([b"%d" % n for n in range(10)])

    def open(self) -> None:
        self.store = hs.open("/db", config=small_config(retention_interval=1.0), env=self.env)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.env.advance(1.0)
            self.store.tick()

    def counted(self) -> tuple[int, int]:
        stats = self.store.stats().subscriptions["s"]
        return stats.gaps, stats.gap_records


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("how", ["trim", "retention"])
def test_a_gap_counts_before_anybody_asks_for_records(
    how: str, attached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    m = Machine(backlog=5.0 if how == "retention" else 0.0)
    consumer = m.subscription.consumer("w") if attached else None
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        if how == "trim":
            m.stream.trim(before=m.ids[6])
        else:
            m.wait(4)
            assert m.counted() == (0, 0)
            m.wait(4)
    lost = 6 if how == "trim" else 10
    first = m.ids[0].lsn
    assert m.counted() == (1, lost)
    assert m.subscription.lag() == hs.Lag(0, 10 - lost)
    assert f"records {first} to {first + lost - 1} of shard" in caplog.text
    consumer = consumer or m.subscription.consumer("late")
    (gap,) = consumer.gaps()
    assert consumer.events() == (gap,)
    assert gap == hs.Gap(m.ids[0].shard_id, first, first + lost, lost, lost)
    with m.subscription.consumer("later") as later:
        assert later.gaps() == later.events() == (), "it has been told"


def test_a_worker_that_comes_back_hears_of_what_expired_while_its_process_was_down() -> None:
    m = Machine(backlog=5.0)
    m.store.close()
    m.env.advance(60.0)
    m.open()
    m.wait(2)
    with m.store.subscription("s").consumer("w") as consumer:
        assert [gap.records for gap in consumer.gaps()] == [10]
        assert consumer.gaps() == ()
    m.store.close()


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_what_is_in_flight_is_no_gap_before_it_comes_back(mode: str) -> None:
    m = Machine(mode=mode)
    with m.subscription.consumer("w") as consumer:
        held = consumer.receive(4, timeout=0)
        held[0].ack()
        m.stream.trim(before=m.ids[6])
        assert m.counted() == (0, 0)
        assert m.subscription.lag() == hs.Lag(3, 6)
        with m.store.transaction() as tx:
            tx.append("a", b"done")
            tx.ack(held[1])
        held[2].ack()
        m.wait(19)
        assert m.counted() == (0, 0)
        m.wait(3)
        assert m.counted() == (1, 3)
        (gap,) = consumer.gaps()
        assert (gap.first_lsn, gap.end_lsn) == (m.ids[3].lsn, m.ids[6].lsn)
        assert (gap.records, gap.undelivered) == (3, 2)
        assert [d.payload for d in consumer.receive(9, timeout=0)] == [
            b"6", b"7", b"8", b"9", b"done"
        ]  # fmt: skip


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_a_gap_is_told_when_what_was_in_flight_is_handed_back_or_acked(mode: str) -> None:
    for leaves in (True, False):
        m = Machine(mode=mode)
        with m.subscription.consumer("w") as consumer:
            held = consumer.receive(4, timeout=0)
            m.stream.trim(before=m.ids[6])
            if not leaves:
                consumer.ack(held)
        assert m.counted() == (1, 6 if leaves else 2)
        assert m.subscription.lag() == hs.Lag(0, 4)


def test_a_trim_that_a_crash_hid_from_the_subscription_is_told_at_the_next_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m = Machine()
    m.stream.trim(before=m.ids[6])
    m.env = m.env.power_cut(seed=3)
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        m.open()
    assert m.counted() in {(0, 0), (1, 6)}
    assert m.counted() == (1, 6) or not logged(caplog)
    assert m.store.subscription("s").lag() == hs.Lag(0, 4)


def test_a_follower_counts_what_is_gone_and_leaves_telling_to_the_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = hs.StoreConfig(progress_interval=60.0)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        store.create_subscription("s", stream="a")
        ids = stream.append_many([b"%d" % n for n in range(10)])
        with hs.open(tmp_path / "s", read_only=True) as follower:
            assert follower.subscription("s").lag() == hs.Lag(0, 10)
            stream.trim(before=ids[6])
            caplog.clear()
            assert follower.subscription("s").lag() == hs.Lag(0, 4)
            assert logged(caplog) == []


def test_what_its_key_took_back_counts_as_delivered_once_it_is_gone() -> None:
    it = Driven("ordered", Limits(), lambda _, __: 7)
    it.group.add_shard(1, 1)
    it.group.offer(1, 5)
    it.group.attach("a")
    it.take("a", 3, 0)
    it.group.release("a", 1, 1, 2, 0, 0)
    assert it.group.gap(1, 6) == hs.Gap(1, 1, 6, 5, 2)
