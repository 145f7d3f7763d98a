"""Who is there: the consumers of a group, and until when those that may go without a word.

A consumer in this process leaves by saying so. One behind a network may be gone and say nothing, so
it has a lease: it counts as there until it was not heard of for so long. A lease that has run out
cannot be renewed: what its consumer held is somebody else's by then.
"""

from collections.abc import Iterator

from sortedcontainers import SortedSet


class Presence:
    """The attached consumers, in the order in which they came."""

    def __init__(self) -> None:
        self._leases: dict[str, int | None] = {}
        self._ends: dict[str, int] = {}
        self._by_end: SortedSet[tuple[int, str]] = SortedSet()

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[str]:
        return iter(self._leases)

    def __contains__(self, consumer: object) -> bool:
        return consumer in self._leases

    def enter(self, consumer: str, lease_ns: int | None, now: int) -> None:
        """Add a consumer, whose lease begins now if it has one."""
        self._leases[consumer] = lease_ns
        self.renew(consumer, now)

    def renew(self, consumer: str, now: int) -> int | None:
        """Let the consumer's lease begin anew; return when it runs out, None if it has none."""
        lease_ns = self._leases[consumer]
        if lease_ns is None:
            return None
        self._forget_end(consumer)
        end = self._ends[consumer] = now + lease_ns
        self._by_end.add((end, consumer))
        return end

    def mend(self) -> None:
        """Order what ends anew, after a call was struck amid it."""
        self._ends = {consumer: end for consumer, end in self._ends.items() if consumer in self}
        self._by_end = SortedSet((end, consumer) for consumer, end in self._ends.items())

    def leave(self, consumer: str) -> None:
        self._forget_end(consumer)
        del self._leases[consumer]

    def _forget_end(self, consumer: str) -> None:
        end = self._ends.pop(consumer, None)
        if end is not None:
            self._by_end.remove((end, consumer))

    def next_end(self) -> int | None:
        """Return when the first lease runs out."""
        return self._by_end[0][0] if self._by_end else None

    def gone(self, now: int) -> list[str]:
        """Return the consumers whose leases have run out, the first of them first."""
        found = []
        for end, consumer in self._by_end:
            if end > now:
                break
            found.append(consumer)
        return found

    def check_invariants(self) -> None:
        assert {consumer: end for end, consumer in self._by_end} == self._ends
        leased = {consumer for consumer, lease_ns in self._leases.items() if lease_ns is not None}
        assert set(self._ends) == leased
