"""A follower meets damage: it says what is wrong and where, each time, and takes in nothing of it.

Method: a writer goes on under a follower that looks only now and then; what was written meanwhile
is damaged on the simulated disk before the next look, or before another follower opens.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hstreamlite as hs
from hstreamlite.log.following import FollowedJournal
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config
from tests.log.test_refusals import PRED_UID, state

CONFIG = small_config(tail_bytes=0)
"""Without a ring: what is durable is read from the files."""
FRAME = "a frame whose blocks match their CRCs"
FRAME_HEADER = "a frame header"
HEADER = "a segment header with a matching CRC"
FOOTER = "a footer with matching CRCs"


def opened(env: SimEnv, *, read_only: bool = False) -> hs.Store:
    return hs.open("/db", env=env, config=CONFIG, read_only=read_only)


def payloads(store: hs.Store) -> dict[str, list[object]]:
    return {i.name: [r.payload for r in store.stream(i.name).read()] for i in store.streams()}


class Beside:
    """A writer with two streams, and a follower that has taken in what there was."""

    def __init__(self) -> None:
        self.env = SimEnv(capacity=64 << 20)
        self.writer = opened(self.env)
        self.number = 0
        for name in "ab":
            self.writer.create_stream(name)
        self.append(2)
        self.follower = opened(self.env, read_only=True)
        assert payloads(self.follower) == payloads(self.writer)

    def append(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            payload = (b"%d;" % self.number).ljust(2400, b".")
            self.writer.stream("ab"[self.number % 2]).append(payload)

    def segments(self) -> list[str]:
        return [path for path in self.env.disk.walk("/db") if path.endswith(".seg")]

    def roll(self, count: int) -> None:
        before = len(self.segments())
        while len(self.segments()) < before + count:
            self.append(1)
        self.append(1)

    def durable(self) -> int:
        tail = self.follower._engine.journal.tail()  # type: ignore[attr-defined]
        return int(tail.durable) & 0xFFFF_FFFF

    def size(self, path: str) -> int:
        return len(self.env.disk.read_all(path))

    def footer(self, path: str) -> int:
        """Where a sealed segment's footer begins."""
        return int.from_bytes(self.env.disk.read_all(path)[-80:-72], "little")


class Hurt(NamedTuple):
    """What is done; the file is the one that is to be blamed."""

    expected: str
    damage: Callable[[Beside], str]


def flip_newest_frame(b: Beside) -> str:
    b.append(2)
    path = b.segments()[-1]
    b.env.disk.flip(path, (b.durable() - 3000) * 8)
    return path


def cut_newest_frame(b: Beside) -> str:
    b.append(2)
    path = b.segments()[-1]
    b.env.disk.truncate_raw(path, b.durable() - 4096)
    return path


def flip_footer_of_the_one_followed(b: Beside) -> str:
    path = b.segments()[-1]
    b.roll(1)
    b.env.disk.flip(path, (b.size(path) - 50) * 8)
    return path


def cut_footer_of_the_next(b: Beside) -> str:
    b.roll(2)
    path = b.segments()[-2]
    b.env.disk.truncate_raw(path, b.footer(path))
    return path


def link_the_next_to_another(b: Beside) -> str:
    b.roll(2)
    path = b.segments()[-2]
    state(b, path, PRED_UID)  # type: ignore[arg-type]
    return path


def flip_header_of_a_regrouped_one(b: Beside) -> str:
    b.roll(3)
    b.writer.compact()
    path = next(path for path in b.segments() if int(path[-20:-4], 16) >= LEVEL_1)
    b.env.disk.flip(path, 60 * 8)
    return path


HURTS = {
    "newest frame flipped": Hurt(FRAME, flip_newest_frame),
    "newest frame cut": Hurt(FRAME_HEADER, cut_newest_frame),
    "footer flipped": Hurt(FOOTER, flip_footer_of_the_one_followed),
    "next footer cut": Hurt(FRAME_HEADER, cut_footer_of_the_next),
    "next of another": Hurt(HEADER, link_the_next_to_another),
    "regrouped header": Hurt(
        "a segment header with a matching CRC", flip_header_of_a_regrouped_one
    ),
}


