"""A group that stands still is told in stats and in the log, with who holds what."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite.sub.effects import ConsumerStats
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


class Machine:
    """A store with stream "a" and subscription "s" in which time passes."""

    def __init__(self, *, warning: float = 30.0, records: int = 20, **options: Any) -> None:
        self.env = SimEnv(seed=1)
        config = replace(small_config(), stall_warning=warning)
        self.store = hs.open("/db", config=config, env=self.env)
        self.stream = self.store.create_stream("a")
        self.ids = self.stream.append_many([b"x"] * records) if records else ()
        self.subscription = self.store.create_subscription("s", stream="a", **options)

    def wait(self, seconds: float) -> None:
        """Let time pass in steps of at most half a second, as the store's thread would see it."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.env.advance(step)
            self.store.tick()
            seconds -= step

    def stats(self) -> hs.GroupStats:
        return self.store.stats().subscriptions["s"]

    def of(self, name: str) -> ConsumerStats:
        (found,) = (stats for stats in self.stats().attached if stats.name == name)
        return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "stands still" in r.getMessage()]


def test_stats_tell_of_each_consumer_what_it_holds_and_when_it_did_what() -> None:
    m = Machine(records=10)
    with m.subscription.consumer("one") as one, m.subscription.consumer("two"):
        batch = one.receive(4, timeout=0)
        m.wait(3.0)
        batch[0].ack()
        m.store.tick()
        m.wait(2.0)
        stats = m.of("one")
        assert (stats.unacked, stats.oldest) == (3, str(m.ids[1]))
        assert stats.since_asked == pytest.approx(5.0, abs=0.1)
        assert stats.since_acked == pytest.approx(2.0, abs=0.6)
        assert (stats.waiting, stats.stalled) == (False, "")
        one.ack(batch)
        assert m.of("one").since_acked == pytest.approx(0.0, abs=0.1)
        assert (m.of("one").unacked, m.of("one").oldest) == (0, "")
        assert m.of("two").since_asked == m.of("two").since_acked == pytest.approx(5.0, abs=0.1)
    assert m.stats().attached == ()


@pytest.mark.parametrize("how", ["one", "list", "transaction"])
def test_every_way_to_ack_counts_for_the_consumer(how: str) -> None:
    m = Machine(records=5)
    with m.subscription.consumer("one") as one:
        batch = one.receive(5, timeout=0)
        m.wait(10.0)
        assert m.of("one").since_acked >= 10.0
        if how == "one":
            batch[0].ack()
        elif how == "list":
            one.ack(batch[:1])
        else:
            with m.store.transaction() as tx:
                tx.ack(batch[0])
        assert m.of("one").since_acked == pytest.approx(0.0, abs=0.1)


def test_a_consumer_that_keeps_records_beyond_half_their_timeout_is_stalled() -> None:
    m = Machine(records=5, ack_timeout=60.0)
    with m.subscription.consumer("one") as one:
        batch = one.receive(5, timeout=0)
        m.wait(29.0)
        assert m.of("one").stalled == ""
        m.wait(2.0)
        assert m.of("one").stalled == (
            f"holds 5 records, some beyond half of the ack timeout: oldest unacked id {m.ids[0]}"
        )
        one.extend(batch, by=60.0)
        assert m.of("one").stalled == ""


def test_a_consumer_whose_record_fills_the_window_is_stalled_and_another_is_not() -> None:
    m = Machine(records=20, max_unacked=4)
    with m.subscription.consumer("one") as one, m.subscription.consumer("two") as two:
        held = one.receive(1, timeout=0)
        two.receive(3, timeout=0)
        assert m.of("one").stalled == ""
        m.wait(5.0)
        oldest = str(m.ids[0])
        assert (
            m.of("one").stalled
            == f"holds up the group: window full (max_unacked): oldest unacked id {oldest}"
        )
        assert m.of("two").stalled == ""
        one.ack(held)
        assert m.of("one").stalled == ""


def test_what_holds_up_a_group_is_told_by_its_id_and_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m = Machine(records=0)
    m.stream.append_many([hs.Record(b"%d" % n, key=f"k{n}") for n in range(5)])
    keys = "k5", "sóng", "sóng"
    _, held, _ = m.stream.append_many([hs.Record(b"x", key=key) for key in keys])
    one, two = m.subscription.consumer("one"), m.subscription.consumer("two")
    with one, two, caplog.at_level(logging.WARNING, "hstreamlite"):
        batch = one.receive(7, timeout=0)
        one.ack(batch[:6])
        assert two.receive(1, timeout=0) == ()
        stuck = f"oldest unacked id {held} of key 'sóng'"
        m.wait(5.0)
        assert str(held) == f"{held.shard_id}-6-1"
        assert m.stats().blocked == f"keys blocked: {stuck}"
        assert m.of("one").oldest == str(held)
        assert m.of("one").stalled == f"holds up the group: keys blocked: {stuck}"
        m.wait(26.0)
        assert m.of("one").stalled == (
            f"holds 1 records, some beyond half of the ack timeout: {stuck}"
        )
        (text,) = warnings(caplog)
        assert text.endswith(f"{stuck}); {stuck} is at consumer 'one', which holds 1")


