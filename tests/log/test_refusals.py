"""Every ground on which opening refuses a log, each found alone.

Method: one fact of a sound store is changed and its checksums are made right again, so that nothing
but the finding in question can notice.
"""

from __future__ import annotations

import errno
import re

import pytest

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.errors import CorruptionError
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.log.swap import segment_facts
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import Witness
from tests.log.scripted import batch, finish, fresh, must
from tests.log.test_recovery_states import crc32c
from tests.tools.images import image, regrouped_store

PRED_UID, PRED_END, PRED_CRC, LEVEL, COVER_FIRST, COVER_LAST = 56, 64, 72, 76, 96, 104


def segments(w: Witness) -> list[str]:
    return [path for path in w.env.disk.walk("/db") if path.endswith(".seg")]


def state(w: Witness, path: str, at: int, *, more: int = 1, size: int = 8) -> None:
    """Change a number of a segment's header, and its checksum with it."""
    page = bytearray(w.env.disk.read_all(path)[:4096])
    value = int.from_bytes(page[at : at + size], "little") + more
    page[at : at + size] = value.to_bytes(size, "little")
    page[8:12] = crc32c(bytes(page[12:])).to_bytes(4, "little")
    w.env.disk.overwrite(path, 0, bytes(page))


def refused(w: Witness, path: str, expected: str) -> CorruptionError:
    with pytest.raises(CorruptionError, match=re.escape(expected)) as caught:
        w.open()
    assert caught.value.path == path
    return caught.value


