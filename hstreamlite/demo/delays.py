"""Departure delays summed by airport and hour: what the demo computes twice.

The sums are integers (minutes and flights), so that adding them in any order and grouping gives the
same result, and two computations can be compared for equality. A cancelled flight has no delay and
counts nowhere.
"""

from __future__ import annotations

from typing import TypeAlias

from hstreamlite.demo.dataset import Table, Value

Cell: TypeAlias = tuple[str, int]
"""Airport of origin and local hour of the scheduled departure."""


class DelaySums:
    """Minutes of delay and number of flights of each airport and hour. Mutable, so not hashable."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[Cell, list[int]] = {}

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self._sums == other._sums if isinstance(other, DelaySums) else NotImplemented

    def __repr__(self) -> str:
        return f"DelaySums({self.flights} flights in {len(self._sums)} cells)"

    @property
    def flights(self) -> int:
        """Number of flights that left, and so have a delay."""
        return sum(flights for _, flights in self._sums.values())

    def add(self, origin: str, hour: int, minutes: int, flights: int = 1) -> None:
        """Add flights and the sum of their delays."""
        try:
            cell = self._sums[origin, hour]
        except KeyError:
            cell = self._sums[origin, hour] = [0, 0]
        cell[0] += minutes
        cell[1] += flights

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Return airport, hour, minutes and flights of each cell, as `add` takes them."""
        return [(*cell, minutes, flights) for cell, (minutes, flights) in self._sums.items()]

    def means(self) -> dict[Cell, float]:
        """Return the mean delay in minutes, ordered by airport and hour."""
        return {cell: minutes / flights for cell, (minutes, flights) in sorted(self._sums.items())}


def batch_delays(flights: Table) -> DelaySums:
    """Sum the delays of a table directly: the result that the streamed one must equal."""
    sums = DelaySums()
    columns = (flights.column(field) for field in ("origin", "hour", "dep_delay"))
    for origin, hour, delay in zip(*columns, strict=True):
        if delay is not None:
            sums.add(str(origin), _integer(hour), _integer(delay))
    return sums


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an int")
    return value