@pytest.mark.parametrize("name", HURTS)
def test_damage_that_comes_under_a_follower_is_told_at_each_look(name: str) -> None:
    b = Beside()
    path = HURTS[name].damage(b)
    for _ in range(2):
        with pytest.raises(hs.CorruptionError, match=HURTS[name].expected) as caught:
            payloads(b.follower)
        assert caught.value.path == path
    with pytest.raises(hs.CorruptionError) as caught:
        opened(b.env, read_only=True)
    assert caught.value.path == path
    b.follower.close()


# Opening where no writer is, or where one comes.


def left_by_a_writer(*, power: bool) -> tuple[SimEnv, list[str]]:
    """A store of three segments whose writer is gone; after a power cut the page does not count."""
    b = Beside()
    b.roll(2)
    b.follower.close()
    b.writer.close()
    paths = b.segments()
    return b.env.power_cut(profile="keep") if power else b.env.process_crash(), paths


@pytest.mark.parametrize("power", [False, True], ids=["page counts", "page of another boot"])
def test_a_segment_that_is_not_sealed_before_the_newest_is_told(*, power: bool) -> None:
    env, paths = left_by_a_writer(power=power)
    content = env.disk.read_all(paths[0])
    end = int.from_bytes(content[-80:-72], "little")
    env.disk.truncate_raw(paths[0], end)
    with pytest.raises(hs.CorruptionError) as caught:
        opened(env, read_only=True)
    assert caught.value.path == paths[0]


@pytest.mark.parametrize("power", [False, True], ids=["page counts", "page of another boot"])
@pytest.mark.parametrize("op", [Op.OPEN, Op.PREAD])
def test_a_file_that_cannot_be_read_is_no_damage(op: Op, *, power: bool) -> None:
    env, paths = left_by_a_writer(power=power)
    env.disk.inject(Fail(ops=op, path=paths[0]))
    with pytest.raises(OSError, match="error 5"):
        opened(env, read_only=True)
    with opened(env, read_only=True) as store:
        assert len(payloads(store)) == 2


@pytest.mark.parametrize("power", [False, True], ids=["page counts", "page of another boot"])
def test_a_segment_that_goes_while_it_is_looked_for_is_looked_at_anew(*, power: bool) -> None:
    env, paths = left_by_a_writer(power=power)
    hits = env.disk.inject(Fail(ops=Op.OPEN, path=paths[1], errno=errno.ENOENT))
    with opened(env, read_only=True) as store:
        assert len(payloads(store)) == 2
    assert hits() == 1


def test_a_store_that_another_opens_is_waited_for_and_then_locked() -> None:
    """Before it has a page that counts, its owner may be recovering what is there."""
    env, _ = left_by_a_writer(power=True)
    fd = env.files.lock("/db/LOCK")
    before = env.clock.mono_ns()
    with pytest.raises(hs.StoreLocked) as caught:
        opened(env, read_only=True)
    assert str(env.pid()) in str(caught.value)
    assert env.clock.mono_ns() > before
    env.files.close(fd)
    opened(env, read_only=True).close()


