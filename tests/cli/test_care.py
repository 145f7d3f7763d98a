"""The commands that need the core alone: exit code, what is printed, what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import cli
from hstreamlite.cli import care
from hstreamlite.cli.exits import Exit


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
        assert "exit codes:" in done.stdout.lower()


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
    assert "the directory is not empty; choose another name" in again.stderr
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


def shell(line: str, store: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which $CHECK is the command."""
    check = f"{sys.executable} -m hstreamlite check {store}"
    return subprocess.run(
        ["sh", "-c", line.replace("$CHECK", check)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$CHECK >&-", 0),
        ("$CHECK 2>&-", 0),
        ("$CHECK <&- >&- 2>&-", 0),
        ("$CHECK 2>/dev/full", 0),
        ("$CHECK >/dev/full", 3),
        ("$CHECK/nope 2>&-", 3),
        ("{ $CHECK; echo $? >&2; } | true", 0),
    ],
)
def test_nobody_has_to_listen(line: str, code: int, store: Path) -> None:
    done = shell(line, store)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if line.endswith("/dev/full") and code:
        assert "cannot print the report: No space left" in done.stderr
    if line.endswith("true"):
        assert done.stderr.split()[-1] == "0"


def test_names_that_cannot_be_printed_are_escaped(store: Path) -> None:
    odd = store.rename(store.parent / "gr\u00f6\udcff\nsse")
    for arguments in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "hstreamlite", "check", *arguments, os.fsencode(odd)],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(b"Traceback") == 0
        assert b"sound" in done.stdout


def test_failure_of_the_program_itself_is_not_taken_for_damage(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(care, "check", fails)
    assert cli.main(["check", str(store)]) == Exit.UNREACHABLE
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


INTERRUPTED_SOON = """
import signal, sys
from hstreamlite import cli
from hstreamlite.cli import care
from hstreamlite.cli.exits import Exit
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    code = cli.main(sys.argv[2:])
    signal.setitimer(signal.ITIMER_REAL, 0)
except KeyboardInterrupt:
    code = Exit.INTERRUPTED
sys.exit(code)
"""


def test_interrupt_at_any_time_leaves_nothing(store: Path, tmp_path: Path) -> None:
    """Also one that comes just before or behind the command."""
    with hs.open(store) as opened:
        opened.stream("orders").append_many([b"x" * 1000] * 5000)
    (segment, *_) = segments(store)
    overwrite(segment, 5 * 4096 + 130)
    codes = []
    for number in range(1, 60, 2):
        target = tmp_path / f"new{number}"
        arguments = [f"{number * 0.001}", "salvage", str(store), str(target)]
        done = subprocess.run([sys.executable, "-c", INTERRUPTED_SOON, *arguments])
        codes.append(done.returncode)
        if target.exists():
            assert cli.main(["check", str(target)]) == Exit.DONE
        else:
            assert codes[-1] == Exit.INTERRUPTED
    assert set(codes) <= {Exit.REFUSED, Exit.INTERRUPTED}
    assert Exit.INTERRUPTED in codes
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["SUPER", "segments/0000000000000001.seg"])
def test_empty_file_is_damage(name: str, store: Path) -> None:
    (store / name).write_bytes(b"")
    assert command("check", str(store)).returncode == 1
    assert command("salvage", str(store), f"{store}.new").returncode == 1


@pytest.mark.parametrize("name", ["TAIL", "STAGE", "LOCK"])
def test_garbage_in_what_only_helps_costs_nothing(name: str, store: Path) -> None:
    (store / name).write_bytes(b"\xff" * 70_000)
    assert command("check", str(store)).returncode == 0
    assert command("salvage", str(store), f"{store}.new/").returncode == 0
    with hs.open(store, read_only=True, accept_damage=True) as opened:
        assert len(list(opened.stream("orders").read())) == 20
    with hs.open(store) as opened:
        assert len(list(opened.stream("orders").read())) == 20
