"""How many records a consumer asks for, against a model that looks back at all that happened."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from hstreamlite._native import fast
from hstreamlite.remote.pace import AHEAD_BYTES_MAX, AHEAD_MAX, PATIENCE_SECONDS, Pace
from hstreamlite.remote.stock import Stock
from tests import effort

PAUSES = st.sampled_from([0.0, 0.001, 0.02, 0.03, 0.06, 0.2])
WANTED = st.sampled_from([1, 10, 10, 10, 100, 1000, 5000])


class Calls(RuleBasedStateMachine):
    """Calls of one consumer: what each wanted, and what came when."""

    @initialize(most=st.sampled_from([0, 5, 1250, 10_000]), timeout=st.sampled_from([0.1, 60.0]))
    def start(self, most: int, timeout: float) -> None:
        self.pace, self.most = Pace(timeout, most), min(most, AHEAD_MAX)
        self.patience = min(PATIENCE_SECONDS, timeout / 10)
        self.now = 1000.0
        self.streak = 0
        self.last: tuple[int, float, int, float] | None = None
        self.asked: int | None = None
        self.ahead = 0

    @rule(pause=PAUSES, wanted=WANTED, settled=st.sampled_from([True, True, True, False]))
    def ask(self, pause: float, wanted: int, settled: bool) -> None:
        self.now += pause
        found = self.pace.ask(self.now, wanted, settled=settled)
        assert found == self._expected(wanted, settled)
        self.last, self.asked, self.wanted = None, found, wanted

    def _expected(self, wanted: int, settled: bool) -> int:
        if self.last is None:
            self.streak = 0
            return wanted
        before, at, came, each = self.last
        took = self.now - at
        if not settled or took > self.patience / 2 or wanted != before or came < before:
            self.streak = 0
            return wanted
        self.streak += 1
        if self.streak < 3:
            return wanted
        quickly = 2 if took <= self.patience / 4 else 1
        most = min(self.most, int(AHEAD_BYTES_MAX / each))
        return max(wanted, min(quickly * came, most))

    @rule(pause=PAUSES, part=st.sampled_from([1.0, 1.0, 1.0, 0.5]), each=st.integers(1, 2 << 20))
    def answer(self, pause: float, part: float, each: int) -> None:
        if self.asked is None:
            return
        self.now += pause
        records = max(1, int(self.asked * part))
        self.pace.came(self.now, records, records * each)
        self.last, self.asked = (self.wanted, self.now, records, each), None

    @rule(
        times=st.integers(1, 8),
        pause=st.sampled_from([0.0, 0.0, 0.03, 0.003]),
        wanted=WANTED,
        each=st.sampled_from([1, 100, 10_000]),
    )
    def work_off(self, times: int, pause: float, wanted: int, each: int) -> None:
        for _ in range(times):
            self.ask(pause, wanted, settled=True)
            self.answer(0.0, 1.0, each)

    @rule(pause=PAUSES)
    def lie(self, pause: float) -> None:
        self.now += pause
        if self.last is not None and self.pace.left(self.now) <= 0:
            assert self.now - self.last[1] >= self.patience - 1e-9
            self.pace.slack()
            self.last = None


def test_what_is_asked_for_is_what_was_worked_off_at_once() -> None:
    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=effort.of(60, brief=15, nightly=600), stateful_step_count=40, deadline=None
        ),
    )


@given(st.lists(st.tuples(st.sampled_from(["came", "in pieces", "taken"]), st.integers(1, 9))))
def test_what_came_is_handed_over_once_and_in_its_order(steps: list[tuple[str, int]]) -> None:
    stock, owner, came = Stock(), object(), 0
    lies: list[int] = []
    for what, count in steps:
        if what == "taken":
            batch = stock.take(count, owner)
            assert [delivery.id.lsn for delivery in batch] == lies[: len(batch)]
            assert batch.spans == ([(7, lies[0], lies[len(batch) - 1] + 1)] if batch else [])
            assert len(batch) <= count
            assert bool(batch) == bool(lies)
            del lies[: len(batch)]
        else:
            excerpt = fast.Excerpt()
            body = fast.encode_batch([b"x"] * count)
            excerpt.add(body, 7, came + 1, 0, 0, count, 5, 1)
            stock.add(excerpt if what == "came" else list(excerpt.batch(0, count, owner)))
            lies += range(came + 1, came + 1 + count)
            came += count
        assert bool(stock) == bool(lies)
    assert [delivery.id.lsn for delivery in stock.clear()] == lies
    assert not stock
