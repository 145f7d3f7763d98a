"""The meters of a store at work, in simulated time."""

from __future__ import annotations

from dataclasses import astuple

import pytest

import hstreamlite as hs
from hstreamlite import meters
from hstreamlite.metrics.rates import SECOND
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


class Machine:
    """A store in which time passes."""

    def __init__(self) -> None:
        self.env = SimEnv(seed=1)
        self.store = hs.open("/db", config=small_config(), env=self.env)

    def pass_time(self, seconds: float) -> None:
        self.env.advance(seconds)
        self.store.tick()

    def rates(self, name: str) -> hs.StreamRates | None:
        return self.store.stats().stream_traffic[name].rates


def test_rates_follow_what_is_appended() -> None:
    m = Machine()
    stream = m.store.create_stream("a")
    for _ in range(700):
        stream.append_many([b"x"] * 10)
        stream.append(b"y")
        m.pass_time(1)
    rates = m.rates("a")
    assert rates is not None
    for rate in astuple(rates.append_records):
        assert rate == pytest.approx(11, rel=0.25)
    for rate in astuple(rates.append_calls):
        assert rate == pytest.approx(2, rel=0.25)
    assert rates.append_failed == hs.Rates()
    m.pass_time(5)
    rates = m.rates("a")
    assert rates is not None
    assert rates.append_records.over_4s == 0
    assert rates.append_records.over_1min > 8
    m.pass_time(700)
    assert m.rates("a") == hs.StreamRates()


def test_rates_of_a_subscription_follow_its_consumers() -> None:
    m = Machine()
    stream = m.store.create_stream("a")
    subscription = m.store.create_subscription("s", stream="a", mode="shared", ack_timeout=999)
    with subscription.consumer("c") as consumer:
        for _ in range(100):
            stream.append_many([b"x" * 10] * 10)
            batch = consumer.receive(100, timeout=0)
            consumer.ack(batch[:5])
            m.pass_time(1)
        rates = m.store.stats().subscription_traffic["s"].rates
    assert rates.sent_records.over_1min == pytest.approx(10, rel=0.25)
    assert rates.acks.over_1min == pytest.approx(5, rel=0.25)
    assert rates.sent_bytes.over_1min > 100


def test_who_is_idle_makes_room_where_rates_are_kept_of_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meters, "STREAMS_RATED_MAX", 3)
    m = Machine()
    streams = [m.store.create_stream(f"s{number}") for number in range(5)]
    for stream in streams:
        stream.append(b"x")
    traffic = m.store.stats().stream_traffic
    assert [t.append_records for t in traffic.values()] == [1] * 5
    rated = [name for name, t in traffic.items() if t.rates is not None]
    assert len(rated) == 3
    m.pass_time(701)
    left = [stream for stream in streams if stream.name not in rated]
    for stream in left:
        stream.append(b"x")
    # What was appended while there was no room for it counts in no rate either.
    assert [m.rates(stream.name) for stream in left] == [hs.StreamRates()] * 2
    m.pass_time(701)
    m.store.stream(rated[0]).append_many([b"x"] * 5)
    m.store.stream(rated[1]).append_many([b"x"] * 5)
    m.pass_time(5)
    for name in rated[:2]:
        m.store.stream(name).append(b"x")
        rates = m.rates(name)
        assert rates is not None
        # What was appended before it came back counts in no rate.
        assert 0 < rates.append_records.over_4s <= 1


def test_a_store_that_does_nothing_is_looked_at_less_often() -> None:
    m = Machine()
    stream = m.store.create_stream("a")
    m.pass_time(1)
    now = m.env.clock.mono_ns()
    assert m.store._ticker.meters.tick(now) == now + 4 * SECOND
    stream.append(b"x")
    m.env.advance(4)
    now = m.env.clock.mono_ns()
    assert m.store._ticker.meters.tick(now) == now + SECOND


def test_rates_over_any_interval_can_be_asked_for() -> None:
    m = Machine()
    stream = m.store.create_stream("a")
    for _ in range(60):
        stream.append(b"x")
        m.pass_time(1)
    state = m.store._engine.stream("a")
    for seconds in (4, 7, 30, 60):
        rates = m.store._ticker.meters.stream_rates(state, seconds * SECOND)
        assert rates[1] == pytest.approx(1, rel=0.3)
    assert rates[3:] == (0, 0, 0)
