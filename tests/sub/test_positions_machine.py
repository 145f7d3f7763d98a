"""One subscription with several consumers, moved, paused and restarted, against the store's model.

The machine of the whole store spends most of its calls on other things; this one appends, receives,
acks, seeks and restarts, so that deliveries from before a seek meet those from behind it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Restart, Witness, small_config
from tests import effort

CONSUMERS = st.sampled_from(["one", "two", "three"])
EVENTS = ("acks", "deliveries", "paused or resumed", "restarts", "sought")


class PositionMachine(RuleBasedStateMachine):
    """A stream, its subscription and their model. `counts` adds up over all runs."""

    counts: ClassVar[Counter[str]] = Counter()

    @initialize(
        shards=st.sampled_from([1, 1, 4]),
        most=st.sampled_from([5, 40, 10_000]),
        mode=st.sampled_from(["ordered", "shared"]),
    )
    def start(self, shards: int, most: int, mode: str) -> None:
        self.w = Witness(SimEnv(seed=1), small_config())
        self.number = 0
        assert self.w.create("a", shards=shards) == "ok"
        assert self.w.subscribe("s", "a", ack_timeout=5.0, max_unacked=most, mode=mode) == "ok"
        self.append(10, 3)

    @rule(count=st.integers(1, 20), keys=st.integers(1, 6))
    def append(self, count: int, keys: int) -> None:
        self.number += count
        records = [(f"k{n % keys}", b"%d" % n) for n in range(self.number - count, self.number)]
        assert self.w.append("a", records) == "ok"

    @rule(consumer=CONSUMERS, most=st.integers(1, 30))
    def receive(self, consumer: str, most: int) -> None:
        self.counts["deliveries"] += self.w.receive("s", consumer, most)

    @rule(number=st.integers(0, 2), count=st.integers(1, 30))
    def ack(self, number: int, count: int) -> None:
        # Of one that holds something: with few rules drawn at a time hardly any would.
        holders = sorted(name for (_, name), held in self.w.held.items() if held)
        if not holders:
            return
        consumer = holders[number % len(holders)]
        held = self.w.held["s", consumer][:count]
        places = [(d.id.shard_id, d.id.lsn) for d in held]
        sub = self.w.model.subs["s"]
        stale = [place for place in places if place in sub.void]
        gone = sum(map(sub.stream.trimmed, stale))  # a gap counts as acked before
        new = sum(place not in sub.void and place not in sub.done for place in places)
        now = self.w.env.clock.mono_ns()
        unsure = sum(sub.taken_along(place, now) and place not in sub.void for place in places)
        result = self.w.consumers["s", consumer].ack(held)
        self.w.model.ack("s", places, now_ns=now)
        del self.w.held["s", consumer][:count]
        assert len(stale) - gone <= result.void <= len(stale) + unsure
        assert result.new <= new
        self.counts["acks"] += result.new
        self.counts["void acks"] += result.void

    @rule(consumer=CONSUMERS, count=st.integers(1, 30))
    def release(self, consumer: str, count: int) -> None:
        self.w.release("s", consumer, count)

    @rule(consumer=CONSUMERS, count=st.integers(1, 5))
    def transact(self, consumer: str, count: int) -> None:
        held = self.w.held.get(("s", consumer), [])[:count]
        now = self.w.env.clock.mono_ns()
        holds = [self.w.model.holds("s", consumer, (d.id.shard_id, d.id.lsn), now) for d in held]
        if held:
            outcome = self.w.transact({}, ("s", consumer), count=count)
            assert outcome == "none" or all(holds)
            del self.w.held["s", consumer][: count if outcome == "none" else 0]

    @rule(consumer=CONSUMERS)
    def leave(self, consumer: str) -> None:
        self.w.leave("s", consumer)

    @rule(where=st.floats(0, 1), by_time=st.booleans())
    def seek(self, where: float, by_time: bool) -> None:
        records = list(self.w.store.stream("a").read())
        to: Any = hs.EARLIEST if where < 0.1 else hs.LATEST
        if where < 0.9 and records:
            record = records[int(where * len(records))]
            to = record.append_time if by_time else record.id
        assert self.w.seek("s", to) == "ok"
        self.counts["sought"] += 1

    @rule(paused=st.sampled_from([False, False, True]))
    def pause(self, paused: bool) -> None:
        assert self.w.pause("s", paused=paused) == "ok"
        self.counts["paused or resumed"] += 1

    @rule(where=st.floats(0, 1))
    @precondition(lambda self: self.number > 30)
    def trim(self, where: float) -> None:
        records = list(self.w.store.stream("a").read())
        if records:
            self.w.trim("a", records[int(where * (len(records) - 1))].id)

    @rule(seconds=st.sampled_from([0.2, 1.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        assert self.w.pass_time(seconds) == "ok"

    @rule(how=st.sampled_from(["close", "process", "power"]), seed=st.integers(0, 99))
    def restart(self, how: Restart, seed: int) -> None:
        self.w.restart(how, seed=seed)
        self.w.check()
        self.counts["restarts"] += 1

    def teardown(self) -> None:
        if not hasattr(self, "w"):
            return
        self.w.check()
        self.w.drain()
        lag = self.w.store.subscription("s").lag()
        assert (lag.records, lag.bytes, lag.age) == (0, 0, 0.0)
        self.w.store.close()


def test_a_subscription_that_is_moved_agrees_with_its_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    PositionMachine.counts.clear()
    tries = settings(max_examples=effort.of(150, brief=20, nightly=1500), stateful_step_count=40)
    run_state_machine_as_test(PositionMachine, settings=tries)
    with capsys.disabled():
        print("\n" + ", ".join(f"{n} {what}" for what, n in sorted(PositionMachine.counts.items())))
    if not effort.BRIEF:
        assert [what for what in EVENTS if not PositionMachine.counts[what]] == []


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_a_seek_is_on_disk_when_it_returns(mode: str) -> None:
    env = SimEnv(seed=1)
    store = hs.open("/db", env=env)
    store.create_stream("a").append_many([b"%d" % n for n in range(10)])
    subscription = store.create_subscription("s", stream="a", mode=mode)
    with subscription.consumer("one") as consumer:
        consumer.ack(consumer.receive(10))
    store.sync()
    subscription.seek(hs.EARLIEST)
    env = env.power_cut(profile="drop")
    with hs.open("/db", env=env) as store, store.subscription("s").consumer("one") as consumer:
        assert len(consumer.receive(10, timeout=0)) == 10
