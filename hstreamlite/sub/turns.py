"""Turns: which of the deliveries that a consumer has taken may be handled now.

Pure: deliveries go in as they come, and each call of `begin` gives the next to be handled. In key
order the deliveries of one key take turns, in the order of the log; those without a key, and all
where order does not count, begin in the order they came.

A delivery that comes behind later ones of its key, or itself, means that the subscription took
these back, and sends them again: those turns are void. So are those that `drop` names, when a
delivery before them is given back.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turn(Generic[T]):
    """One delivery, and where it stands: its place in the log, and its key if that counts.

    Its deadline was set at ``since``.
    """

    __slots__ = ("item", "key", "place", "since", "void")

    def __init__(self, item: T, place: int, key: str | None, since: int) -> None:
        self.item = item
        self.place = place
        self.key = key
        self.since = since
        self.void = False


class Turns(Generic[T]):
    """The deliveries that wait, and how many are being handled.

    ``ready`` may begin now; ``waiting`` counts them, and those behind another of their key;
    ``running`` have begun and not ended.
    """

    def __init__(self, *, by_key: bool) -> None:
        self.ready = 0
        self.waiting = 0
        self.running = 0
        self._by_key = by_key
        self._queue: deque[Turn[T]] = deque()
        self._lanes: dict[str, deque[Turn[T]]] = {}
        self._busy: set[str] = set()

    def add(self, item: T, place: int, key: str | None, since: int = 0) -> None:
        """Let a delivery wait for its turn."""
        turn = Turn(item, place, key if self._by_key else None, since)
        self.waiting += 1
        if turn.key is None:
            self._make_ready(turn)
            return
        waits = self._lanes.get(turn.key)
        if waits:
            self._void(waits, place)
        lane = self._lanes.setdefault(turn.key, deque())
        lane.append(turn)
        if len(lane) == 1 and turn.key not in self._busy:
            self._make_ready(turn)

    def begin(self) -> Turn[T] | None:
        """Return what is to be handled next, or None if nothing may begin now."""
        while self._queue:
            turn = self._queue.popleft()
            if turn.void:
                continue
            if turn.key is not None:
                self._lanes[turn.key].popleft()
                self._busy.add(turn.key)
            self.ready -= 1
            self.waiting -= 1
            self.running += 1
            return turn
        return None

    def end(self, turn: Turn[T]) -> None:
        """Note that a delivery was handled: the next of its key may begin."""
        self.running -= 1
        if turn.key is None:
            return
        self._busy.remove(turn.key)
        lane = self._lanes[turn.key]
        if lane:
            self._make_ready(lane[0])
        else:
            del self._lanes[turn.key]

    def behind(self, turn: Turn[T]) -> list[Turn[T]]:
        """Return what waits behind one that has begun, for its key."""
        return list(self._lanes[turn.key]) if turn.key is not None else []

    def drop(self, key: str | None) -> list[T]:
        """Remove and return what waits of a key whose order counts."""
        lane = self._lanes.get(key) if key is not None else None
        return self._void(lane) if lane else []

    def clear(self) -> list[T]:
        """Remove and return all that waits, in the order it came for each key."""
        left = [turn.item for turn in self._queue if turn.key is None]
        for lane in list(self._lanes.values()):
            left += self._void(lane) if lane else []
        self._queue.clear()
        self.ready = self.waiting = 0
        return left

    def _make_ready(self, turn: Turn[T]) -> None:
        self.ready += 1
        self._queue.append(turn)

    def _void(self, lane: deque[Turn[T]], place: int = 0) -> list[T]:
        """Remove and return what waits of a key from a place on."""
        items: list[T] = []
        key = lane[0].key
        while lane and lane[-1].place >= place:
            turn = lane.pop()
            turn.void = True
            items.append(turn.item)
        self.waiting -= len(items)
        if not lane and key is not None and key not in self._busy:
            self.ready -= 1
            del self._lanes[key]
        return items[::-1]

    def check_invariants(self) -> None:
        live = [turn for turn in self._queue if not turn.void]
        assert self.ready == len(live)
        assert self.waiting == sum(turn.key is None for turn in live) + sum(
            map(len, self._lanes.values())
        )
        assert self._busy <= set(self._lanes)
        assert self.running >= len(self._busy)
        for key, lane in self._lanes.items():
            assert lane or key in self._busy
            assert all(a.place < b.place for a, b in zip(lane, list(lane)[1:], strict=False))
            queued = [turn for turn in live if turn.key == key]
            assert queued == ([] if key in self._busy else [lane[0]])
