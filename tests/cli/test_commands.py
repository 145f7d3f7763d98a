"""Commands as a person runs them: exit code, what is printed, what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hstreamlite", *arguments], capture_output=True, text=True
    )


def segments(path: Path) -> list[Path]:
    return sorted((path / "segments").glob("*.seg"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with hs.open(path) as opened:
        stream = opened.create_stream("orders")
        for i in range(20):
            stream.append(b"%d" % i * 100, key="k")
    return path


def overwrite(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\x00\xff")


def test_sound_store_gives_0(store: Path) -> None:
    done = command("check", str(store))
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, [])
    assert f"{store}: sound" in done.stdout
    assert "20 records of 1 streams verified" in done.stdout


def test_damaged_store_gives_1_and_names_what_is_lost(store: Path) -> None:
    (segment,) = segments(store)
    overwrite(segment, 5 * 4096 + 130)
    done = command("check", str(store))
    assert done.returncode == 1
    assert "stream 'orders': record 1-4 unreadable" in done.stdout
    assert f"hstreamlite salvage {store} " in done.stdout
    as_json = command("check", "--json", str(store))
    assert as_json.returncode == 1
    facts = json.loads(as_json.stdout)
    assert facts["sound"] is False
    assert facts["damage"][0]["lost"][0]["first"] == 4


def test_store_in_use_is_checked(store: Path) -> None:
    with hs.open(store) as opened:
        opened.stream("orders").append(b"more")
        done = command("check", str(store))
    assert done.returncode == 0, done.stdout
    assert "21 records" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("check",), ("check", ""), ("repair", "x")])
def test_wrong_usage_gives_2(arguments: tuple[str, ...]) -> None:
    assert command(*arguments).returncode == 2


@pytest.mark.parametrize("kind", ["missing", "file", "other", "empty", "newer"])
def test_what_is_no_store_gives_3_and_stays(kind: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
    if kind == "other":
        (path / "letter.txt").write_text("x")
    if kind == "newer":
        path = store
        for slot in (0, 4096):
            rewrite_version(store / "SUPER", slot)
    done = command("check", str(path))
    assert done.returncode == 3, done.stdout
    assert done.stderr.startswith("hstreamlite check: ")
    assert len(done.stderr.splitlines()) == 1
    assert path.exists() is (kind != "missing")


def rewrite_version(path: Path, slot: int) -> None:
    from hstreamlite._native import ffi, lib

    data = bytearray(path.read_bytes())
    page = data[slot : slot + 4096]
    page[12:14] = (9).to_bytes(2, "little")
    crc = int(lib.hsl_crc32c(0, ffi.from_buffer(bytes(page[12:])), 4084))
    page[8:12] = crc.to_bytes(4, "little")
    data[slot : slot + 4096] = page
    path.write_bytes(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_store_without_permission_gives_3(store: Path) -> None:
    (store / "segments").chmod(0)
    try:
        done = command("check", str(store))
    finally:
        (store / "segments").chmod(0o700)
    assert done.returncode == 3
    assert "Permission denied" in done.stderr


def test_help_tells_the_exit_codes() -> None:
    for arguments in (("--help",), ("check", "--help")):
        done = command(*arguments)
        assert done.returncode == 0
        assert "exit codes:" in done.stdout


def test_salvage_saves_the_rest_and_gives_1(store: Path, tmp_path: Path) -> None:
    (segment,) = segments(store)
    overwrite(segment, 5 * 4096 + 130)
    before = segment.read_bytes()
    done = command("salvage", str(store), str(tmp_path / "new"))
    assert done.returncode == 1, done.stderr
    assert "stream 'orders': record 1-4 unreadable" in done.stdout
    assert "19 records saved" in done.stdout
    assert segment.read_bytes() == before
    assert command("check", str(tmp_path / "new")).returncode == 0
    again = command("salvage", str(store), str(tmp_path / "new"))
    assert again.returncode == 3
    assert "not empty" in again.stderr
    assert command("salvage", str(store), str(store / "new")).returncode == 2
    with hs.open(tmp_path / "new") as opened:
        opened.stream("orders").append(b"goes on")
        assert opened.stream("orders").tail() == hs.RecordId(1, 21, 0)


def test_salvage_leaves_a_store_in_use_alone(store: Path, tmp_path: Path) -> None:
    with hs.open(store):
        done = command("salvage", str(store), str(tmp_path / "new"))
    assert done.returncode == 3
    assert "is open for writing" in done.stderr
    assert not (tmp_path / "new").exists()
