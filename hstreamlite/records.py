"""Records, their ids, and their deliveries: the values that go into a store and come out of it.

They are made in C, because reading makes millions of them a second; this module is their public
face. All are immutable. ``RecordId``, ``Record`` and ``RecordIds`` can be pickled; a pickled
``Delivery`` is the plain ``Record``, since its lease belongs to the consumer that received it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Protocol, TypeAlias, overload

from hstreamlite._native._lib import Delivery, DeliveryBatch, Record, RecordId

__all__ = [
    "Delivery",
    "DeliveryBatch",
    "JsonObject",
    "Payload",
    "Record",
    "RecordId",
    "RecordIds",
    "Run",
]
Sequence.register(DeliveryBatch)

JsonObject: TypeAlias = dict[str, Any]
"""A dict that JSON can hold: str keys, finite numbers, integers up to 2**53, nested 32 deep."""


class DataclassInstance(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class StructInstance(Protocol):
    """An instance of any msgspec.Struct."""

    __struct_fields__: ClassVar[tuple[str, ...]]


Payload: TypeAlias = (
    bytes | bytearray | memoryview | JsonObject | DataclassInstance | StructInstance
)
"""What a record carries: bytes, or a JSON object, which the fields of an instance make too."""

Run: TypeAlias = tuple[int, int, int]
"""Shard id, batch id and number of records of one batch."""


class RecordIds(Sequence[RecordId]):
    """The ids of many records, in the order they were appended; each is made when asked for.

    ``runs`` are the batches. Without ``order`` the ids are those of the first batch, then of the
    second, and so on; with it, ``order[i]`` is the number of the run that holds record ``i``, and
    the records of a run are numbered as they come.

    >>> ids = RecordIds([(1, 5, 2), (2, 9, 1)])
    >>> ids[0], ids[-1], len(ids)
    (RecordId('1-5-0'), RecordId('2-9-0'), 3)
    """

    __slots__ = ("_ends", "_order", "_places", "_runs")

    def __init__(self, runs: Iterable[Run], order: Iterable[int] | None = None) -> None:
        self._runs = tuple(runs)
        self._order = None if order is None else array("L", order)
        self._places: array[int] | None = None
        self._ends: list[int] | None = None
        if self._order is not None:
            named = Counter(self._order)
            if named != Counter({run: count for run, (_, _, count) in enumerate(self._runs)}):
                raise ValueError("order must name each run once for each of its records")

    def __len__(self) -> int:
        return sum([count for _, _, count in self._runs])

    @overload
    def __getitem__(self, index: int) -> RecordId: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RecordId, ...]: ...

    def __getitem__(self, index: int | slice) -> RecordId | tuple[RecordId, ...]:
        if isinstance(index, slice):
            return tuple(self._at(i) for i in range(*index.indices(len(self))))
        try:
            return self._at(range(len(self))[index])
        except IndexError:
            raise IndexError(f"no record {index} among {len(self)} ids") from None

    def __iter__(self) -> Iterator[RecordId]:
        if self._order is None:
            for shard, batch, count in self._runs:
                for index in range(count):
                    yield RecordId(shard, batch, index)
        else:
            for i in range(len(self)):
                yield self._at(i)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (RecordIds, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        if len(self) <= 3:
            return f"RecordIds([{', '.join(str(i) for i in self)}])"
        return f"RecordIds([{self[0]}, {self[1]}, ... {self[-1]}], {len(self)} ids)"

    def __reduce__(self) -> tuple[type[RecordIds], tuple[object, ...]]:
        return RecordIds, (self._runs, self._order)

    def _at(self, i: int) -> RecordId:
        if self._order is None:
            if self._ends is None:
                self._ends = list(accumulate(count for _, _, count in self._runs))
            run = bisect_right(self._ends, i)
            shard, batch, count = self._runs[run]
            return RecordId(shard, batch, i - (self._ends[run] - count))
        if self._places is None:
            self._places = _places(self._order, len(self._runs))
        shard, batch, _ = self._runs[self._order[i]]
        return RecordId(shard, batch, self._places[i])


def _places(order: Iterable[int], runs: int) -> array[int]:
    """Number the records of each run in the order they come."""
    counts = [0] * runs
    places = array("L")
    for run in order:
        places.append(counts[run])
        counts[run] += 1
    return places
