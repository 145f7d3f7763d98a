"""What is written anew, and what counts afterwards: decisions alone, without a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, strategies as st

from hstreamlite.log.regroup import (
    FILE_BLOCKS_MAX,
    FILE_BYTES_MAX,
    GROUP_MAX,
    LEVEL_1,
    Plan,
    Sealed,
    Span,
    absent,
    arrange,
    file_bytes,
    plan,
)

MIB = 1 << 20


def level0(number: int) -> Span:
    return Span(number, number, number)


# What counts.


@dataclass
class History:
    """Files as regrouping makes and removes them; `gone` are those removed so far."""

    counting: list[Span]
    replaced: list[Span]
    dropped: set[int]


@st.composite
def histories(draw: st.DrawFn) -> History:
    counting = [level0(n) for n in range(1, draw(st.integers(1, 12)) + 1)]
    replaced: list[Span] = []
    dropped: set[int] = set()
    for step in range(draw(st.integers(0, 8))):
        action = draw(st.sampled_from(["regroup", "remove replaced", "drop"]))
        at = draw(st.integers(0, len(counting) - 1))
        if action == "regroup":
            end = draw(st.integers(at + 1, len(counting)))
            group = counting[at:end]
            replaced += group
            counting[at:end] = [Span(LEVEL_1 + 1 + step, group[0].first, group[-1].last)]
        elif action == "remove replaced":
            replaced = [s for s in replaced if draw(st.booleans())]
        elif len(counting) > 1:
            gone = counting.pop(at)
            dropped.update(range(gone.first, gone.last + 1))
            covered = [s for s in replaced if gone.first <= s.first and s.last <= gone.last]
            replaced = [s for s in replaced if s not in covered]
    return History(counting, replaced, dropped)


@given(histories(), st.randoms(use_true_random=False))
def test_whatever_was_regrouped_counts_and_what_it_replaced_does_not(
    history: History, rng: Random
) -> None:
    files = [*history.counting, *history.replaced]
    rng.shuffle(files)
    counting, replaced = arrange(files)
    assert counting == history.counting
    assert sorted(replaced, key=lambda s: s.number) == sorted(
        history.replaced, key=lambda s: s.number
    )
    assert all(a.last < b.first for a, b in pairwise(counting))


@given(histories())
def test_absent_are_the_numbers_in_whose_place_nothing_stands(history: History) -> None:
    counting, _ = arrange([*history.counting, *history.replaced])
    last = max([s.last for s in counting] + [*history.dropped])
    covered = {n for s in counting for n in range(s.first, s.last + 1)}
    assert absent(counting, last) == sorted(set(range(1, last + 1)) - covered)


@pytest.mark.parametrize(
    "files",
    [
        [Span(LEVEL_1 + 1, 1, 4), Span(LEVEL_1 + 2, 3, 6)],
        [Span(LEVEL_1 + 1, 3, 6), Span(LEVEL_1 + 2, 1, 4)],
        [Span(LEVEL_1 + 1, 1, 9), Span(LEVEL_1 + 2, 3, 4)],
    ],
)
def test_files_that_overlap_without_replacing_are_damage(files: list[Span]) -> None:
    with pytest.raises(ValueError, match="segment 80000001 for"):
        arrange(files)


# What is worth it.


@st.composite
def sealed_lists(draw: st.DrawFn) -> list[Sealed]:
    out = []
    for number in range(1, draw(st.integers(1, 40)) + 1):
        size = draw(st.sampled_from([64 << 10, MIB, 7 * MIB, 64 * MIB]))
        live = draw(st.sampled_from([0, 100, size // 100, size // 3, size // 2, size - 8192]))
        shards = draw(st.sampled_from([1, 2, 1000])) if live else 0
        most = live if shards == 1 else int(live * draw(st.sampled_from([0.1, 0.5, 0.79, 0.95])))
        level = draw(st.sampled_from([0, 0, LEVEL_1]))
        quiet = draw(st.sampled_from([0.0, 59.0, 60.0, 1e6]))
        out.append(
            Sealed(
                number=level + number,
                bytes=size,
                live=live,
                shards=shards,
                largest=most,
                quiet=quiet,
                apart=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return out


SIZES = st.sampled_from([0, 32 << 10, MIB, 16 * MIB, 100 * MIB, 1 << 40])


@given(
    sealed=sealed_lists(),
    most=st.sampled_from([128 << 10, 8 * MIB, 64 * MIB]),
    free=SIZES,
    keep=SIZES,
    now=st.booleans(),
    broken=st.sets(st.integers(1, 40)),
)
def test_a_plan_is_made_of_neighbours_that_fit_and_pay(
    sealed: list[Sealed], most: int, free: int, keep: int, now: bool, broken: set[int]
) -> None:
    chosen = plan(sealed, most=most, free=free, keep=keep, rest=60.0, now=now, except_for=broken)
    if chosen is None:
        return
    numbers = [s.number for s in sealed]
    at = numbers.index(chosen.numbers[0])
    group = sealed[at : at + len(chosen.numbers)]
    assert [s.number for s in group] == list(chosen.numbers)
    assert not broken & set(chosen.numbers)
    assert chosen.bytes <= free
    assert len(group) == 1 or sum(s.live for s in group) <= most
    assert all(s.live for s in group)
    assert not any(s.apart for s in group[1:]), "a file would have a hole inside"
    pays = 2 * chosen.bytes <= sum(s.bytes for s in group)
    if not pays:
        assert chosen.bytes <= free - keep
        assert all(s.level == 0 and s.shards > 1 for s in group)
        assert all(s.largest < 0.8 * s.live for s in group)
    if not now and (free >= keep or not pays):
        assert all(s.quiet >= 60.0 for s in group)


def scattered(number: int, size: int = MIB, quiet: float = 100.0) -> Sealed:
    return Sealed(
        number=number, bytes=size, live=size - 8192, shards=9, largest=size // 9, quiet=quiet
    )


def chosen_of(sealed: list[Sealed], **options: int) -> tuple[int, ...] | None:
    settings = {"most": 64 * MIB, "free": 1 << 40, "keep": 0} | options
    chosen = plan(sealed, rest=60.0, **settings)
    return chosen.numbers if chosen else None


def test_small_neighbours_wait_for_more_until_they_are_many() -> None:
    few = [scattered(n) for n in range(1, GROUP_MAX)]
    assert chosen_of(few) is None
    many = [*few, scattered(GROUP_MAX)]
    assert chosen_of(many) == tuple(range(1, GROUP_MAX + 1))
    assert plan(few, most=64 * MIB, free=1 << 40, keep=0, rest=60.0, now=True) == Plan(
        tuple(s.number for s in few), sum(s.anew for s in few)
    )


def test_neighbours_that_cannot_get_more_do_not_wait() -> None:
    one_log = replace(scattered(3), shards=1, largest=MIB - 8192)
    assert chosen_of([scattered(1), scattered(2), one_log]) == (1, 2)
    assert chosen_of([scattered(1), scattered(2), scattered(3, 64 * MIB)]) == (1, 2)
    assert chosen_of([scattered(1), scattered(2), replace(scattered(3), apart=True)]) == (1, 2)
    assert chosen_of([scattered(1), scattered(2), scattered(3, quiet=1.0)]) is None


def test_what_one_log_fills_is_left_as_it_is() -> None:
    one_log = replace(scattered(1, 64 * MIB), shards=1, largest=64 * MIB - 8192)
    most_of_it = replace(scattered(2, 64 * MIB), largest=52 * MIB)
    assert chosen_of([one_log, most_of_it]) is None


def test_a_full_disk_is_cleaned_by_what_frees_more_than_it_takes() -> None:
    hollow = replace(scattered(1, 64 * MIB, quiet=0.0), live=MIB, largest=MIB, shards=1)
    dense = [scattered(2, 64 * MIB), scattered(3, 64 * MIB)]
    assert chosen_of([hollow, *dense], free=2 * MIB, keep=64 * MIB) == (1,)
    assert chosen_of([hollow, *dense], free=64 * MIB, keep=64 * MIB) is None
    assert chosen_of(dense, free=127 * MIB, keep=64 * MIB) is None


@dataclass
class Store:
    """Segments as appends, trims and plans change them; counts what is written."""

    sealed: list[Sealed]
    appended: int = 0
    written: int = 0
    number: int = 0

    def append(self, size: int, shards: int) -> None:
        self.number += 1
        live = size - 8192
        self.appended += size
        self.sealed.append(
            Sealed(
                number=self.number,
                bytes=size,
                live=live,
                shards=shards,
                largest=live // shards,
                quiet=100.0,
            )
        )

    def trim(self, at: int, part: float) -> None:
        s = self.sealed[at]
        live = int(s.live * part)
        if live == 0:
            del self.sealed[at]
        else:
            self.sealed[at] = replace(s, live=live, largest=live // s.shards)

    def regroup(self, chosen: Plan) -> None:
        at = next(i for i, s in enumerate(self.sealed) if s.number == chosen.numbers[0])
        group = self.sealed[at : at + len(chosen.numbers)]
        live = sum(s.live for s in group)
        self.written += live + 16384
        self.number += 1
        shards = max(s.shards for s in group)
        self.sealed[at : at + len(group)] = [
            Sealed(
                number=LEVEL_1 + self.number,
                bytes=live + 16384,
                live=live,
                shards=shards,
                largest=live // shards,
                quiet=100.0,
            )
        ]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([64 << 10, MIB, 8 * MIB]), st.integers(1, 9)),
        st.tuples(st.just("trim"), st.integers(0, 30), st.sampled_from([0.0, 0.1, 0.4, 0.6, 0.95])),
    ),
    max_size=60,
)


@given(STEPS, st.booleans())
def test_regrouping_ends_and_writes_a_bounded_part_of_what_was_appended(
    steps: list[tuple[str, int, float]], now: bool
) -> None:
    store = Store([])
    trimmed = False
    for kind, what, how in steps:
        if kind == "append":
            store.append(what, int(how))
        elif store.sealed:
            store.trim(what % len(store.sealed), how)
            trimmed = True
        rounds = 0
        while chosen := plan(store.sealed, most=8 * MIB, free=1 << 40, keep=0, rest=60.0, now=now):
            store.regroup(chosen)
            rounds += 1
            assert rounds < 100
    assert store.written <= (2.0 if trimmed else 1.0) * store.appended * 1.3
    if now:
        assert not any(s.scattered or s.hollow for s in store.sealed)


@given(st.integers(64 << 10, 2 << 30), st.lists(st.integers(0, 2 << 30), max_size=40))
def test_new_files_grow_with_the_store_and_stay_a_small_part_of_it(
    segment_bytes: int, lives: list[int]
) -> None:
    store = Store([])
    for live in lives:
        store.append(live, 2)
    quarter = sum(s.live for s in store.sealed) // 4
    most = file_bytes(store.sealed, segment_bytes, len(store.sealed))
    assert segment_bytes <= most <= 4 * segment_bytes
    assert most == segment_bytes or most <= min(quarter, FILE_BYTES_MAX)
    assert most == 4 * segment_bytes or most >= min(quarter, FILE_BYTES_MAX)


@given(
    st.integers(64 << 10, 2 << 30),
    st.lists(st.integers(64 << 20, 2 << 30), min_size=1, max_size=40),
    st.integers(64, MIB),
)
def test_no_file_larger_than_a_segment_has_more_blocks_than_memory_is_for(
    segment_bytes: int, lives: list[int], block: int
) -> None:
    store = Store([])
    for live in lives:
        store.append(live, 2)
    blocks = sum(s.live for s in store.sealed) // block
    most = file_bytes(store.sealed, segment_bytes, blocks)
    assert most == segment_bytes or most // (block + 1) <= FILE_BLOCKS_MAX
