"""Numbers by which native tables know the consumers of a group.

From 1 on, and as low as may be: the tables are as long as the highest. 0 is nobody. What a signal's
handler that raises leaves amid a call may be a number that nobody has, never one that two have.
"""


class Numbering:
    """The numbers of the consumers of one group."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.names: list[str] = [""]
        """By number who has it, or had it last."""
        self._free: list[int] = []

    def give(self, consumer: str) -> int:
        """Return the number of a consumer, a new one if it has none."""
        number = self.of(consumer)
        if not number:
            if not self._free:
                self.names.append("")
                self._free.append(len(self.names) - 1)
            number = self._free.pop()
            self.names[number] = consumer
            self._numbers[consumer] = number
        return number

    def of(self, consumer: str) -> int:
        """Return the number of a consumer, 0 if it has none."""
        return self._numbers.get(consumer, 0)

    def take_back(self, consumer: str) -> None:
        """Let another have the number of a consumer, which nothing knows by it any more."""
        number = self._numbers.pop(consumer, 0)
        if number:
            self._free.append(number)

    def check_invariants(self) -> None:
        known = [*self._numbers.values(), *self._free]
        assert len(set(known)) == len(known)
        assert set(known) <= {*range(1, len(self.names))}
        assert all(self.names[number] == name for name, number in self._numbers.items())
