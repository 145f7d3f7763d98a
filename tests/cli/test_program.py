"""The command line as a whole: how it is loaded, where it looks for stores, how it ends."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import cli
from hstreamlite.cli import stream
from hstreamlite.cli.exits import Exit
from hstreamlite.cli.index import COMMANDS, CORE
from hstreamlite.cli.output import duration
from hstreamlite.cli.values import seconds_of
from tests.cli.person import Person

PROGRAM = [sys.executable, "-m", "hstreamlite"]

WITHOUT_CLICK = """
import sys
sys.modules.update(dict.fromkeys(["click", "rich", "rich_click"]))
from hstreamlite.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def shell(line: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which $HS is the program and $STORE is the directory."""
    env = os.environ | {"HS": " ".join(PROGRAM), "STORE": str(path)}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=env
    )


def test_help_shows_every_command_and_loads_no_store() -> None:
    code = "import sys; from hstreamlite.__main__ import main; assert main(['--help']) == 0; "
    code += "assert 'hstreamlite._native' not in sys.modules, 'loaded'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [name for name in COMMANDS if name not in done.stdout] == []
    assert [text for text in ("0 done", "2 wrong usage", "130") if text not in done.stdout] == []


def test_without_the_libraries_the_core_commands_work(orders: Person) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_CLICK, *words], capture_output=True, text=True
        )

    assert run("check", str(orders.path)).returncode == 0
    helped = run("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "pip install 'hstreamlite[cli]'" in helped.stdout
    assert [name for name in COMMANDS if name not in helped.stdout] == []
    refused = run("stream", "list", "--store", str(orders.path))
    assert refused.returncode == 2
    assert refused.stderr == (
        "hstreamlite stream: needs the libraries of the command line; run "
        "pip install 'hstreamlite[cli]'\n"
    )
    assert run("nonsense").returncode == 2
    assert run().returncode == 2


def test_core_commands_are_listed_with_the_others() -> None:
    assert set(CORE) < set(COMMANDS)


class TestWhichStore:
    def test_nearest_counts(self, orders: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(orders.path)
        monkeypatch.setenv("HSTREAMLITE_STORE", "/nowhere")
        assert cli.main(["stream", "list", "--store", path]) == 0
        assert cli.main(["--store", "/nowhere", "stream", "list", "--store", path]) == 0
        assert cli.main(["--store", path, "stream", "list"]) == 0
        assert cli.main(["stream", "list"]) == 3
        monkeypatch.setenv("HSTREAMLITE_STORE", path)
        assert cli.main(["stream", "list"]) == 0
        monkeypatch.setenv("HSTREAMLITE_STORE", "")
        assert cli.main(["stream", "list"]) == 2

    def test_none_is_told_how(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["stream", "list"]) == 2
        assert "--store PATH" in capfd.readouterr().err

    @pytest.mark.parametrize("kind", ["file", "other", "long"])
    def test_what_is_no_store_gives_3_and_stays(self, kind: str, person: Person) -> None:
        if kind == "file":
            person.path.write_text("x")
        elif kind == "other":
            person.path.mkdir()
            (person.path / "letter.txt").write_text("x")
        else:
            person.path /= "x" * 200
        for words in (["list"], ["create", "s"], ["append", "s"]):
            assert person.fails("stream", *words)[0] == 3


def test_wrong_usage_is_one_line(person: Person) -> None:
    for words in (["nonsense"], ["stream", "nonsense"], ["stream", "list", "--nonsense"]):
        code, said = person.fails(*words)
        assert code == 2
        assert "--help`" in said
    assert person.fails("sevrer")[1].count("Did you mean 'server'?") == 1
    assert "no-file. See" not in person.fails("stream", "append", "s", "no-file")[1]
    assert "Missing command" in person.fails()[1]
    for bare in ([], ["stream"]):
        assert cli.main(bare) == 2
        assert b"Usage:" in person.out.readouterr().err


def test_program_before_core_commands_takes_options(orders: Person) -> None:
    assert b"sound" in orders.prints("check", str(orders.path))
    assert orders.types("check", "--json", f"{orders.path}.no")[0] == 3
    assert orders.fails("demo", "--days", "1")[0] == 2


def test_failure_of_the_program_itself_is_told_whole(
    orders: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stream, "plain", fails)
    assert orders.types("stream", "list")[0] == Exit.UNREACHABLE
    assert "ZeroDivisionError: a bug" in orders.said


def test_version_and_help_give_0() -> None:
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0


class TestEnds:
    @pytest.fixture
    def filled(self, orders: Person) -> Person:
        with hs.open(orders.path) as store:
            store.stream("orders").append_many([b"x" * 100] * 5000)
        return orders

    @pytest.mark.parametrize(
        ("line", "code", "said"),
        [
            ("$HS stream read orders --store $STORE | head -1", 0, ""),
            ("$HS stream follow orders --from earliest --store $STORE | head -1", 0, ""),
            ("$HS stream read orders --store $STORE >&-", 0, ""),
            ("$HS stream read orders --store $STORE >/dev/full", 3, "cannot print: No space left"),
            ("$HS stream list --store $STORE >/dev/full", 3, "cannot print: No space left"),
            ("$HS stream nonsense 2>&-", 2, ""),
            ("$HS stream append orders --store $STORE <&-", 2, "standard input is closed"),
        ],
    )
    def test_nobody_has_to_listen(self, line: str, code: int, said: str, filled: Person) -> None:
        done = shell(line, filled.path)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == bool(said), done.stderr

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, 143)]
    )
    def test_signal_ends_it_quietly(self, number: int, code: int, filled: Person) -> None:
        words = ["stream", "follow", "orders", "--from", "earliest", "--store", str(filled.path)]
        with subprocess.Popen(
            [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(5000):
                process.stdout.readline()
            process.send_signal(number)
            rest, said = process.communicate()
        assert (process.returncode, rest, said) == (code, b"", b"")

    def test_signal_handler_is_given_back(self, filled: Person) -> None:
        before = signal.getsignal(signal.SIGTERM)
        filled.json("stream", "list")
        assert signal.getsignal(signal.SIGTERM) is before


def on_terminal(*words: str, **env: str) -> str:
    """Run a command on a terminal and return what it shows."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"} | env,
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError as error:
            assert error.errno == errno.EIO  # the other end is closed
        finally:
            os.close(leader)
    assert process.returncode == 0, shown
    return shown.decode()


def test_terminal_gets_tables_text_and_colour(orders: Person, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"a line\n" * 3)
    where = ("--store", str(orders.path))
    assert "appended 3 records" in on_terminal("stream", "append", "orders", str(file), *where)
    coloured = on_terminal("stream", "list", *where)
    assert "records" in coloured
    assert "\x1b[" in coloured
    plain = on_terminal("stream", "list", *where, NO_COLOR="1")
    assert "\x1b[3" not in plain
    assert on_terminal("stream", "read", "orders", *where).splitlines()[0].endswith("a line")
    assert '"records": 3' in on_terminal("stream", "list", "--json", *where)
    on_terminal("stream", "create", "kept", "-b", "1h30m", *where)
    assert "1h30m" in on_terminal("stream", "list", *where)
    assert "1h30m" in on_terminal("stream", "describe", "kept", *where)


@pytest.mark.parametrize("text", ["0", "0.25s", "59.5s", "1m", "1h30m", "7d", "1d1m"])
def test_durations_are_shown_as_options_take_them(text: str) -> None:
    seconds = seconds_of(text)
    assert seconds is not None
    assert duration(seconds) == text
