"""A check finds what no checksum tells: each fact of a store changed alone, checksums made right.

Method: one number of a frame, a block, a footer, a header or the superblock is changed, and every
checksum over it, so that only the comparison with what stands elsewhere can notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import hstreamlite as hs
from hstreamlite._native import fast, ffi, lib
from hstreamlite.env import OpenFlag
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness, small_config
from hstreamlite.tools.check import check
from tests.log.scripted import batch, fresh, must
from tests.log.test_recovery_states import closed_store, crashed_store
from tests.log.test_refusals import PRED_END, segments, state

FIRST_FRAME, FRAME, BLOCK, TRAILER = 4096, 64, 56, 96


def crc32c(data: bytes, seed: int = 0) -> int:
    return int(lib.hsl_crc32c(seed, ffi.from_buffer(data), len(data)))


def number(data: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(data[at : at + size], "little")


class Forger:
    """One segment file of a store, to be changed."""

    def __init__(self, w: Witness, place: int) -> None:
        self.disk = w.env.disk
        self.path = segments(w)[place]
        self.data = bytearray(self.disk.read_all(self.path))

    def frames(self) -> Iterator[int]:
        """Where the frames begin."""
        at = FIRST_FRAME
        while self.data[at : at + 4] == self.data[FIRST_FRAME : FIRST_FRAME + 4]:
            yield at
            at += (FRAME + number(self.data, at + 24, 4) + 4095) // 4096 * 4096

    def blocks(self, frame: int) -> Iterator[int]:
        at = frame + FRAME
        for _ in range(number(self.data, frame + 28, 4)):
            yield at
            at += (self.block_bytes(at) + 7) // 8 * 8

    def block_bytes(self, at: int) -> int:
        return BLOCK + number(self.data, at + 32, 4) + number(self.data, at + 46, 2)

    def of_shard(self, shard: int) -> list[tuple[int, int]]:
        """Frame and place of each of its blocks."""
        return [
            (frame, block)
            for frame in self.frames()
            for block in self.blocks(frame)
            if number(self.data, block + 8) == shard
        ]

    def put(self, at: int, value: int, size: int = 8) -> None:
        self.data[at : at + size] = value.to_bytes(size, "little")

    def frame(self, frame: int, at: int, value: int, size: int = 4) -> None:
        """State another number in a frame's header."""
        self.put(frame + at, value, size)
        self.put(frame + 4, crc32c(bytes(self.data[frame + 8 : frame + FRAME])), 4)
        self.disk.overwrite(self.path, 0, bytes(self.data))

    def block(self, frame: int, block: int, at: int, value: int) -> None:
        """State another number in a block's header, below the checksum of its frame too."""
        self.put(block + at, value)
        end = block + self.block_bytes(block)
        self.put(block + 4, crc32c(bytes(self.data[block + 8 : end])), 4)
        over = 0
        for each in self.blocks(frame):
            over = crc32c(bytes(self.data[each + 4 : each + 8]), over)
        self.frame(frame, 32, over)

    def trailer(self, at: int, value: int, size: int = 4) -> None:
        start = len(self.data) - TRAILER
        self.put(start + at, value, size)
        seed = number(self.data, FIRST_FRAME + 8, 4)
        self.put(start + 8, crc32c(bytes(self.data[start + 12 :]), seed), 4)
        self.disk.overwrite(self.path, 0, bytes(self.data))

    def end(self) -> int:
        """Where the frames end, as the footer says."""
        return number(self.data, len(self.data) - TRAILER + 16)


def state_durable(w: Witness, place: int) -> None:
    """State in both slots of the superblock how far the log is durable."""
    slots = bytearray(w.env.disk.read_all("/db/SUPER"))
    for slot in (0, 4096):
        slots[slot + 72 : slot + 80] = place.to_bytes(8, "little")
        slots[slot + 8 : slot + 12] = crc32c(bytes(slots[slot + 12 : slot + 4096])).to_bytes(
            4, "little"
        )
    w.env.disk.overwrite("/db/SUPER", 0, bytes(slots))


def chain_of_a_frame(w: Witness) -> None:
    f = Forger(w, 0)
    frame = list(f.frames())[2]
    f.frame(frame, 36, number(f.data, frame + 36, 4) ^ 1)


