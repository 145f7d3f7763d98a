"""Comparing what a store holds with the files it came from."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, cast

import hstreamlite as hs
from hstreamlite.demo.dataset import Table
from hstreamlite.demo.delays import DelaySums

_KEYS_READ = 3


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


def check_keys(stream: hs.Stream, table: Table, chance: random.Random) -> Check:
    """Read some keys alone, and compare their records with their rows."""
    rows: dict[str | None, list[object]] = {}
    for key, payload in table.records():
        rows.setdefault(key, []).append(payload)
    rows.pop(None, None)
    keys = chance.sample(sorted(filter(None, rows)), min(_KEYS_READ, len(rows)))
    wrong = [
        key for key in keys if [record.payload for record in stream.read(key=key)] != rows[key]
    ]
    claim = f"{table.name}: reading one {table.key_field} gives all its rows in their order"
    facts = f"wrong for {', '.join(wrong)}" if wrong else f"read {', '.join(keys)} of {len(rows):,}"
    return Check(claim, not wrong, facts)


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


def check_sums(streamed: DelaySums, batch: DelaySums) -> Check:
    """Check that the streamed result is the one computed from the files."""
    facts = (
        f"{len(streamed.means())} means of {streamed.flights:,} delays; {batch.flights:,} in files"
    )
    return Check("mean delays equal to those computed from the files", streamed == batch, facts)


def _difference(stream: hs.Stream, table: Table) -> str:
    """Say how a stream differs from its table."""
    expected = Counter(_content(key, payload) for key, payload in table.records())
    found = Counter(_content(record.key, record.payload) for record in stream.read())
    missing, surplus = expected - found, found - expected
    if not missing and not surplus:
        return "every row once, but not in event order"
    examples = chain((f"row {row}" for row in missing), (f"record {record}" for record in surplus))
    return (
        f"{missing.total():,} rows missing, {surplus.total():,} records too many, "
        f"first: {next(examples)}"
    )


def _content(key: str | None, payload: object) -> tuple[str | None, object]:
    """Return an equal, hashable value for equal records."""
    return key, tuple(sorted(payload.items())) if isinstance(payload, dict) else payload
