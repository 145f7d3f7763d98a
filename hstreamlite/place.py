"""Places in a stream: what reading, trimming and subscriptions start from."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from hstreamlite.records import RecordId


class Position:
    """A named place in a stream."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"hstreamlite.{self.name}"


EARLIEST: Final = Position("EARLIEST")
"""The first record kept."""
LATEST: Final = Position("LATEST")
"""Behind the last record that is durable now."""

Place = Position | RecordId | datetime
"""What names a place in a stream: EARLIEST, LATEST, a record id, an aware datetime."""


def check_place(name: str, place: object) -> Place:
    """Return a place; TypeError or ValueError naming the argument for anything else."""
    if isinstance(place, datetime):
        if place.tzinfo is None:
            raise ValueError(f"{name} must be an aware datetime, not the naive {place}")
        return place
    if isinstance(place, (RecordId, Position)):
        return place
    why = ": tail() is None while a stream keeps no record" if place is None else ""
    raise TypeError(
        f"{name} must be EARLIEST, LATEST, a RecordId or a datetime, not "
        f"{type(place).__name__}{why}"
    )