def sum_of_a_frame(w: Witness) -> None:
    f = Forger(w, 0)
    frame, _ = f.of_shard(1)[0]
    f.frame(frame, 32, number(f.data, frame + 32, 4) ^ 1)


def last_frame_of_the_footer(w: Witness) -> None:
    f = Forger(w, 0)
    f.trailer(88, number(f.data, len(f.data) - TRAILER + 88, 4) ^ 1)


def end_in_the_next_header(w: Witness) -> None:
    state(w, segments(w)[1], PRED_END)


def end_in_the_superblock(w: Witness) -> None:
    state_durable(w, 1 << 32 | Forger(w, 0).end() + 8192)


def end_of_the_newest(w: Witness) -> None:
    f = Forger(w, -1)
    newest = int(f.path[-20:-4], 16)
    state_durable(w, newest << 32 | max(f.frames()) + 65536)


def order_of_a_block(w: Witness) -> None:
    f = Forger(w, 0)
    f.block(*f.of_shard(1)[1], 48, 1)


def place_of_a_block(w: Witness) -> None:
    """The ids of the block before it once more."""
    f = Forger(w, 0)
    (_, before), (frame, block), *_ = f.of_shard(1)
    f.block(frame, block, 16, number(f.data, before + 16))


def log_of_a_block(w: Witness) -> None:
    """One that the footer does not list in the log."""
    f = Forger(w, 0)
    f.block(*f.of_shard(1)[1], 8, 77)


def count_of_a_block(w: Witness) -> None:
    """One record more than its body has."""
    f = Forger(w, 0)
    frame, block = f.of_shard(1)[1]
    f.block(frame, block, 36, number(f.data, block + 36) + (1 << 32))


def directory_of_the_footer(w: Witness) -> None:
    f = Forger(w, 0)
    rows = number(f.data, len(f.data) - TRAILER + 24)
    w.env.disk.flip(f.path, (f.end() + rows) * 8)


