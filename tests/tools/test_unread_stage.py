"""Appends that lie only in the mapped stage are told of, by a salvage and by a damaged store.

Goal: no note where every append is in the segments; one that counts them where they are not.
"""

from __future__ import annotations

import struct

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness, small_config
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests.log.format_reader import crc
from tests.log.scripted import batch, fresh, must

STAGE = "/db/STAGE"


def killed_store() -> Witness:
    """Three records are durable, four lie only in the stage."""
    w = fresh()
    must(w.create("a"))
    must(w.append("a", batch("first", 1, 100)))
    must(w.append("a", batch("early", 1, 100), level="os"))
    must(w.append("a", batch("durable", 1, 100)))
    must(w.append("a", batch("os", 2, 100), level="os"))
    must(w.append("a", batch("more", 2, 100), level="os"))
    w.restart("process", reopen=False)
    return w


def notes(env: SimEnv) -> list[str]:
    """Return what a salvage notes of the stage; a damaged store and a check must say the same."""
    report = salvage(env, "/db", "/new")
    found = [note for note in report.source.notes if STAGE in note]
    assert report.source.sound
    assert (
        report.whole
        == report.facts()["whole"]
        == all("booted since" in note or "does not verify" in note for note in found)
    )
    with hs.open(
        "/db", read_only=True, accept_damage=True, config=small_config(), env=env
    ) as store:
        lines = store.recovery.lines()
    assert [line for line in lines if STAGE in line] == [f"note: {note}" for note in found]
    assert [note for note in check(env, "/db").notes if STAGE in note] == found
    return found


def test_check_notes_nothing_of_the_stage_of_a_store_in_use() -> None:
    w = killed_store()
    with hs.open("/db", env=w.env) as store:
        store.stream("a").append(b"staged", durability="os")
        report = check(w.env, "/db")
    assert report.sound
    assert report.notes == []


def test_appends_only_in_the_stage_are_counted() -> None:
    (note,) = notes(killed_store().env)
    assert "holds 4 records" in note
    assert "opening the store brings them in" in note


def test_stage_of_another_boot_does_not_count() -> None:
    w = killed_store()
    data = bytearray(w.env.disk.read_all(STAGE))
    data[32:48] = bytes(16)
    with_crc(data)
    w.env.disk.overwrite(STAGE, 0, bytes(data[:80]))
    (note,) = notes(w.env)
    assert "the machine has booted since" in note


def test_header_that_does_not_verify_is_told() -> None:
    w = killed_store()
    w.env.disk.flip(STAGE, 40 * 8)
    (note,) = notes(w.env)
    assert "does not verify" in note


def test_damage_inside_the_stage_is_told_by_the_open_that_replays_it() -> None:
    w = killed_store()
    data = w.env.disk.read_all(STAGE)
    w.env.disk.flip(STAGE, 8 * (data.index(b"os-0:") + 20))
    with hs.open("/db", config=small_config(), env=w.env) as store:
        assert len(list(store.stream("a").read())) == 3
        assert store.recovery.stage_unread > 200
        assert any("were not replayed" in line for line in store.recovery.lines())


def test_entry_that_a_kill_tore_is_no_damage() -> None:
    w = killed_store()
    data = w.env.disk.read_all(STAGE)
    at = data.index(b"more-0:")
    w.env.disk.zero_range(STAGE, at, 100)
    with hs.open("/db", config=small_config(), env=w.env) as store:
        assert len(list(store.stream("a").read())) == 5
        assert store.recovery.stage_unread == 0
        assert len(store.recovery.lines()) == 2


def test_closed_store_has_nothing_in_its_stage() -> None:
    w = fresh()
    must(w.create("a"))
    must(w.append("a", batch("os", 2, 100), level="os"))
    w.restart("close", reopen=False)
    assert w.env.files.exists(STAGE)
    assert notes(w.env) == []


@pytest.mark.parametrize("rounds", [0.5, 1.0, 1.5, 2.5])
def test_closed_store_whose_ring_came_round_is_not_damaged(rounds: float) -> None:
    env = SimEnv()
    config = hs.StoreConfig(os_stage_bytes=64 << 10)
    with hs.open("/s", config=config, env=env) as store:
        stream = store.create_stream("a")
        for _ in range(int(rounds * 64)):
            stream.append(bytes(1000), durability="os")
    with hs.open("/s", config=config, env=env) as store:
        assert store.recovery.stage_unread == 0


def with_crc(data: bytearray) -> None:
    struct.pack_into("<I", data, 8, crc(bytes(data[12:80])))
