"""The native ack bitmap against plain sets."""

from array import array

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hstreamlite.sub.ackmap import AckFlag, AckMap, Totals

SPAN = 3_000
OWNERS = (1, 2, 40)


def runs_of(lsns: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for lsn in sorted(lsns):
        if runs and runs[-1][1] == lsn:
            runs[-1] = (runs[-1][0], lsn + 1)
        else:
            runs.append((lsn, lsn + 1))
    return runs


class AckMapMachine(RuleBasedStateMachine):
    """Grow, wrap, ack, hold, skip, drain: after each step map and sets agree."""

    @initialize(low=st.one_of(st.integers(1, 200), st.integers(2**40, 2**40 + 200)))
    def start(self, low: int) -> None:
        self.map = AckMap(low, SPAN)
        self.totals = Totals()
        self.map.weigh(self.totals)
        for owner in OWNERS:
            self.totals.reserve(owner)
        self.reset_model(low)

    def reset_model(self, low: int) -> None:
        self.origin = self.next = low
        self.floor = low
        self.acked: set[int] = set()
        self.held: set[int] = set()
        self.fresh: set[int] = set()
        self.since = 0
        self.loads: dict[int, tuple[int, int]] = {}

    def low(self) -> int:
        while self.floor < self.next and self.floor in self.acked:
            self.floor += 1
        return self.floor

    def pick(self, data: st.DataObject) -> int:
        low = self.low()
        return data.draw(
            st.one_of(
                st.integers(max(0, low - 3), low + 3),
                st.integers(low, self.next + 2),
                st.sampled_from([0, -1, 2**62, 2**64, 2**70]),
            )
        )

    def known(self, lsn: int) -> bool:
        return self.origin <= lsn < self.next

    def model_ack(self, lsn: int) -> AckFlag:
        if not self.known(lsn):
            return AckFlag.UNKNOWN
        if lsn < self.low() or lsn in self.acked:
            return AckFlag.DUPLICATE
        if lsn in self.held:
            return AckFlag.VOID
        self.acked.add(lsn)
        self.loads.pop(lsn, None)
        self.fresh.add(lsn)
        self.since += 1
        return AckFlag.NEW

    @rule(count=st.integers(0, 900), hold=st.booleans())
    def advance(self, count: int, hold: bool) -> None:
        end = self.next + count
        if end - self.low() > SPAN:
            with pytest.raises(ValueError, match="span"):
                self.map.advance(end, hold=hold)
            return
        self.map.advance(end, hold=hold)
        if hold:
            self.held |= set(range(self.next, end))
        self.next = end

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        lsn = self.pick(data)
        assert self.map.ack(lsn) == self.model_ack(lsn)

    @rule(data=st.data(), count=st.integers(0, 500))
    def ack_range(self, data: st.DataObject, count: int) -> None:
        first = self.pick(data)
        end = first + count
        got = self.map.ack_range(first, end)
        if count == 0 or not (self.known(first) and self.known(end - 1)):
            assert got == (0, 0, 0, AckFlag.UNKNOWN)
        else:
            self.compare([self.model_ack(lsn) for lsn in range(first, end)], got)

    @rule(data=st.data(), tuples=st.booleans())
    def ack_many(self, data: st.DataObject, tuples: bool) -> None:
        lsns = [self.pick(data) for _ in range(data.draw(st.integers(0, 8)))]
        start = data.draw(st.integers(self.low(), self.next))
        stop = data.draw(st.integers(start, min(self.next, start + 2_500)))
        lsns[len(lsns) // 2 : len(lsns) // 2] = range(start, stop, data.draw(st.integers(1, 3)))
        got = self.map.ack_many(tuple(lsns) if tuples else lsns)
        if all(self.known(lsn) for lsn in lsns):
            self.compare([self.model_ack(lsn) for lsn in lsns], got)
        else:
            assert got == (0, 0, 0, AckFlag.UNKNOWN)

    def compare(self, flags: list[AckFlag], got: tuple[int, int, int, int]) -> None:
        for kind, count in zip((AckFlag.NEW, AckFlag.DUPLICATE, AckFlag.VOID), got, strict=False):
            assert flags.count(kind) == count
            assert bool(got[3] & kind) == bool(count)
        assert not got[3] & AckFlag.UNKNOWN

    @rule(data=st.data(), count=st.integers(0, 400), hold=st.booleans())
    def hold(self, data: st.DataObject, count: int, hold: bool) -> None:
        low = self.low()
        first = data.draw(st.integers(max(0, low - 5), self.next + 5))
        span = set(range(max(first, low), min(first + count, self.next)))
        if hold:
            self.map.hold(first, first + count)
            self.held |= span - self.acked
        else:
            self.map.free(first, first + count)
            self.held -= span

    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        lsn = data.draw(st.integers(max(0, self.low() - 3), self.next + 100))
        gone = set(range(self.low(), min(lsn, self.next)))
        assert self.map.skip(lsn) == len(gone - self.acked)
        self.acked |= gone
        for passed in gone:
            self.loads.pop(passed, None)
        self.held -= gone
        self.floor = max(self.floor, lsn)
        self.next = max(self.next, lsn)

    @rule(data=st.data(), weights=st.lists(st.integers(1, 2**32 - 1), max_size=200))
    def load(self, data: st.DataObject, weights: list[int]) -> None:
        first = data.draw(st.integers(max(1, self.low() - 3), self.next + 3))
        owner = data.draw(st.sampled_from(OWNERS))
        self.map.reserve_load(first + len(weights))
        self.map.load(first, array("I", weights).tobytes(), owner)
        for lsn, weight in enumerate(weights, first):
            if self.low() <= lsn < self.next and lsn not in self.acked:
                self.loads[lsn] = weight, owner

    @rule(data=st.data(), count=st.integers(0, 300))
    def unload(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.integers(max(0, self.low() - 3), self.next + 3))
        self.map.unload(first, first + count)
        for lsn in range(first, first + count):
            self.loads.pop(lsn, None)

    @rule()
    def drain(self) -> None:
        low = self.low()
        assert self.map.drain() == runs_of({lsn for lsn in self.fresh if lsn >= low})
        self.fresh.clear()
        self.since = 0

    @rule(low=st.integers(1, 5_000))
    def reset(self, low: int) -> None:
        self.map.reset(low)
        self.reset_model(low)

    @rule(data=st.data())
    def extract(self, data: st.DataObject) -> None:
        low = self.low()
        first = data.draw(st.integers(max(0, low - 5), self.next))
        end = data.draw(st.integers(first, self.next + 5))
        limit = data.draw(st.sampled_from([0, 1, 3, 255, 256, 257, 2**62]))
        span = set(range(max(first, low), min(end, self.next)))
        assert self.map.acked_runs(first, end, limit) == runs_of(span & self.acked)[:limit]
        assert self.map.unacked_runs(first, end, limit) == runs_of(span - self.acked)[:limit]
        assert self.map.held_runs(first, end, limit) == runs_of(span & self.held)[:limit]
        assert self.map.count_unacked(first, end) == len(span - self.acked)
        later = [lsn for lsn in range(max(first, low), self.next) if lsn not in self.acked]
        assert self.map.next_unacked(first) == min(later, default=self.next)

    @rule(data=st.data(), at=st.integers(1, 50))
    def attention(self, data: st.DataObject, at: int) -> None:
        self.map.attention(at)
        lsn = data.draw(st.integers(self.low(), max(self.low(), self.next - 1)))
        flags = self.map.ack(lsn)
        if self.model_ack(lsn) == AckFlag.NEW:
            assert bool(flags & AckFlag.ATTENTION) == (self.since >= at)
        self.map.attention(2**62)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "map"):
            return
        self.map.check_invariants()
        for owner in OWNERS:
            held = sum(weight for weight, of in self.loads.values() if of == owner)
            assert self.totals.of(owner) == held
        assert self.totals.of(0) == sum(weight for weight, _ in self.loads.values())
        low = self.low()
        live = {lsn for lsn in self.acked if lsn >= low}
        assert self.map.state == (
            self.origin,
            low,
            self.next,
            len(live),
            len({lsn for lsn in self.held if lsn >= low}),
            self.since,
        )


TestAckMap = AckMapMachine.TestCase


def test_what_was_counted_before_a_step_back_counts_nothing() -> None:
    """A subscription goes back to an earlier record, and its memory grows there."""
    acks, totals = AckMap(10_000, SPAN), Totals()
    acks.weigh(totals)
    totals.reserve(1)
    acks.advance(10_010, hold=False)
    acks.reserve_load(10_010)
    acks.load(10_000, array("I", [3] * 10).tobytes(), 1)
    acks.reset(1)
    assert totals.of(1) == 0
    acks.advance(200, hold=False)
    for first, weight in ((1, 7), (61, 5), (121, 2)):
        acks.reserve_load(first + 60)
        acks.load(first, array("I", [weight] * 60).tobytes(), 1)
    assert totals.of(1) == totals.of(0) == 60 * (7 + 5 + 2)


def test_many_single_runs_are_extracted_and_drained_whole() -> None:
    ackmap = AckMap(1, 10_000)
    ackmap.advance(5_001, hold=False)
    ackmap.ack_many(range(2, 5_001, 2))
    expected = [(lsn, lsn + 1) for lsn in range(2, 5_001, 2)]
    assert ackmap.acked_runs(1, 5_001) == expected
    assert ackmap.drain() == expected
    assert ackmap.drain() == []


@pytest.mark.parametrize("lsn", ["7", None, 1.0])
def test_a_wrong_type_is_refused_and_acks_nothing(lsn: object) -> None:
    ackmap = AckMap(1, 10_000)
    ackmap.advance(5_001, hold=False)
    with pytest.raises(TypeError):
        ackmap.ack(lsn)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ackmap.ack_many([*range(1, 3_000), lsn])  # type: ignore[list-item]
    assert ackmap.state.acked_since == 0


@pytest.mark.parametrize(("low", "span"), [(0, 1), (-1, 1), (2**62 + 1, 1), (1, 0), (1, 2**41)])
def test_limits_are_checked(low: int, span: int) -> None:
    with pytest.raises(ValueError, match="must be within"):
        AckMap(low, span)
