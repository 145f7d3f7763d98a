"""What a look at a store found, in words for the person who has to act on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hstreamlite._native import lib
from hstreamlite.errors import LostRecords

FOREIGN, MISPLACED, MISSING, RECORD, SUPERBLOCK, KIND = range(20, 26)
"""Faults that the file alone does not show; the others are those of `enum hsl_fault`."""

_WHAT = {
    lib.HSL_FAULT_SHORT: "file is shorter than a segment header",
    lib.HSL_FAULT_HEADER: "segment header does not match its checksum",
    lib.HSL_FAULT_FRAME: "no valid frame",
    lib.HSL_FAULT_CHAIN: "frame does not follow the one before it",
    lib.HSL_FAULT_BLOCK: "block does not match its checksum",
    lib.HSL_FAULT_BODY: "records do not decode, under a valid checksum",
    lib.HSL_FAULT_SEQUENCE: "block is out of place in its log",
    lib.HSL_FAULT_INDEX: "index checkpoint does not match its checksum",
    lib.HSL_FAULT_FOOTER: "footer does not match the segment",
    lib.HSL_FAULT_CUT: "file is shorter than it was",
    FOREIGN: "segment of another store",
    MISPLACED: "segment of another number",
    MISSING: "file is missing",
    RECORD: "record of the store's own logs cannot be applied",
    SUPERBLOCK: "no slot of the superblock matches its checksum",
    KIND: "something of another kind is in its place",
}
HARMLESS = frozenset({lib.HSL_FAULT_INDEX, lib.HSL_FAULT_FOOTER})
"""Faults of what is only derived: the records say the same."""


_ONWARD_SHOWN = 20
"""Of very many logs that may have gone on in one place the first few are shown."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Records [first, end) of a shard that cannot be read.

    `stream` None: the catalog names it no more. `sure` false: they may have been trimmed before.
    """

    stream: str | None
    shard: int
    first: int
    end: int
    sure: bool = True

    def __str__(self) -> str:
        last = self.end - 1
        ids = f"record {self.shard}-{self.first}"
        if last > self.first:
            ids = f"records {self.shard}-{self.first} to {self.shard}-{last}"
        unless = "" if self.sure else ", unless trimmed before"
        return f"{_whose(self.stream, self.shard)}: {ids} unreadable{unless}"

    def records(self) -> LostRecords:
        return LostRecords(self.shard, self.first, self.end - 1, self.stream or "")

    def facts(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "log": None,
            "shard": self.shard,
            "first": self.first,
            "last": self.end - 1,
            "sure": self.sure,
        }


@dataclass(frozen=True, slots=True)
class OwnLost:
    """Records [first, end) of one of the store's own logs that cannot be read."""

    log: str
    shard: int
    first: int
    end: int

    def __str__(self) -> str:
        return f"the store's own {self.log}: records {self.first} to {self.end - 1} unreadable"

    def records(self) -> LostRecords:
        return LostRecords(self.shard, self.first, self.end - 1)

    def facts(self) -> dict[str, Any]:
        return {
            "stream": None,
            "log": self.log,
            "shard": None,
            "first": self.first,
            "last": self.end - 1,
            "sure": True,
        }


@dataclass(frozen=True, slots=True)
class Onward:
    """Records from `first` on that a log may have had: nothing tells how far it went.

    `log` names one of the store's own; `stream` None beside no log: the catalog names it no more.
    """

    stream: str | None
    log: str | None
    shard: int
    first: int

    def __str__(self) -> str:
        if self.log is not None:
            return f"the store's own {self.log}: records from {self.first} on may be lost"
        ids = f"{self.shard}-{self.first}"
        return f"{_whose(self.stream, self.shard)}: records from {ids} on may be lost"

    def facts(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "log": self.log,
            "shard": self.shard if self.log is None else None,
            "first": self.first,
        }


