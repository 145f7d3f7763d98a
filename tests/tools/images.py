"""Images of stores to damage, with what an independent reader says of each."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

from hypothesis import strategies as st

from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness
from tests.log import format_reader
from tests.log.scripted import batch, fresh, must
from tests.log.test_recovery_states import closed_store, crashed_store

Kind = Literal["closed", "crashed", "regrouped"]
KINDS: tuple[Kind, ...] = ("closed", "crashed", "regrouped")


class Stored(NamedTuple):
    """A block in a file."""

    path: str
    start: int
    end: int
    shard: int
    first: int
    last: int


class Image(NamedTuple):
    origin: Witness
    files: dict[str, bytes]
    blocks: tuple[Stored, ...]
    records: dict[tuple[int, int], tuple[str, bytes]]
    """Key and payload of each kept record of a stream, by shard and LSN."""


class Injury(NamedTuple):
    """What is done to bytes [start, end) of a file."""

    kind: Literal["flip", "zero", "cut"]
    path: str
    start: int
    end: int


def regrouped_store() -> Witness:
    """Four streams scattered over segments, of which most were written anew, sorted by log."""
    w = fresh()
    names = ("a", "b", "c", "d")
    for name in names:
        must(w.create(name))
    for number in range(12):
        for name in names:
            must(w.append(name, batch(f"{name}{number}", 4, 1500)))
    must(w.trim("b", w.store.stream("b").tail()))
    w.restart("close")
    w.store.compact()
    must(w.append("a", batch("newest", 2, 500)))
    w.restart("close", reopen=False)
    return w


def segments(env: SimEnv) -> list[str]:
    return [path for path in env.disk.walk("/db") if path.endswith(".seg")]


def replaced() -> SimEnv:
    """What a segment of level 1 stands for was not unlinked before the power went."""
    w = fresh()
    for name in "abcd":
        must(w.create(name))
    for number in range(12):
        for name in "abcd":
            must(w.append(name, batch(f"{name}{number}", 4, 1500)))
    w.restart("close")
    disk, before = w.env.disk, segments(w.env)
    for number, path in enumerate(before):
        disk.copy_raw(path, f"/aside{number}")
    w.store.compact()
    w.restart("close", reopen=False)
    gone = set(before) - set(segments(w.env))
    for number, path in enumerate(before):
        if path in gone:
            disk.copy_raw(f"/aside{number}", path)
    env = w.env
    numbers = [int(path[-20:-4], 16) for path in segments(env)]
    assert min(numbers) < LEVEL_1 <= max(numbers)
    return env


@functools.cache
def image(kind: Kind) -> Image:
    makers = {"closed": closed_store, "crashed": crashed_store, "regrouped": regrouped_store}
    origin = makers[kind]()
    disk = origin.env.disk
    files = {path: disk.read_all(path) for path in disk.walk("/db")}
    store = format_reader.read_store({path.removeprefix("/db/"): files[path] for path in files})
    state = format_reader.read_state(store)
    blocks = [
        Stored(
            f"/db/segments/{segment.number:016x}.seg",
            row.off8 * 8,
            row.off8 * 8 + row.length,
            row.shard,
            row.seq,
            row.seq + row.records - 1,
        )
        for segment in store.segments
        for row, _ in segment.blocks
    ]
    shards = [shard for stream in state.streams.values() for shard in stream.shards]
    records = {
        (shard, entry.batch + entry.index): (entry.key, entry.payload)
        for shard in shards
        for entry in store.records(shard, state.trims.get(shard, 1))
    }
    return Image(origin, files, tuple(blocks), records)


def damaged(of: Image, injuries: list[Injury]) -> Witness:
    w = of.origin.branch(of.origin.env.clone())
    for injury in injuries:
        size = len(w.env.disk.read_all(injury.path))
        if injury.kind == "flip" and injury.start < size:
            w.env.disk.flip(injury.path, injury.start * 8 + injury.end % 8)
        elif injury.kind == "zero" and injury.start < size:
            length = min(injury.end, size) - injury.start
            w.env.disk.zero_range(injury.path, injury.start, length)
        elif injury.kind == "cut":
            w.env.disk.truncate_raw(injury.path, min(injury.start, size))
    return w


def touched(of: Image, w: Witness) -> set[tuple[int, int]]:
    """Return shard and LSN of every record in a block of which a byte is not what it was."""
    now = {path: w.env.disk.read_all(path) for path in of.files}
    out: set[tuple[int, int]] = set()
    for block in of.blocks:
        place = slice(block.start, block.end)
        if now[block.path][place] != of.files[block.path][place]:
            out.update((block.shard, lsn) for lsn in range(block.first, block.last + 1))
    return out


@st.composite
def injuries(draw: st.DrawFn, of: Image, most: int = 3) -> list[Injury]:
    """One to `most` injuries of segment files, near what is stored rather than anywhere."""
    paths = sorted(path for path in of.files if path.endswith(".seg"))
    count = draw(st.integers(1, most))
    return [_injury(draw, of, draw(st.sampled_from(paths))) for _ in range(count)]


def _injury(draw: st.DrawFn, of: Image, path: str) -> Injury:
    size = len(of.files[path])
    starts = [block.start for block in of.blocks if block.path == path]
    near = st.builds(
        lambda at, by: min(max(0, at + by), size - 1),
        st.sampled_from([*starts, *range(0, size, 4096)]),
        st.integers(-80, 80),
    )
    start = draw(st.one_of(near, st.integers(0, size - 1)))
    kind = draw(st.sampled_from(["flip", "flip", "zero", "cut"]))
    if kind == "flip":
        return Injury("flip", path, start, draw(st.integers(0, 7)))
    if kind == "zero":
        return Injury("zero", path, start, start + draw(st.integers(1, 20000)))
    return Injury("cut", path, start, size)


def discard(env: SimEnv, path: str) -> None:
    """Remove what a killed build left, as its user is told to."""
    for name in env.disk.walk("/"):
        if name.startswith(f"{path}/"):
            env.files.unlink(name)
    for name in (f"{path}/segments", path):
        if env.files.exists(name):
            env.files.unlink(name)
