"""Consumers that are gone without a word: their leases, and what becomes of what they held."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.consumer import ConsumerOptions
from hstreamlite.errors import ConsumerClosed, ConsumerExists, LeaseLost
from hstreamlite.sub.ackmap import AckCounts, AckFlag
from hstreamlite.sub.limits import SECOND_NS, Limits
from hstreamlite.sub.presence import Presence
from hstreamlite.sub.retry import Backoff, RetryPolicy
from hstreamlite.testing.virtual import VirtualClock
from tests.sub.driven import MODES, Driven

TIMEOUT = 100 * SECOND_NS
LEASE = 10 * SECOND_NS
each_mode = pytest.mark.parametrize("mode", MODES)


def driven(mode: str, records: int = 6, **limits: Any) -> Driven:
    """Two consumers, of which "far" has a lease, and one key."""
    it = Driven(mode, Limits(ack_timeout_ns=TIMEOUT, **limits), lambda _, __: 7)
    it.group.add_shard(1, 1)
    it.group.offer(1, records + 1)
    it.group.attach("far", 0, LEASE)
    it.group.attach("near", 0)
    return it


@each_mode
def test_what_a_silent_consumer_held_comes_again_when_its_lease_runs_out(mode: str) -> None:
    it = driven(mode, retry=RetryPolicy(backoff=Backoff(first=50, most=50)))
    assert it.take("far", 6, 0) == [(1, 1, 7, 1)]
    assert it.group.next_deadline() == LEASE
    assert it.take("near", 6, LEASE - 1) == []
    assert it.group.gone(LEASE - 1) == ()
    assert it.take("near", 6, LEASE) == [(1, 1, 7, 2)], "at once: neither timeout nor back-off"
    assert it.group.gone(LEASE) == ("far",)
    assert it.group.gone(LEASE) == (), "told once"
    assert it.group.stats().consumers == ("near",)


@each_mode
def test_a_renewed_lease_keeps_a_consumer_and_what_it_holds(mode: str) -> None:
    it = driven(mode)
    it.take("far", 6, 0)
    assert it.group.renew("far", LEASE - 1) == 2 * LEASE - 1
    assert it.take("near", 6, 2 * LEASE - 2) == []
    assert it.group.renew("near", 5) is None, "who has no lease may say so as well"
    assert it.group.next_deadline() == 2 * LEASE - 1
    assert it.take("near", 6, 2 * LEASE - 1) == [(1, 1, 7, 2)]


@each_mode
@pytest.mark.parametrize("ticked", [False, True])
def test_a_lease_that_has_run_out_is_not_renewed(mode: str, ticked: bool) -> None:
    it = driven(mode)
    it.take("far", 6, 0)
    if ticked:
        it.group.tick(LEASE)
    calls: list[Callable[[], Any]] = [
        lambda: it.group.renew("far", LEASE),
        lambda: it.take("far", 1, LEASE),
        lambda: it.group.release("far", 1, 1, 7, 0, LEASE),
        lambda: it.group.extend("far", 1, 1, 7, TIMEOUT, LEASE),
        lambda: it.group.detach("far", LEASE),
    ]
    for call in calls:
        with pytest.raises(ConsumerClosed):
            call()
    assert it.group.gone(LEASE) == ("far",)


@each_mode
def test_what_was_only_reserved_for_it_counts_as_never_delivered(mode: str) -> None:
    it = driven(mode)
    it.describe(6)
    if mode == "shared":
        (assigned,) = it.group.fetch("far", 6, 0)
        it.group.tick(LEASE)
        assert it.group.confirm(assigned.lease, 7, LEASE) is None
    else:
        (parcel,) = it.group.fetch_parcels("far", 6, 0)
        it.group.tick(LEASE)
        assert it.group.confirm_parcel(parcel.lease, 6, LEASE) == (0, b"")
    assert it.take("near", 6, LEASE) == [(1, 1, 7, 1)]


@each_mode
def test_who_is_gone_has_no_turn_in_line(mode: str) -> None:
    it = driven(mode, 0)
    assert it.take("far", 1, 0, queue=True) == []
    assert it.take("near", 1, 0, queue=True) == []
    it.group.offer(1, 3)
    assert it.group.next_in_line(LEASE - 1) == "far"
    it.group.tick(LEASE)
    it.describe(2)
    assert it.group.next_in_line(LEASE) == "near"
    it.group.check_invariants()


def test_late_acks_count_once_where_no_order_is_kept() -> None:
    it = driven("shared")
    it.take("far", 6, 0)
    it.take("near", 3, LEASE)
    assert it.group.ack_range(1, 1, 7)[:3] == (6, 0, 0), "whoever holds it by now, or nobody"
    assert it.group.ack_range(1, 1, 4)[:3] == (0, 3, 0)
    assert it.take("near", 6, LEASE + TIMEOUT) == []


def test_a_late_ack_of_what_its_key_took_back_is_void() -> None:
    it = driven("ordered")
    it.take("far", 6, 0)
    it.group.tick(LEASE)
    late = [it.group.ack(1, lsn) & ~AckFlag.ATTENTION for lsn in (2, 3, 1)]
    assert late == [AckFlag.VOID, AckFlag.VOID, AckFlag.NEW], "1 comes first, whoever had it"
    assert it.take("near", 9, LEASE) == [(1, 2, 7, 2)]
    assert it.group.ack_range(1, 2, 7) == AckCounts(5, 0, 0, AckFlag.NEW)


@each_mode
def test_a_name_may_come_again_when_its_lease_has_run_out(mode: str) -> None:
    it = driven(mode)
    it.take("far", 3, 0)
    with pytest.raises(ConsumerExists):
        it.group.attach("far", LEASE - 1, LEASE)
    it.group.attach("far", LEASE, LEASE)
    assert it.take("far", 6, LEASE)[0] == (1, 1, 4, 2)


@each_mode
def test_a_record_dies_of_consumers_that_are_gone(mode: str) -> None:
    it = driven(mode, 1, retry=RetryPolicy(max_attempts=1))
    it.take("far", 1, 0)
    it.group.tick(LEASE)
    assert it.group.doomed(9) == ((1, 1, 2, 1, "consumer gone"),)


@pytest.mark.parametrize("lease_ns", [0, -1, 999_999, 1.5, True])
def test_a_lease_has_a_length(lease_ns: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="lease_ns is"):
        driven("shared").group.attach("c", 0, lease_ns)


class PresenceMachine(RuleBasedStateMachine):
    """Leases against a table of when each consumer was heard of last."""

    def __init__(self) -> None:
        super().__init__()
        self.it = Driven("shared", Limits(ack_timeout_ns=1 << 40, max_unacked=1_000))
        self.it.group.add_shard(1, 1)
        self.it.group.offer(1, 1_000)
        self.now = 0
        self.heard: dict[str, tuple[int | None, int]] = {}
        self.held: dict[str, set[int]] = {}
        self.lost: list[str] = []

    def pass_by(self) -> None:
        """Let go of who is gone by now; longest gone first."""
        ends = [(at + lease, name) for name, (lease, at) in self.heard.items() if lease]
        for end, name in sorted(ends):
            if end <= self.now:
                del self.heard[name]
                del self.held[name]
                self.lost.append(name)

    @rule(by=st.integers(0, 4_000_000), tick=st.booleans())
    def pass_time(self, by: int, tick: bool) -> None:
        self.now += by
        if tick:
            self.pass_by()
            self.it.group.tick(self.now)

    @rule(name=st.sampled_from("abcd"), lease=st.sampled_from([None, 1_000_000, 3_000_000]))
    def attach(self, name: str, lease: int | None) -> None:
        self.pass_by()
        if name in self.heard:
            with pytest.raises(ConsumerExists):
                self.it.group.attach(name, self.now, lease)
            return
        self.it.group.attach(name, self.now, lease)
        self.heard[name] = lease, self.now
        self.held[name] = set()

    @rule(name=st.sampled_from("abcd"), what=st.sampled_from(["renew", "take", "leave"]))
    def call(self, name: str, what: str) -> None:
        self.pass_by()
        group = self.it.group
        calls: dict[str, Callable[[], Any]] = {
            "renew": lambda: group.renew(name, self.now),
            "take": lambda: self.it.take(name, 5, self.now),
            "leave": lambda: group.detach(name, self.now),
        }
        if name not in self.heard:
            with pytest.raises(ConsumerClosed):
                calls[what]()
            return
        lease, _ = self.heard[name]
        got = calls[what]()
        if what == "renew":
            self.heard[name] = lease, self.now
            assert got == (None if lease is None else self.now + lease)
        elif what == "take":
            out = {lsn for held in self.held.values() for lsn in held}
            for _, first, end, _ in got:
                assert not out & set(range(first, end)), "in flight twice"
                self.held[name] |= set(range(first, end))
        else:
            assert got == len(self.held.pop(name))
            del self.heard[name]

    @rule()
    def ask_who_is_gone(self) -> None:
        self.pass_by()
        assert self.it.group.gone(self.now) == tuple(self.lost)
        self.lost.clear()

    @invariant()
    def agrees(self) -> None:
        group = self.it.group
        group.check_invariants()
        for holding in group.holdings():
            if holding.consumer in self.held:
                assert holding.unacked == len(self.held[holding.consumer])
        ends = [at + lease for lease, at in self.heard.values() if lease]
        due = group.next_deadline()
        assert not ends or (due is not None and due <= min(ends)), "the shell would wake too late"


TestPresence = PresenceMachine.TestCase


def test_a_consumer_renews_from_where_it_is_heard_not_from_where_its_lease_ended() -> None:
    present = Presence()
    present.enter("a", 10, 0)
    present.enter("b", 4, 0)
    assert present.renew("a", 3) == 13
    assert (present.next_end(), present.gone(3)) == (4, [])
    assert present.gone(13) == ["b", "a"]


def leased(subscription: hs.Subscription, name: str, seconds: float) -> hs.Consumer:
    """Attach a consumer as whoever serves one from afar does."""
    options = ConsumerOptions(name, 100, lease_ns=int(seconds * 1e9))
    return hs.Consumer(subscription._feed(), options)


class TestOfStore:
    """A feed renews, tells who is gone, and lets late acks count as any."""

    def start(self, mode: str) -> tuple[VirtualClock, hs.Store, hs.Subscription]:
        clock = VirtualClock()
        store = clock.open()
        stream = store.create_stream("jobs")
        stream.append_many([hs.Record(b"%d" % n, key="k") for n in range(4)])
        return clock, store, store.create_subscription("s", stream="jobs", mode=mode)

    @each_mode
    def test_a_slow_thread_of_one_that_left_takes_nothing_for_who_has_its_name(
        self, mode: str
    ) -> None:
        _, _, subscription = self.start(mode)
        gone = subscription.consumer("far")
        gone.close()
        with subscription.consumer("far") as later:
            with pytest.raises(ConsumerClosed):
                gone._fetch(10, may_block=True)
            assert [d.attempt for d in later.receive()] == [1] * 4

    @each_mode
    def test_its_records_go_to_others_and_the_log_tells(
        self, mode: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock, store, subscription = self.start(mode)
        far, near = leased(subscription, "far", 5), subscription.consumer("near")
        held = far.receive()
        clock.advance(4)
        subscription._feed().roster.renew("far", far._gate)
        clock.advance(4)
        assert near.receive(timeout=0) == ()
        with caplog.at_level(logging.WARNING):
            clock.advance(1)
        assert "'far' of subscription 's' was not heard of" in caplog.text
        assert [d.attempt for d in near.receive()] == [2] * 4
        assert [one.name for one in subscription._feed().stats().attached] == ["near"]
        with pytest.raises(ConsumerClosed):
            far.receive()
        with pytest.raises(ConsumerClosed):
            subscription._feed().roster.renew("far", far._gate)
        with pytest.raises(LeaseLost), store.transaction() as transaction:
            transaction.ack(held)
        assert far.ack(held).new == 4, "near holds them, and no ack of it would have counted less"
        far.close()
        store.close()

    @each_mode
    def test_who_is_gone_and_closed_does_not_detach_who_has_its_name(self, mode: str) -> None:
        clock, store, subscription = self.start(mode)
        old = leased(subscription, "far", 5)
        old.receive()
        clock.advance(5)
        new = leased(subscription, "far", 5)
        assert len(new.receive()) == 4
        old.close()
        assert [(one.name, one.unacked) for one in subscription._feed().stats().attached] == [
            ("far", 4)
        ]
        new.close()
        assert subscription._feed().roster.count == 0
        store.close()

    def test_a_gate_alone_attaches(self) -> None:
        clock, store, subscription = self.start("shared")
        feed = subscription._feed()
        gate = fast.AckGate(feed.gate, None, feed.addresses, None)
        feed.roster.attach("far", gate, SECOND_NS)
        clock.advance(1)
        assert feed.roster.count == 0
        feed.roster.detach("far", gate)
        store.close()