def _whose(stream: str | None, shard: int) -> str:
    return f"stream of unknown name, shard {shard}" if stream is None else f"stream {stream!r}"


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [start, start + length) of a file that are not what was written, and what that costs.

    Ids count records from 1 in each shard. Nothing lost: derived data, or what could be told from
    elsewhere; `bounded` false: records may be lost that nothing names any more. `onward`: the logs
    of which that would be the end, as far as they are known.
    """

    path: str
    start: int
    length: int
    fault: int
    detail: str = ""
    lost: tuple[Lost | OwnLost, ...] = ()
    bounded: bool = True
    onward: tuple[Onward, ...] = ()

    @property
    def what(self) -> str:
        return _WHAT[self.fault] + (f": {self.detail}" if self.detail else "")

    @property
    def where(self) -> str:
        if self.length == 0:
            return f"{self.path} at byte {self.start}" if self.start else self.path
        return f"{self.path} bytes {self.start}-{self.start + self.length - 1}"

    def lines(self) -> Iterator[str]:
        """Yield a sentence for each range of records concerned."""
        for lost in self.lost:
            yield f"{lost}: {self.where}: {self.what}"
        for onward in self.onward[:_ONWARD_SHOWN]:
            yield f"{onward}: {self.where}: {self.what}"
        if len(self.onward) > _ONWARD_SHOWN:
            more = len(self.onward) - _ONWARD_SHOWN
            yield f"{self.where}: so it may be with {more} logs more, which --json names"
        if self.lost and not self.bounded:
            yield f"{self.where}: more records may be lost there than can be told"
        if not self.lost:
            cost = "no record is lost by it"
            if self.fault not in HARMLESS:
                cost = "no record is known to be lost by it"
            if not self.bounded:
                cost = "what it held cannot be told"
            yield f"{self.where}: {self.what}; {cost}"

    def facts(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "path": self.path,
            "offset": self.start,
            "length": self.length,
            "what": self.what,
            "bounded": self.bounded,
            "lost": [lost.facts() for lost in self.lost],
            "onward": [onward.facts() for onward in self.onward],
        }


class Unnamed(NamedTuple):
    """A stream that the catalog names no more, and the name that a salvage gives it."""

    shards: tuple[int, ...]
    name: str
    records: int

    def __str__(self) -> str:
        shards = ", ".join(str(shard) for shard in self.shards)
        which = f"shard {shards}" if len(self.shards) == 1 else f"shards {shards}"
        return f"{self.records} records of a stream of unknown name, {which}"


@dataclass(slots=True)
class CheckReport:
    """What a check found. `sound`: everything stored can be read as it was written.

    `records` are those kept: neither what is trimmed, though still there, nor of deleted streams.
    """

    path: str
    segments: int = 0
    bytes: int = 0
    blocks: int = 0
    records: int = 0
    streams: int = 0
    """Those counted without a name among them."""
    unnamed: list[Unnamed] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.damage

    @property
    def own_logs_sound(self) -> bool:
        """The catalog and its like are whole: what they do not name does not exist."""
        return not any(
            damage.fault in (RECORD, SUPERBLOCK)
            or not damage.bounded
            or any(isinstance(lost, OwnLost) for lost in damage.lost)
            or (damage.fault in (MISSING, KIND) and damage.path.endswith("/SUPER"))
            for damage in self.damage
        )

    def lines(self) -> Iterator[str]:
        """Yield the report as sentences for a person."""
        for damage in self.damage:
            yield from damage.lines()
        for note in self.notes:
            yield f"note: {note}"
        for unnamed in self.unnamed:
            yield f"note: {unnamed}; a salvage calls it {unnamed.name!r}"
        streams = f"{self.streams} streams"
        if self.unnamed:
            streams += f" ({len(self.unnamed)} of unknown name)"
        counts = (
            f"{self.segments} segments, {self.bytes} bytes, {self.records} records of {streams}"
        )
        if self.sound:
            yield f"{self.path}: sound; {counts} verified"
            return
        places = f"{len(self.damage)} places" if len(self.damage) > 1 else "one place"
        yield f"{self.path}: DAMAGED in {places}; {counts} verified"
        if all(damage.fault in HARMLESS for damage in self.damage):
            yield "Only indexes are damaged: a store rebuilds them from its records."
            return
        yield "Keep the files as they are. Restore a backup, or save what verifies with:"
        yield f"  hstreamlite salvage {self.path} NEW_DIRECTORY"

    def facts(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "path": self.path,
            "sound": self.sound,
            "segments": self.segments,
            "bytes": self.bytes,
            "blocks": self.blocks,
            "records": self.records,
            "streams": self.streams,
            "unnamed": [
                {"shards": list(each.shards), "name": each.name, "records": each.records}
                for each in self.unnamed
            ],
            "damage": [damage.facts() for damage in self.damage],
            "notes": self.notes,
        }
