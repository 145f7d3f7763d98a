"""What a shell is told when a person presses the key that completes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from hstreamlite import cli
from tests.cli.person import Person


def completes(person: Person, line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what stands at the end of the line, the word there completed."""
    words = line.split(" ")
    monkeypatch.setenv("_HSTREAMLITE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    code = cli.main([])
    found = person.out.readouterr()
    assert (code, found.err) == (0, b"")
    return [row.partition(",")[2] for row in found.out.decode().split()]


@pytest.fixture
def named(orders: Person, monkeypatch: pytest.MonkeyPatch) -> Person:
    orders.json("stream", "create", "other")
    orders.json("subscription", "create", "billing", "--stream", "orders")
    monkeypatch.setenv("HSTREAMLITE_STORE", str(orders.path))
    return orders


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("hstreamlite str", ["stream"]),
        ("hstreamlite stream des", ["describe"]),
        ("hstreamlite stream read ", ["orders", "other"]),
        ("hstreamlite stream describe or", ["orders"]),
        ("hstreamlite stream create or", []),
        ("hstreamlite subscription consume b", ["billing"]),
        ("hstreamlite sub seek ", ["billing"]),
        ("hstreamlite subscription create s --stream oth", ["other"]),
        ("hstreamlite stream read orders --unt", ["--until"]),
        ("hstreamlite stream append orders --compression z", ["zstd"]),
        ("hstreamlite --store /nowhere stream read ", []),
        ("hstreamlite stream read --store /nowhere ", []),
        ("hstreamlite subscription describe --store /nowhere ", []),
    ],
)
def test_words(line: str, found: list[str], named: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completes(named, line, monkeypatch) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, person: Person) -> None:
    script = person.prints("completion", shell).decode()
    assert f"_HSTREAMLITE_COMPLETE={shell}_complete" in script


def test_other_shells_are_refused(person: Person) -> None:
    assert person.fails("completion", "tcsh")[0] == 2
    assert person.fails("completion")[0] == 2


def test_bash_takes_the_script(named: Person) -> None:
    script = named.prints("completion", "bash").decode()
    bash = shutil.which("bash")
    assert bash is not None
    program = f'hstreamlite() {{ "{sys.executable}" -m hstreamlite "$@"; }}; export -f hstreamlite'
    press = (
        "COMP_WORDS=(hstreamlite stream describe oth); COMP_CWORD=3; "
        "_hstreamlite_completion hstreamlite; echo ${COMPREPLY[@]}"
    )
    asked = script.replace("$1)", f'"{sys.executable}" -m hstreamlite)')
    done = subprocess.run(
        [bash, "-c", f"{program}\n{asked}\n{press}"], capture_output=True, text=True
    )
    assert done.stdout == "other\n", done.stderr
