"""Things in a store's directory that are no regular files, or are not there at all.

Goal: every one of them is reported as damage by a check, refused by an open, and passed over by a
salvage; nothing waits for the other end of a pipe. Method: real files; each command in a process of
its own, which a wait would leave hanging.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native.files import real_env
from hstreamlite.errors import NotAStore
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests.tools.images import Injury, damaged, image

SEGMENT = "segments/0000000000000001.seg"
SECONDS = 60

Change = Callable[[Path], object]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hstreamlite", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def opened(path: Path, **options: bool) -> str:
    """Open in another process; return the name of the error, or "opened"."""
    program = (
        "import sys, hstreamlite as hs\n"
        "try:\n"
        f"    hs.open(sys.argv[1], **{options}).close()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "else:\n"
        "    print('opened')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with hs.open(path) as opened:
        stream = opened.create_stream("orders")
        stream.append(b"first")
        stream.append(b"os", durability="os")
    return path


def pipe(name: str) -> Change:
    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)

    return change


def directory(name: str) -> Change:
    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).mkdir()
        (path / name / "inside").touch()

    return change


def link(name: str) -> Change:
    def change(path: Path) -> None:
        aside = path.parent / "aside"
        (path / name).rename(aside)
        (path / name).symlink_to(aside)

    return change


def no_segments(path: Path) -> None:
    shutil.rmtree(path / "segments")


def plain_segments(path: Path) -> None:
    no_segments(path)
    (path / "segments").write_text("x")


ODD = {
    "pipe for a segment": (pipe(SEGMENT), SEGMENT, "a pipe"),
    "directory for a segment": (directory(SEGMENT), SEGMENT, "a directory"),
    "link for a segment": (link(SEGMENT), SEGMENT, "a link"),
    "pipe beside the segments": (pipe("segments/00000000000000ff.seg"), "ff.seg", "a pipe"),
    "pipe for the superblock": (pipe("SUPER"), "SUPER", "a pipe"),
    "directory for the superblock": (directory("SUPER"), "SUPER", "a directory"),
    "directory for the stage": (directory("STAGE"), "STAGE", "a directory"),
    "pipe for the tail": (pipe("TAIL"), "TAIL", "a pipe"),
    "directory for the spare": (directory("segments/spare"), "spare", "a directory"),
    "no directory of segments": (no_segments, "segments", "missing"),
    "file for the directory of segments": (plain_segments, "segments", "a file"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_damage_to_check_and_never_waited_for(kind: str, store: Path) -> None:
    change, name, what = ODD[kind]
    change(store)
    done = command("check", str(store))
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert [s for s in done.stdout.splitlines() if f"{name}: " in s and what in s], done.stdout
    assert opened(store) != "opened"
    assert opened(store, read_only=True, accept_damage=True) in ("opened", "CorruptionError")
    assert command("salvage", str(store), str(store.parent / "new")).returncode == 1
    assert check(real_env(), str(store.parent / "new")).sound


@pytest.mark.parametrize("number", ["ffffffffffffffff", "8000000000000001"])
@pytest.mark.parametrize("content", [b"", b"x" * 5000], ids=["empty", "text"])
def test_what_open_refuses_beside_whole_segments_is_damage_to_check(
    number: str, content: bytes, store: Path
) -> None:
    name = f"segments/{number}.seg"
    (store / name).write_bytes(content)
    assert opened(store) == "CorruptionError"
    report = check(real_env(), str(store))
    (damage,) = report.damage
    assert (damage.path, damage.start, damage.length) == (
        str(store / name),
        0,
        min(len(content), 4096),
    )
    assert damage.lost == ()
    salvage = command("salvage", str(store), str(store.parent / "new"))
    assert salvage.returncode in (0, 1), salvage.stderr
    with hs.open(store.parent / "new") as saved:
        assert [r.payload for r in saved.stream("orders").read()] == [b"first", b"os"]


@pytest.mark.parametrize("make", [pipe("LOCK"), directory("LOCK"), pipe("STAGE")])
def test_open_waits_for_no_pipe(make: Change, store: Path) -> None:
    make(store)
    assert opened(store) == "CorruptionError"


@pytest.mark.parametrize("make", [pipe("LOCK"), directory("LOCK"), link("LOCK")])
def test_a_lock_that_is_no_file_is_told_how_to_be_got_rid_of(make: Change, store: Path) -> None:
    make(store)
    with pytest.raises(hs.CorruptionError, match=r"expected a regular file.*remove it") as caught:
        hs.open(store)
    assert caught.value.path == str(store / "LOCK")
    lock = store / "LOCK"
    if lock.is_dir() and not lock.is_symlink():
        shutil.rmtree(lock)
    else:
        lock.unlink()
    assert opened(store) == "opened"


def test_a_directory_of_segments_that_leads_to_itself_is_damage(store: Path) -> None:
    no_segments(store)
    (store / "segments").symlink_to("segments")
    for read_only in (False, True):
        with pytest.raises(hs.CorruptionError, match="a link that leads to itself"):
            hs.open(store, read_only=read_only)
    report = check(real_env(), str(store))
    assert any("a link that leads to itself" in damage.what for damage in report.damage)


def test_pipe_for_a_segment_is_refused_with_its_path(store: Path) -> None:
    pipe(SEGMENT)(store)
    for read_only in (False, True):
        with pytest.raises(hs.CorruptionError, match="a pipe or a device") as caught:
            hs.open(store, read_only=read_only)
        assert caught.value.path == str(store / SEGMENT)


@pytest.mark.parametrize("read_only", [False, True])
def test_open_refuses_a_store_without_its_directory_of_segments(
    store: Path, *, read_only: bool
) -> None:
    no_segments(store)
    with pytest.raises(hs.CorruptionError, match="directory of the segments"):
        hs.open(store, read_only=read_only)
    (store / "segments").write_text("x")
    with pytest.raises(hs.CorruptionError, match="found a file"):
        hs.open(store, read_only=read_only)


def test_link_that_leads_nowhere_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(NotAStore, match="a link that leads nowhere"):
        hs.open(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_links_do_not_let_a_copy_into_the_store(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    (tmp_path / "within").symlink_to(store / "segments")
    for target in (tmp_path / "link" / "new", tmp_path / "within" / "new"):
        done = command("salvage", str(store), str(target))
        assert (done.returncode, "inside the store" in done.stderr) == (2, True)
        with hs.open(store) as opened, pytest.raises(ValueError, match="inside the store"):
            opened.backup(target)
    with hs.open(tmp_path / "link") as opened:
        with pytest.raises(ValueError, match="inside the store"):
            opened.backup(store / "copy")
        opened.backup(tmp_path / "copy")
    done = command("salvage", str(tmp_path / "link"), str(store / "new"))
    assert done.returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "link", "store", "within"]


def test_copy_is_not_built_where_the_store_is(store: Path, tmp_path: Path) -> None:
    store.rename(tmp_path / "copy.partial")
    with hs.open(tmp_path / "copy.partial") as opened, pytest.raises(ValueError, match="itself"):
        opened.backup(tmp_path / "copy")
    done = command("salvage", str(tmp_path / "copy.partial"), str(tmp_path / "copy"))
    assert done.returncode == 2
    assert "remove" not in done.stderr


@pytest.mark.parametrize("leads", ["nowhere", "to a directory", "to a file"])
def test_target_that_is_a_link_is_refused_before_anything_is_read(
    leads: str, store: Path, tmp_path: Path
) -> None:
    if leads == "to a directory":
        (tmp_path / "there").mkdir()
    if leads == "to a file":
        (tmp_path / "there").touch()
    (tmp_path / "new").symlink_to(tmp_path / "there")
    told: list[tuple[int, int]] = []
    with hs.open(store) as opened, pytest.raises(FileExistsError, match="is a link"):
        opened.backup(tmp_path / "new", progress=lambda *at: told.append(at))
    with pytest.raises(FileExistsError, match="is a link"):
        salvage(real_env(), str(store), str(tmp_path / "new"), lambda *at: told.append(at))
    assert told == []
    assert not (tmp_path / "new.partial").exists()


def test_missing_parent_of_a_target_is_named(store: Path, tmp_path: Path) -> None:
    done = command("salvage", str(store), str(tmp_path / "no" / "new"))
    assert done.returncode == 3
    assert f"{tmp_path / 'no'}: " in done.stderr
    assert "partial" not in done.stderr
    with hs.open(store) as opened, pytest.raises(FileNotFoundError) as caught:
        opened.backup(tmp_path / "no" / "copy")
    assert caught.value.filename == str(tmp_path / "no")


def test_advice_for_a_path_that_does_not_exist_is_not_to_make_one(tmp_path: Path) -> None:
    done = command("check", str(tmp_path / "nope"))
    assert done.returncode == 3
    assert "it does not exist; give the directory of a store" in done.stderr
    with pytest.raises(NotAStore, match="give the directory of a store"):
        hs.open(tmp_path / "nope", create=False)
    (tmp_path / "letter").touch()
    with pytest.raises(NotAStore, match="give an empty or a new directory"):
        hs.open(tmp_path)


def test_names_of_all_kinds_are_told_on_one_line(store: Path) -> None:
    (store / "segments" / "a\nb\x1b[2J").touch()
    (store / "segments" / "\udcff").touch()
    done = command("check", str(store))
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if "is not a file of this store" in line]
    assert len(notes) == 2
    assert "\x1b" not in done.stdout


def test_store_on_a_read_only_file_system_is_salvaged() -> None:
    of = image("closed")
    w = damaged(of, [Injury("flip", of.blocks[0].path, of.blocks[0].start + 70, 0)])
    w.env.disk.inject(Fail(ops=Op.LOCK, path="/db/LOCK", errno=30, nth=2))
    report = salvage(w.env, "/db", "/new")
    assert report.records > 0
    assert check(w.env, "/new").sound


def test_superblock_that_the_device_cannot_read_is_damage() -> None:
    w = damaged(image("closed"), [])
    w.env.disk.inject(Fail(ops=Op.PREAD, path="/db/SUPER", from_then_on=True))
    report = check(w.env, "/db")
    assert "/db/SUPER" in {damage.path for damage in report.damage}
    assert salvage(w.env, "/db", "/new").records > 0


def test_store_in_use_names_what_can_be_done_beside_its_owner(store: Path) -> None:
    with hs.open(store), pytest.raises(hs.StoreLocked, match=r"read_only=True.*follows") as caught:
        hs.open(store, read_only=True, accept_damage=True)
    assert "hstreamlite check" in str(caught.value)