def before_the_rest(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something once, after the page was read by who opens, and before anything else is."""
    tail = FollowedJournal.tail

    def tail_and_then(journal: FollowedJournal) -> Any:
        monkeypatch.undo()
        told = tail(journal)
        do()
        return told

    monkeypatch.setattr(FollowedJournal, "tail", tail_and_then)


def test_a_log_is_read_anew_where_a_writer_came_and_went_while_it_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, _ = left_by_a_writer(power=True)

    def come_and_go() -> None:
        with opened(env) as writer:
            writer.stream("a").append(b"new")

    before_the_rest(monkeypatch, come_and_go)
    with opened(env, read_only=True) as follower:
        assert payloads(follower)["a"][-1] == b"new"


def test_the_newest_segment_may_be_dropped_while_a_follower_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = Beside()
    b.follower.close()
    newest = b.segments()[-1]

    def go_on() -> None:
        b.roll(2)
        for name in "ab":
            b.writer.stream(name).trim(before=hs.LATEST)
        b.writer._ticker.house.snapshot()
        b.writer._ticker.house.free_segments()
        b.append(2)

    before_the_rest(monkeypatch, go_on)
    with opened(b.env, read_only=True) as follower:
        assert newest not in b.segments()
        assert payloads(follower) == payloads(b.writer)
    b.writer.close()


def test_a_writer_that_failed_while_it_opened_left_what_there_was() -> None:
    """Its page says that it is starting, and nothing of what is durable."""
    env, _ = left_by_a_writer(power=True)
    env.disk.inject(Fail(ops=Op.OPEN, path=".seg"))
    with pytest.raises(OSError, match="open /db/segments"):
        opened(env)
    env.disk.clear_faults()
    with opened(env, read_only=True) as follower:
        shown = payloads(follower)
        with opened(env) as writer:
            assert payloads(writer) == shown
            writer.stream("a").append(b"new")
            env.advance(1)
            assert payloads(follower) == payloads(writer)


def test_a_store_that_was_never_written_to_is_empty_after_a_power_cut() -> None:
    env = SimEnv()
    opened(env).close()
    with opened(env.power_cut(profile="keep"), read_only=True) as follower:
        assert payloads(follower) == {}


@pytest.mark.parametrize("op", [Op.OPEN, Op.PREAD, Op.SIZE])
def test_a_look_that_cannot_read_a_file_says_so_and_shows_nothing_wrong(op: Op) -> None:
    """The next look takes in all of it."""
    outcomes: Counter[str] = Counter()
    nth = 0
    while not outcomes["whole"]:
        nth += 1
        b = Beside()
        b.roll(2)
        b.writer.compact()
        hits = b.env.disk.inject(Fail(ops=op, path=".seg", nth=nth))
        for look in ("first", "second"):
            before = hits()
            try:
                assert payloads(b.follower) == payloads(b.writer)
                outcomes["whole"] += not hits()
            except OSError as error:
                assert "error 5" in str(error)
                assert not before
                outcomes[look] += 1
        b.env.disk.clear_faults()
        with opened(b.env, read_only=True) as other:
            assert payloads(other) == payloads(b.writer)
        b.follower.close()
        b.writer.close()
    assert outcomes["first"] > 2


def test_a_regrouped_segment_may_go_between_listing_and_reading() -> None:
    b = Beside()
    b.roll(3)
    b.writer.compact()
    hits = b.env.disk.inject(Fail(ops=Op.OPEN, path="/00000000800", errno=errno.ENOENT))
    assert payloads(b.follower) == payloads(b.writer)
    assert hits() == 1


def test_who_waits_is_woken_where_the_store_went(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as writer:
        writer.create_stream("a").append(b"x")
    with hs.open(tmp_path / "s", read_only=True) as follower:
        reader = follower.stream("a").read(follow=True)
        assert next(reader).payload == b"x"
        journal = follower._engine.journal
        durable, pokes = journal.durable(), journal.pokes()
        (tmp_path / "s").rename(tmp_path / "elsewhere")
        assert journal.wait_change(durable, pokes, 60_000_000_000)
        assert journal.pokes() > pokes
        with pytest.raises(hs.StoreReplaced):
            next(reader)


def test_a_file_that_was_gone_and_cannot_be_read_at_the_second_look_is_no_damage() -> None:
    b = Beside()
    b.roll(3)
    sealed = b.segments()[1]  # the first one is open: the catalog was read from it
    with opened(b.env, read_only=True) as late:
        # An error behind records that were read is told by the next read, which asks again.
        for nth, code in enumerate((errno.ENOENT, errno.ENOENT, errno.EIO), start=1):
            b.env.disk.inject(Fail(ops=Op.OPEN, path=sealed, nth=nth, errno=code))
        with pytest.raises(OSError, match="error 5"):
            list(late.stream("a").read())
        assert payloads(late) == payloads(b.writer)


def test_another_page_that_says_nothing_yet_is_no_other_store() -> None:
    """Whoever makes the page anew has not written to it when a follower looks."""
    b = Beside()
    b.env.disk.copy_raw("/db/TAIL", "/page")
    b.env.disk.zero_range("/page", 0, 4096)
    b.env.disk.rename_raw("/page", "/db/TAIL")
    b.env.advance(1)
    assert payloads(b.follower) == payloads(b.writer)