CLOSED: dict[str, tuple[Callable[[Witness], None], int]] = {
    "chain of a frame": (chain_of_a_frame, lib.HSL_FAULT_CHAIN),
    "sum of a frame": (sum_of_a_frame, lib.HSL_FAULT_BLOCK),
    "last frame of a footer": (last_frame_of_the_footer, lib.HSL_FAULT_CHAIN),
    "end in the next header": (end_in_the_next_header, lib.HSL_FAULT_CHAIN),
    "end in the superblock": (end_in_the_superblock, lib.HSL_FAULT_FRAME),
    "order of a block": (order_of_a_block, lib.HSL_FAULT_SEQUENCE),
    "log of a block": (log_of_a_block, lib.HSL_FAULT_FOOTER),
    "place of a block": (place_of_a_block, lib.HSL_FAULT_SEQUENCE),
    "count of a block": (count_of_a_block, lib.HSL_FAULT_BODY),
    "directory of a footer": (directory_of_the_footer, lib.HSL_FAULT_FOOTER),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_fact_that_nothing_else_confirms_is_told(name: str) -> None:
    w = closed_store()
    assert check(w.env, "/db").sound
    forge, fault = CLOSED[name]
    forge(w)
    report = check(w.env, "/db")
    assert not report.sound
    assert fault in {damage.fault for damage in report.damage}, list(report.lines())


def test_an_end_of_the_newest_segment_beyond_its_frames_is_told() -> None:
    w = crashed_store()
    assert check(w.env, "/db").sound
    end_of_the_newest(w)
    report = check(w.env, "/db")
    assert {damage.fault for damage in report.damage} == {lib.HSL_FAULT_FRAME}
    assert {damage.path for damage in report.damage} == {segments(w)[-1]}


@pytest.mark.parametrize("stated_by", ["superblock", "frames"])
def test_a_checkpoint_that_does_not_verify_is_told_and_costs_no_record(
    stated_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
    w = Witness(SimEnv(), config)
    must(w.create("a"))
    before = w.env.disk.read_all("/db/SUPER")
    for n in range(100):
        must(w.append("a", batch(f"{n}", 1, 3600)))
    w.restart("process", reopen=False)
    f = Forger(w, 0)
    if stated_by == "frames":
        w.env.disk.overwrite("/db/SUPER", 0, before)
    checkpoints = [at for at in f.frames() if number(f.data, at + 56, 4) == 2]
    assert checkpoints
    for at in checkpoints:
        w.env.disk.flip(f.path, (at + FRAME + 40) * 8)
    report = check(w.env, "/db")
    assert {damage.fault for damage in report.damage} == {lib.HSL_FAULT_INDEX}
    assert [damage.start for damage in report.damage] == checkpoints
    assert not any(damage.lost for damage in report.damage)
    with hs.open("/db", config=config, env=w.env, read_only=True) as follower:
        assert len(list(follower.stream("a").read())) == 100
    w.open()
    w.check()
    assert f"{f.path}: {len(checkpoints)} index checkpoints do not verify" in caplog.text


def test_a_file_that_is_cut_behind_a_damaged_checkpoint_is_refused() -> None:
    """Nothing behind it can say whether it was durable."""
    w = Witness(SimEnv(), small_config(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20))
    must(w.create("a"))
    before = w.env.disk.read_all("/db/SUPER")
    for n in range(100):
        must(w.append("a", batch(f"{n}", 1, 3600)))
    w.restart("process", reopen=False)
    w.env.disk.overwrite("/db/SUPER", 0, before)
    f = Forger(w, 0)
    at = max(at for at in f.frames() if number(f.data, at + 56, 4) == 2)
    w.env.disk.flip(f.path, (at + FRAME + 40) * 8)
    fd = w.env.files.open(f.path, OpenFlag.READ | OpenFlag.WRITE)
    w.env.files.truncate(fd, at + (FRAME + number(f.data, at + 24, 4) + 4095) // 4096 * 4096)
    w.env.files.close(fd)
    with pytest.raises(hs.CorruptionError) as caught:
        w.open()
    assert caught.value.path == f.path


@pytest.mark.parametrize("place", range(4))
def test_a_block_that_does_not_decompress_is_found_wherever_it_stands(place: int) -> None:
    env = SimEnv()
    with hs.open("/db", env=env) as store:
        stream = store.create_stream("a")
        for each in range(4):
            if each == place:
                op = (stream.append(b"before").shard_id, 2, b"no zstd", 1, 99)
                fast.stage(int(store._engine.handle), [op], 2, False, True)
            stream.append(b"x" * 100)
    report = check(env, "/db")
    assert {damage.fault for damage in report.damage} == {lib.HSL_FAULT_BODY}
    assert [(x.first, x.end) for damage in report.damage for x in damage.lost] == [
        (place + 2, place + 3)
    ]


def test_frames_of_an_older_life_of_a_file_do_not_tell_whose_it_is() -> None:
    """Its header is gone, and the next one's says of whom it was the successor."""
    w = closed_store()
    f = Forger(w, 0)
    f.frame(FIRST_FRAME, 8, number(f.data, FIRST_FRAME + 8) ^ 1, 8)
    w.env.disk.flip(f.path, 100 * 8)
    report = check(w.env, "/db")
    assert lib.HSL_FAULT_HEADER in {damage.fault for damage in report.damage}
    assert report.records > 0


def test_what_may_never_have_been_acknowledged_is_no_loss_and_what_was_is_one() -> None:
    """The newest frame is torn, and one is damaged that a later one says was durable."""
    w = fresh()
    must(w.create("a"))
    for tag in ("one", "two", "three"):
        must(w.append("a", batch(tag, 1, 900)))
    w.restart("process", reopen=False)
    f = Forger(w, 0)
    blocks = [block for _, block in f.of_shard(1)]
    for block in (blocks[0], blocks[-1]):
        w.env.disk.flip(f.path, (block + 500) * 8)
    report = check(w.env, "/db")
    assert [(x.first, x.end) for damage in report.damage for x in damage.lost] == [(1, 2)]


def test_rows_that_frames_give_otherwise_are_damage() -> None:
    """A footer whose rows do not verify, behind frames that make rows of another length."""
    w = closed_store()
    f = Forger(w, 0)
    f.block(*f.of_shard(1)[1], 48, 1 << 40)
    w.env.disk.flip(f.path, (f.end() + 5) * 8)
    with pytest.raises(hs.CorruptionError) as caught:
        w.open()
    assert caught.value.path == f.path
