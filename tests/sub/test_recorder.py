"""What is stored is what was true when it was stored: never ahead of it, and not behind."""

from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.group import Group
from hstreamlite.sub.limits import SECOND_NS, Limits

LAST = 120


@dataclass
class Truth:
    """Records done, and deliveries of those that are not, at the moment of storing."""

    done: set[int]
    deliveries: dict[int, int]


def stored(pieces: list[bytes]) -> Truth:
    progress = Progress()
    for piece in pieces:
        progress.apply(piece)
    kept = progress.shards[1]
    state = kept.acks.state
    runs = [(1, state.low), *kept.acks.acked_runs(state.low, state.next)]
    done = {lsn for first, end in runs for lsn in range(first, end)}
    counts = kept.delivered_counts()
    return Truth(
        done,
        {n: count for first, end, count in counts for n in range(first, end) if n not in done},
    )


steps = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 40)),
        st.tuples(st.just("reserve"), st.integers(1, 40)),
        st.tuples(st.just("ack"), st.integers(1, LAST)),
        st.tuples(st.just("ack some"), st.integers(1, LAST)),
        st.tuples(st.just("time out"), st.just(0)),
        st.tuples(st.just("leave"), st.just(0)),
        st.tuples(st.sampled_from(["delta", "delta", "snapshot"]), st.just(0)),
    ),
    max_size=40,
)


class Run:
    def __init__(self) -> None:
        self.group = Group("billing", Limits(max_unacked=100, ack_timeout_ns=SECOND_NS))
        self.group.add_shard(1, 1)
        self.group.offer(1, LAST + 1)
        self.group.attach("a")
        self.now = 0
        self.done: set[int] = set()
        self.deliveries: dict[int, int] = {}
        self.kept: list[tuple[list[bytes], Truth]] = []
        self.pieces: list[bytes] = []

    def step(self, name: str, value: int) -> None:
        if name in ("deliver", "reserve"):
            self.fetch(value, confirm=name == "deliver")
        elif name.startswith("ack"):
            stop = min(value + (20 if name == "ack some" else 1), LAST + 1)
            self.ack(range(value, stop, 2 if value % 3 else 1))
        elif name == "time out":
            self.now += SECOND_NS
            self.group.tick(self.now)
        elif name == "leave":
            self.group.detach("a", self.now)
            self.group.attach("a")
        else:
            self.store(snapshot=name == "snapshot")

    def fetch(self, most: int, *, confirm: bool) -> None:
        for assigned in self.group.fetch("a", most, self.now):
            for lsn in range(assigned.first_lsn, assigned.end_lsn):
                self.deliveries[lsn] = self.deliveries.get(lsn, 0) + confirm
            if confirm:
                self.group.confirm(assigned.lease, assigned.end_lsn, self.now)

    def ack(self, lsns: range) -> None:
        good = [lsn for lsn in lsns if self.deliveries.get(lsn)]
        for lsn in good:
            self.group.ack(1, lsn)
        self.done |= set(good)

    def store(self, *, snapshot: bool) -> None:
        self.pieces.extend(self.group.snapshot() if snapshot else self.group.delta())
        self.group.check_invariants()
        if self.pieces:
            waiting = {n: count for n, count in self.deliveries.items() if n not in self.done}
            self.kept.append((list(self.pieces), Truth(set(self.done), waiting)))


@given(steps)
def test_every_state_stored_is_the_true_one(script: list[tuple[str, int]]) -> None:
    run = Run()
    for name, value in [*script, ("delta", 0)]:
        run.step(name, value)
    for pieces, truth in run.kept:
        assert stored(pieces) == truth


@pytest.mark.parametrize("between", ["", "delta", "snapshot"])
def test_acks_above_the_oldest_unacked_record_are_stored(between: str) -> None:
    run = Run()
    run.step("deliver", 40)
    if between:
        run.step(between, 0)
    run.step("ack some", 11)
    run.step("delta", 0)
    assert stored(run.pieces).done == {11, 13, 15, 17, 19, 21, 23, 25, 27, 29}


@pytest.mark.parametrize("records", [20, 2_000, 20_000])
def test_scattered_acks_are_stored_however_many(records: int) -> None:
    group = Group("billing", Limits(max_unacked=records, ack_timeout_ns=SECOND_NS))
    group.add_shard(1, 1)
    group.offer(1, records + 1)
    group.attach("a")
    (assigned,) = group.fetch("a", records, 0)
    group.confirm(assigned.lease, records + 1, 0)
    pieces = [*group.delta()]
    scattered = range(2, records, 2)
    for lsn in scattered:
        group.ack(1, lsn)
    pieces += group.delta()
    assert group.delta() == ()
    assert stored(pieces).done == set(scattered)