def of_two_segments(count: int) -> Witness:
    """One stream, appended to in batches of so many records, over two sealed segments or more."""
    w = fresh()
    must(w.create("a"))
    for number in range(40):
        must(w.append("a", batch(f"{number}", count, 3600 // count)))
    w.restart("close", reopen=False)
    assert len(segments(w)) > 1
    return w


def test_a_segment_names_the_one_before_it() -> None:
    w = of_two_segments(1)
    first, second, *_ = segments(w)
    for at, size, path, expected in (
        (PRED_UID, 8, second, "the successor of the segment before it"),
        (PRED_END, 8, first, "as segment 2 states"),
        (PRED_CRC, 4, first, "as segment 2 states"),
    ):
        other = w.branch(w.env.clone())
        state(other, second, at, size=size)
        refused(other, path, expected)


def test_a_header_states_the_level_that_the_number_has() -> None:
    w = of_two_segments(1)
    path = segments(w)[1]
    state(w, path, LEVEL, size=2)
    refused(w, path, "a segment header")


def test_blocks_continue_their_logs() -> None:
    """A segment from another course of events with the same ids, where more records came before."""
    w, other = of_two_segments(1), of_two_segments(2)
    path = segments(w)[1]
    data = other.env.disk.read_all(path)
    w.env.disk.truncate_raw(path, len(data))
    w.env.disk.overwrite(path, 0, data)
    refused(w, path, "blocks that continue their logs")


def test_segments_of_level_1_do_not_overlap() -> None:
    w = regrouped_store()
    paths = [path for path in segments(w) if "/00000000800" in path]
    state(w, paths[0], COVER_LAST)
    error = refused(w, "/db/segments", "segments that do not overlap")
    assert "segment 80000002 for" in str(error)


def test_records_are_missing_only_where_the_catalog_says_why() -> None:
    """The catalog tells that a segment was dropped, and nothing of the records that were in it."""
    w = fresh()
    must(w.create("a"))
    for number in range(40):
        must(w.append("a", batch(f"{number}", 1, 3600)))
    w.store._ticker.house.snapshot()
    engine = w.store._engine
    numbers = [fact.number for fact in segment_facts(engine.journal)]
    with engine.lock:
        ticket = engine.stage_changes([{"op": "drop", "live": numbers[1:], "known": numbers[-1]}])
    engine.journal.wait(ticket)
    path = segments(w)[0]
    w.restart("close", reopen=False)
    w.env.disk.unlink_raw(path)
    refused(w, "/db/segments", "expected records of shard 1 from 1, found the first one at")


def behind_a_dropped_one() -> tuple[Witness, str, int]:
    """A store whose second segment is gone for good; the first one, and where its footer begins."""
    w = fresh()
    must(w.create("a"))
    must(w.create("b"))
    must(w.append("a", batch("kept", 3, 900)))
    number = 0
    while len(segment_facts(w.store._engine.journal)) < 4:
        must(w.append("b", batch(f"gone{number}", 8, 3500)))
        number += 1
    must(w.append("a", batch("later", 3, 900)))
    path, dropped, *_ = segments(w)
    must(w.trim("b", w.store.stream("b").tail()))
    assert path in segments(w)
    assert dropped not in segments(w)
    w.restart("close", reopen=False)
    trailer = w.env.disk.read_all(path)[-96:]
    return w, path, int.from_bytes(trailer[16:24], "little")


def test_a_footer_before_a_segment_that_was_dropped_is_rebuilt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    w, path, _ = behind_a_dropped_one()
    sound = w.env.disk.read_all(path)
    w.env.disk.flip(path, (len(sound) - 50) * 8)
    w.open()
    assert f"rebuilt the footer of {path}" in caplog.text
    assert w.env.disk.read_all(path) == sound
    finish(w)


@pytest.mark.parametrize("hurt", ["cut", "footer and frame before it"])
def test_frames_before_a_segment_that_was_dropped_are_not_given_up(hurt: str) -> None:
    w, path, end = behind_a_dropped_one()
    if hurt == "cut":
        w.env.disk.truncate_raw(path, end)
        refused(w, path, "a frame header")
    else:
        w.env.disk.flip(path, (len(w.env.disk.read_all(path)) - 50) * 8)
        w.env.disk.flip(path, (4096 + 30) * 8)
        refused(w, path, "a footer with matching CRCs")


def test_a_follower_looks_again_where_a_file_goes_between_listing_and_reading() -> None:
    w = regrouped_store()
    w.open()
    hits = w.env.disk.inject(Fail(ops=Op.OPEN, path="/00000000800", errno=errno.ENOENT))
    with hs.open("/db", env=w.env, config=w.config, read_only=True) as follower:
        assert hits() == 1
        assert [i.name for i in follower.streams()] == [i.name for i in w.store.streams()]


def test_a_block_of_another_shape_under_its_checksum_is_reported_with_its_ids() -> None:
    of = image("closed")
    block = next(b for b in of.blocks if b.shard == 1)
    w = of.origin.branch(of.origin.env.clone())
    body = bytearray(of.files[block.path][block.start : block.end])
    body[56:] = b"\xff" * len(body[56:])
    body[4:8] = crc32c(bytes(body[8:])).to_bytes(4, "little")
    w.env.disk.overwrite(block.path, block.start, bytes(body))
    w.open()
    with pytest.raises(CorruptionError, match="a record batch in block 1-") as caught:
        list(w.store.stream("a").read())
    assert caught.value.lost == (hs.LostRecords(1, block.first, block.last, "a"),)


def test_an_entry_of_another_shape_under_its_checksum_is_reported() -> None:
    """In the mapped stage, whose entries are seeded with the epoch of the process before."""
    w = fresh()
    must(w.create("a"))
    must(w.append("a", batch("os", 1, 200), level="os"))
    w.restart("process", reopen=False)
    stage = bytearray(w.env.disk.read_all("/db/STAGE"))
    at = stage.index(b"HENT")
    end = at + 24 + int.from_bytes(stage[at + 16 : at + 20], "little")
    stage[at + 24 + 32 : at + 24 + 36] = b"\xff\xff\xff\x00"
    seed = int.from_bytes(stage[48:56], "little") * 0x9E3779B1 & 0xFFFFFFFF
    crc = lib.hsl_crc32c(seed, bytes(stage[at + 8 : end]), end - at - 8)
    stage[at + 4 : at + 8] = crc.to_bytes(4, "little")
    w.env.disk.overwrite("/db/STAGE", 0, bytes(stage))
    with pytest.raises(CorruptionError):
        w.open()


def test_the_report_tells_what_was_discarded_and_recovered() -> None:
    report = RecoveryReport(bytes_discarded=8192, stage_records=3, damage=("a hole",))
    assert report.lines()[1:] == [
        "8192 bytes of unacknowledged tail discarded",
        "3 records recovered from the mapped stage",
        "a hole",
    ]
    assert len(RecoveryReport().lines()) == 1