def test_a_consumer_that_asks_for_nothing_while_there_is_work_is_stalled() -> None:
    m = Machine(records=5, ack_timeout=20.0)
    with m.subscription.consumer("one") as one:
        m.wait(9.0)
        assert m.of("one").stalled == ""
        m.wait(2.0)
        assert m.of("one").stalled == "asks for no records while there are some"
        one.ack(one.receive(5, timeout=0))
        m.wait(30.0)
        assert m.of("one").stalled == ""


def test_a_consumer_that_does_not_come_when_it_is_called_is_stalled() -> None:
    m = Machine(records=0)
    with m.subscription.consumer("one") as one, m.subscription.consumer("two"):
        feed = m.store._feeds.get("s")
        assert feed.fetcher.fetch("one", 1, one._gate) == ()  # stands in line, and sleeps for ever
        assert m.of("one").waiting
        m.stream.append(b"x")
        assert m.of("one").stalled == ""
        m.wait(2.0)
        assert m.of("one").stalled == "waits in line, and takes nothing when called"


def test_a_standstill_is_warned_of_once_and_rarely_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m = Machine(records=20, max_unacked=4, ack_timeout=36_000.0)
    with m.subscription.consumer("one") as one, caplog.at_level(logging.WARNING, "hstreamlite"):
        held = one.receive(4, timeout=0)
        m.wait(29.0)
        assert warnings(caplog) == []
        m.wait(2.0)
        (text,) = warnings(caplog)
        oldest = str(m.ids[0])
        assert text == (
            "subscription 's' stands still: for 30 s nothing was delivered or acked, and 16 "
            f"records wait (window full (max_unacked): oldest unacked id {oldest}); "
            f"oldest unacked id {oldest} is at consumer 'one', which holds 4"
        )
        assert m.stats().stalled == pytest.approx(31.0, abs=1.0)
        m.wait(290.0)
        assert len(warnings(caplog)) == 1
        m.wait(20.0)
        assert len(warnings(caplog)) == 2
        held[0].ack()
        m.wait(25.0)
        assert m.stats().stalled == pytest.approx(25.0, abs=1.0)
        assert len(warnings(caplog)) == 2
        m.wait(10.0)
        assert len(warnings(caplog)) == 3


def test_records_that_nobody_takes_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    m = Machine(records=5)
    with m.subscription.consumer("one"), caplog.at_level(logging.WARNING, "hstreamlite"):
        m.wait(31.0)
        (text,) = warnings(caplog)
        assert "5 records wait (no consumer takes them); nothing is unacked" in text


@pytest.mark.parametrize("why", ["off", "paused", "no consumers", "no records", "moving"])
def test_nothing_is_warned_of_where_nothing_stands_still(
    why: str, caplog: pytest.LogCaptureFixture
) -> None:
    m = Machine(records=200, warning=0.0 if why == "off" else 30.0, ack_timeout=36_000.0)
    if why == "no records":
        m.subscription.seek(hs.LATEST)
    consumer = None if why == "no consumers" else m.subscription.consumer("one")
    if why == "paused":
        m.subscription.pause()
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        for _ in range(20):
            m.wait(10.0)
            if why == "moving":
                assert consumer is not None
                assert consumer.receive(1, timeout=0)
    assert warnings(caplog) == []
    assert (m.stats().stalled > 0) == (why == "off")


@pytest.mark.parametrize("what", ["max_unacked", "max_unacked_bytes"])
def test_a_consumer_whose_own_window_is_full_is_told_which(what: str) -> None:
    m = Machine(records=20)
    oldest = str(m.ids[0])
    with (
        m.subscription.consumer("one", **{what: 1}) as one,
        m.subscription.consumer("two") as two,
    ):
        assert len(one.receive(10, timeout=0)) == 1
        two.receive(3, timeout=0)
        m.wait(5.0)
        told = f"its own window is full ({what}_per_consumer): oldest unacked id {oldest}"
        assert m.of("one").stalled == told
        assert m.stats().blocked == m.of("two").stalled == ""
