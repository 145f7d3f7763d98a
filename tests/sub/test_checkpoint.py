"""Stored progress: pieces, their limits, and what a damaged one does."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from hstreamlite.sub.checkpoint import (
    MalformedProgress,
    Progress,
    ShardProgress,
    decode,
    encode,
)

GOLDEN = bytes.fromhex(
    "01010000000001000000"
    "07000000000000000300000002000000"
    "010000000000000005000000000000001400000000000000"
    "0100000001000000"
    "0200000004000000"
    "050000000600000003000000"
)  # fmt: skip


@st.composite
def runs(draw: st.DrawFn, low: int, end: int, most: int) -> list[tuple[int, int]]:
    edges = draw(st.sets(st.integers(low, end), max_size=2 * most))
    ordered = sorted(edges)
    return list(zip(ordered[::2], ordered[1::2], strict=False))


@st.composite
def entries(draw: st.DrawFn, shard: int) -> ShardProgress:
    origin = draw(st.integers(1, 2**40))
    low = origin + draw(st.integers(0, 1_000))
    end = low + draw(st.integers(0, 400))
    counts = draw(runs(low, end, 20))
    return ShardProgress(
        shard=shard,
        full=True,
        generation=draw(st.integers(0, 9)),
        origin=origin,
        low=low,
        next=end,
        acked=draw(runs(low + 1, end, 40)) if low + 1 < end else [],
        attempts=[(a, b, draw(st.sampled_from([0, 2, 3, 2**32 - 1]))) for a, b in counts],
        forget_attempts=True,
        listed=draw(st.booleans()),
    )


def example(**changes: object) -> ShardProgress:
    values: dict[str, object] = {
        "shard": 7,
        "full": True,
        "generation": 2,
        "origin": 1,
        "low": 5,
        "next": 20,
        "acked": [(7, 9)],
        "attempts": [(10, 11, 3)],
        "forget_attempts": True,
        "listed": False,
    }
    return ShardProgress(**(values | changes))  # type: ignore[arg-type]


def replay(pieces: tuple[bytes, ...]) -> Progress:
    progress = Progress()
    for piece in pieces:
        progress.apply(piece)
    return progress


def test_the_bytes_are_those_of_version_1() -> None:
    assert encode([example()], snapshot=True) == (GOLDEN,)
    assert decode(GOLDEN) == (True, [example()])


@given(
    st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=4).flatmap(
        lambda shards: st.tuples(*(entries(shard) for shard in shards))
    ),
    st.integers(1, 400),
)
def test_pieces_of_any_size_add_up_to_the_same(
    shards: tuple[ShardProgress, ...], piece_bytes: int
) -> None:
    pieces = encode(shards, snapshot=True, piece_bytes=piece_bytes)
    assert all(len(piece) <= 2 * piece_bytes + 128 for piece in pieces)
    progress = replay(pieces)
    assert set(progress.shards) == {entry.shard for entry in shards}
    for entry in shards:
        kept = progress.shards[entry.shard]
        state = kept.acks.state
        assert (kept.generation, state.origin, state.low) == (
            entry.generation,
            entry.origin,
            entry.low,
        )
        assert state.next == entry.next
        merged = [n for first, end in kept.acks.acked_runs(0, 2**62) for n in range(first, end)]
        assert merged == [n for first, end in entry.acked for n in range(first, end)]
        given_counts = {n: c for first, end, c in entry.attempts for n in range(first, end)}
        counts = {n: c for first, end, c in kept.delivered_counts() for n in range(first, end)}
        assert counts == {n: given_counts.get(n, 1) for n in range(entry.low, entry.next)}


@given(st.data(), entries(3), st.integers(1, 100))
def test_a_prefix_of_the_pieces_is_never_ahead(
    data: st.DataObject, entry: ShardProgress, piece_bytes: int
) -> None:
    pieces = encode([entry], snapshot=True, piece_bytes=piece_bytes)
    progress = replay(pieces[: data.draw(st.integers(1, len(pieces)))])
    kept = progress.shards[3]
    acked = {n for first, end in entry.acked for n in range(first, end)}
    stored = {n for first, end in kept.acks.acked_runs(0, 2**62) for n in range(first, end)}
    assert stored <= acked
    assert kept.acks.state.low <= entry.low


def test_a_snapshot_forgets_other_shards_and_a_delta_adds_to_them() -> None:
    first = encode([example(), example(shard=8), example(shard=9)], snapshot=True)
    assert set(replay(first).shards) == {7, 8, 9}
    assert set(replay(first + encode([example(shard=10)])).shards) == {7, 8, 9, 10}
    assert set(replay(first + encode([example()], snapshot=True)).shards) == {7}
    assert set(replay(first + encode([], snapshot=True)).shards) == set()


def test_an_older_entry_adds_nothing() -> None:
    pieces = encode([example(low=9, next=30, acked=[], attempts=[])])
    pieces += encode([example(full=False, low=5, next=20, acked=[(6, 8)], attempts=[])])
    state = replay(pieces).shards[7].acks.state
    assert (state.low, state.next) == (9, 30)


@pytest.mark.parametrize("size", range(len(GOLDEN)))
def test_a_piece_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(MalformedProgress):
        decode(GOLDEN[:size])


@given(st.binary(max_size=120))
def test_no_bytes_raise_anything_else(piece: bytes) -> None:
    with suppress(MalformedProgress):
        Progress().apply(piece)


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 255))
def test_no_changed_byte_raises_anything_else(at: int, value: int) -> None:
    piece = bytearray(GOLDEN)
    piece[at] = value
    with suppress(MalformedProgress):
        Progress().apply(bytes(piece))


@pytest.mark.parametrize(
    "piece",
    [
        GOLDEN + b"\0",
        b"\2" + GOLDEN[1:],
        GOLDEN[:2] + b"\1" + GOLDEN[3:],
        GOLDEN[:1] + b"\2" + GOLDEN[2:],
        encode([example(full=False)])[0],
        encode([example(acked=[(19, 21)])])[0],
        encode([example(acked=[(9, 9)])])[0],
        encode([example(origin=6)])[0],
        encode([example(next=2**31)])[0],
    ],
)
def test_a_piece_that_makes_no_sense_is_refused(piece: bytes) -> None:
    with pytest.raises(MalformedProgress):
        Progress().apply(piece)


def test_a_delta_of_another_generation_is_refused() -> None:
    progress = replay(encode([example()]))
    with pytest.raises(MalformedProgress, match="without what it adds to"):
        progress.apply(encode([example(full=False, generation=3)])[0])
