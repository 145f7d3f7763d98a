"""Comparing what a store holds with the files it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, cast

import hstreamlite as hs
from hstreamlite.demo.dataset import Table, Value
from hstreamlite.demo.delays import DelaySums


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, whether it holds, and the facts on which that rests."""

    claim: str
    holds: bool
    facts: str


@dataclass(frozen=True, slots=True)
class Committed:
    """What the consumers have committed, in the order of their transactions."""

    flights: list[int]
    """Numbers of the flights counted."""
    sums: DelaySums
    after_kill: int
    """Flights that were delivered again because the process of their consumer was killed."""
    after_timeout: int
    """Flights that were delivered again because they were not acked in time."""

    @classmethod
    def of(cls, records: Iterable[hs.Record]) -> Committed:
        """Add up the records of partial sums."""
        flights: list[int] = []
        sums = DelaySums()
        after_kill = after_timeout = 0
        for record in records:
            partial = cast("dict[str, Any]", record.payload)
            flights += partial["flights"]
            for row in partial["sums"]:
                sums.add(*row)
            after_kill += partial["after_kill"]
            after_timeout += partial["after_timeout"]
        return cls(flights, sums, after_kill, after_timeout)


def check_stream(stream: hs.Stream, table: Table) -> Check:
    """Compare a stream with its table: each row once, the same content and key, in event order."""
    claim = f"{table.name}: every row stored exactly once, unchanged, in event order"
    for record, expected in zip_longest(stream.read(), table.records()):
        if record is None or (record.key, record.payload) != expected:
            return Check(claim, False, _difference(stream, table))
    return Check(claim, True, f"{len(table):,} of {len(table):,} rows")


def check_losses(lost: int, durability: hs.Durability) -> Check:
    """Check that kills took nothing of what a worker had reported as safe; "memory" may lose."""
    if durability == "memory":
        return Check("records lost were written again", True, f"{lost:,} of level memory lost")
    return Check("no acknowledged record lost by a kill", not lost, f"{lost:,} lost")


def check_counted_once(counted: Sequence[int], flights: Table) -> Check:
    """Check that committed batches cover each flight, and none twice."""
    claim = "every flight counted in exactly one committed batch"
    times = Counter(counted)
    missing = sum(1 for number in range(1, len(flights) + 1) if number not in times)
    repeated = len(counted) - len(times)
    facts = f"{len(times):,} flights, {missing:,} missing, {repeated:,} counted again"
    return Check(claim, not missing and not repeated and len(times) == len(flights), facts)


def check_key_order(counted: Sequence[int], flights: Table) -> Check:
    """Check that the flights of each aircraft were committed in the order they were written."""
    keys = flights.column(flights.key_field)
    newest: dict[Value, int] = {}
    late = 0
    for number in counted:
        key = keys[number - 1] if number <= len(keys) else None
        if key is None:
            continue
        late += newest.get(key, 0) > number
        newest[key] = number
    facts = f"{len(newest):,} tail numbers, {late:,} flights out of order"
    return Check("flights of each tail number counted in their order", not late, facts)


def check_sums(streamed: DelaySums, batch: DelaySums) -> Check:
    """Check that the streamed result is the one computed from the files."""
    facts = (
        f"{len(streamed.means())} means of {streamed.flights:,} delays; {batch.flights:,} in files"
    )
    return Check("mean delays equal to those computed from the files", streamed == batch, facts)


def _difference(stream: hs.Stream, table: Table) -> str:
    """Say how a stream differs from its table."""
    expected = Counter(_text(key, payload) for key, payload in table.records())
    found = Counter(_text(record.key, record.payload) for record in stream.read())
    missing, surplus = expected - found, found - expected
    if not missing and not surplus:
        return "every row once, but not in event order"
    examples = chain((f"row {text}" for text in missing), (f"record {text}" for text in surplus))
    return (
        f"{missing.total():,} rows missing, {surplus.total():,} records too many, "
        f"first: {next(examples)}"
    )


def _text(key: str | None, payload: object) -> str:
    """Return the same text for the same record, in whatever order its fields are."""
    fields = sorted(payload.items()) if isinstance(payload, dict) else payload
    return f"{key}: {fields}"
