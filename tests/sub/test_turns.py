"""Turns against a subscription that hands out, takes back and sends again as it likes."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hstreamlite.sub.turns import Turn, Turns

KEYS = ("a", "b", "c")
each_key = st.sampled_from(KEYS)


@dataclass(eq=False)
class Sent:
    """One delivery of a record; void once the subscription took it back."""

    key: str | None
    place: int
    held: bool = True


@dataclass
class Log:
    """What the subscription knows of one key: which records are acked, and which are out."""

    acked: set[int] = field(default_factory=set)
    out: dict[int, Sent] = field(default_factory=dict)
    next: int = 1

    def take_back(self, place: int) -> None:
        for at in [at for at in self.out if at >= place]:
            self.out.pop(at).held = False
        self.next = min(self.next, place)


class KeyOrder(RuleBasedStateMachine):
    """What is no longer held when its turn comes is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[Sent] = Turns(by_key=True)
        self.logs = {key: Log() for key in KEYS}
        self.running: list[Turn[Sent]] = []
        self.keyless_sent = 0
        self.keyless_begun: list[int] = []

    @rule(key=each_key, count=st.integers(1, 4))
    def deliver(self, key: str, count: int) -> None:
        log = self.logs[key]
        for _ in range(count):
            while log.next in log.acked:
                log.next += 1
            sent = log.out[log.next] = Sent(key, log.next)
            self.turns.add(sent, log.next, key)
            log.next += 1

    @rule()
    def deliver_without_a_key(self) -> None:
        self.keyless_sent += 1
        self.turns.add(Sent(None, self.keyless_sent), self.keyless_sent, None)

    @rule(key=each_key, back=st.integers(0, 5))
    def take_back(self, key: str, back: int) -> None:
        """A deadline passed, or somebody sought back: nobody tells the one who waits."""
        log = self.logs[key]
        if log.out:
            log.take_back(max(min(log.out), log.next - back))

    @precondition(lambda self: self.turns.ready)
    @rule()
    def begin(self) -> None:
        turn = self.turns.begin()
        assert turn is not None
        sent = turn.item
        assert sent.key not in [r.item.key for r in self.running if r.item.key is not None]
        if sent.key is None:
            self.keyless_begun.append(sent.place)
        elif sent.place not in self.logs[sent.key].out:
            self.turns.end(turn)
            return
        else:
            assert sent.held, "what was taken back is handled beside what was sent instead"
            older = set(range(1, sent.place))
            assert older <= self.logs[sent.key].acked, "handled before what precedes it"
        self.running.append(turn)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        turn = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        sent = turn.item
        if sent.key is not None:
            self.logs[sent.key].acked.add(sent.place)
            self.logs[sent.key].out.pop(sent.place, None)
        self.turns.end(turn)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        turn = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        dropped = self.turns.drop(turn.key)
        if turn.key is not None:
            log = self.logs[turn.key]
            for sent in [*dropped, turn.item]:
                if sent.place in log.out:
                    log.take_back(sent.place)
        self.turns.end(turn)

    @rule()
    def clear(self) -> None:
        waited = self.turns.waiting
        left = self.turns.clear()
        assert len(left) == waited
        for sent in left:
            if sent.key is not None and sent.place in self.logs[sent.key].out:
                self.logs[sent.key].take_back(sent.place)

    @precondition(lambda self: not self.running)
    @rule()
    def handle_all(self) -> None:
        """Nothing is left waiting for ever."""
        for key in KEYS:
            self.logs[key].take_back(1)
            self.deliver(key, 1)
        while self.turns.ready:
            self.begin()
            while self.running:
                self.running, ended = [], self.running
                for turn in ended:
                    self.running = [turn]
                    if turn.key is not None:
                        self.logs[turn.key].acked.add(turn.item.place)
                        self.logs[turn.key].out.pop(turn.item.place, None)
                    self.turns.end(self.running.pop())
        assert self.turns.waiting == 0

    @invariant()
    def consistent(self) -> None:
        self.turns.check_invariants()
        assert self.turns.running == len(self.running)
        assert self.keyless_begun == sorted(self.keyless_begun)


TestKeyOrder = KeyOrder.TestCase


def test_where_order_does_not_count_keys_do_not_wait_for_each_other() -> None:
    turns: Turns[int] = Turns(by_key=False)
    for place in range(5):
        turns.add(place, place, "k")
    turns.add(0, 0, "k")
    begun = [turns.begin() for _ in range(6)]
    assert [turn.item for turn in begun if turn] == [0, 1, 2, 3, 4, 0]
    assert turns.begin() is None
    assert (turns.ready, turns.waiting, turns.running) == (0, 0, 6)
    assert turns.drop("k") == []


def test_a_key_that_is_handled_lets_others_pass() -> None:
    turns: Turns[str] = Turns(by_key=True)
    for place, key in enumerate("aaab"):
        turns.add(f"{key}{place}", place, key)
    first, second = turns.begin(), turns.begin()
    assert first is not None
    assert second is not None
    assert (first.item, second.item) == ("a0", "b3")
    assert (turns.begin(), turns.ready, turns.waiting) == (None, 0, 2)
    turns.end(first)
    third = turns.begin()
    assert third is not None
    assert third.item == "a1"
    assert turns.drop("a") == ["a2"]


def test_one_that_comes_again_does_not_void_what_lies_before_it() -> None:
    turns: Turns[str] = Turns(by_key=True)
    for item, place in (("one", 1), ("two", 2), ("three", 3), ("two again", 2)):
        turns.add(item, place, "a")
    begun = []
    while turn := turns.begin():
        begun.append(turn.item)
        turns.end(turn)
    assert begun == ["one", "two again"]
    assert turns.waiting == 0
