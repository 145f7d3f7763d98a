"""The documentation is true: its examples run, and its tables are what the code says."""

from __future__ import annotations

import base64
import doctest
import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from types import MappingProxyType

import pytest

import hstreamlite as hs
from hstreamlite import aio, config, errors
from hstreamlite.metrics.stalls import WORDS
from hstreamlite.net.exposition import documented
from tests.docs import reference

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = reference.PAGE.read_text(encoding="utf-8")
SHELLS = [name for name in reference.CLASSES if hasattr(aio, name)]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Examples set it up, for their whole process."""
    loggers = [logging.getLogger(), logging.getLogger("hstreamlite")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


SERVER = re.compile(r"^hstreamlite server --store (\S+)", re.MULTILINE)
PROGRESS = re.compile(r"^[a-z ]+: [\d,]+ of [\d,]+ \(\d+%\)\n", re.MULTILINE)
"""What a command says that takes long, as any does where the machine stands still."""


def parts(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the language of each block of a page, and its text, each line where it stands."""
    language, text = "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines()):
        if not line.startswith("```"):
            text += f"{line}\n" if language else ""
        elif language:
            yield language, text
            language = ""
        else:
            language, text = line[3:], "\n" * (number + 1)


def blocks(page: Path) -> str:
    """Return the Python of a page."""
    return "".join(text.strip() for language, text in parts(page) if language == "python")


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(hs.__file__).parent.parent)}


@contextmanager
def server(*words: str) -> Iterator[dict[str, str]]:
    """Run a server as a page says, but where no other test listens: yield where it listens, by
    what the page has instead."""
    with subprocess.Popen(
        [sys.executable, "-m", "hstreamlite", "server", *words, "--port", "0"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.search(r"ready at \S+:(\d+) .*, HTTP at \S+:(\d+)", ready)
        assert found is not None, ready
        try:
            yield {
                "localhost:6570": f"localhost:{found[1]}",
                "localhost:6580": f"localhost:{found[2]}",
                "127.0.0.1:6570": f"127.0.0.1:{found[1]}",
            }
        finally:
            process.terminate()


def placed(block: str, listening: Mapping[str, str]) -> str:
    """Return a block that finds the server where it listens."""
    for told, real in listening.items():
        block = block.replace(told, real)
    return block


def shell(block: str, listening: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run commands as a person would, in the current directory; return what they print."""
    block = placed(block, listening)
    commands = (
        f'python() {{ "{sys.executable}" "$@"; }}\n'
        'hstreamlite() { python -m hstreamlite "$@"; }\n'
        "curl() { command curl -sS --fail-with-body --noproxy '*' \"$@\"; }\n"
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands + block],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, PROGRESS.sub("", done.stderr)) == (0, ""), block
    return done.stdout


@pytest.fixture
def in_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@each_page
@pytest.mark.usefixtures("in_own_directory")
def test_examples_run(page: Path) -> None:
    names = {"__name__": page.stem}
    with ExitStack() as servers:
        listening: dict[str, str] = {}
        for language, text in parts(page):
            if language == "python":
                exec(compile(text, str(page), "exec", dont_inherit=True), names)
            elif language.startswith("python "):
                Path(language.removeprefix("python ")).write_text(text, encoding="utf-8")
            elif language == "sh" and (started := SERVER.search(text)):
                listening = servers.enter_context(server("--store", started[1]))
            elif language == "sh" and page.name == "tutorial.md":
                shell(text, listening)


@pytest.mark.usefixtures("in_own_directory")
@pytest.mark.skipif(None in map(shutil.which, ("curl", "openssl")), reason="no curl or openssl")
def test_steps_to_tls_and_tokens_work() -> None:
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    page = section(page, "### TLS and tokens, step by step")
    made, asked = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    made, started, _ = made.partition("hstreamlite server --config server.toml\n")
    assert started
    shell(made.replace("-out server.pem", "-out server.pem 2> log"))
    with server("--config", "server.toml") as listening:
        (record,) = json.loads(shell(asked, listening).splitlines()[-1])["records"]
        (block,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        token = Path("billing.token").read_text(encoding="utf-8").split()[1]
        exec(placed(block, listening), {"hs": hs, "token": token})
    assert record["raw"] == base64.b64encode(b"hello").decode()
    with hs.open("data") as store:
        assert [r.payload for r in store.stream("orders").read()] == [b"hello", b"hello"]


def section(page: str, title: str) -> str:
    """Return what is below a title, up to the next one of the page."""
    return re.split(r"^##? ", page.partition(f"{title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.usefixtures("in_own_directory")
def test_a_server_is_backed_up_as_told() -> None:
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"^```sh\n(.*?)^```", section(page, "## Back up and restore"), re.MULTILINE | re.DOTALL
    )
    Path("backups").mkdir()
    with server("--store", "data", "--backup-dir", "backups"):
        (made,) = shell(block, {"/srv/store": str(Path("data").absolute())}).splitlines()
    with hs.open(json.loads(made)["path"], create=False) as store:
        assert store.streams() == []


@pytest.mark.usefixtures("in_own_directory")
@pytest.mark.skipif(find_spec("hstreamdb") is None, reason="HStreamDB's client is not there")
def test_example_of_hstreamdbs_client_runs() -> None:
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    with server("--store", "data") as listening:
        program = f"import asyncio\nasync def main():\n{indent(placed(block, listening), '  ')}"
        subprocess.run([sys.executable, "-c", f"{program}\nasyncio.run(main())"], check=True)
    with hs.open("data") as store:
        assert [r.payload for r in store.stream("orders").read()] == [b"first", {"n": 2}]


def test_there_are_examples() -> None:
    assert len([page for page in PAGES if blocks(page).strip()]) >= 3


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "page",
    [reference.PAGE, reference.CLI_PAGE, reference.METRICS_PAGE],
    ids=lambda page: page.name,
)
def test_tables_are_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert reference.filled(text) == text, "run tests/docs/reference.py --write"


@pytest.mark.usefixtures("in_own_directory")
def test_commands_for_shells_run(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```sh\n(.*?)^```",
        reference.CLI_PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert 'customer-17 1\ncustomer-17 2\ncustomer-17 3\n9 {"' in shell(block)
    with hs.open(tmp_path / "shop", read_only=True) as store:
        assert store.stream("orders").info().records == 4


def test_metrics_in_examples_exist() -> None:
    page = reference.METRICS_PAGE.read_text(encoding="utf-8")
    examples = "".join(re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"hstreamlite_\w+", examples))
    assert named
    assert named <= {name for name, _, _ in documented()}
    reasons = set(re.findall(r'reason="(\w+)"', examples))
    assert reasons <= set(WORDS)
    assert [word for word in WORDS if f"| `{word}` |" not in page] == []


@pytest.mark.parametrize("name", hs.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"\b{name}\b", REFERENCE)


def test_every_public_class_has_a_table() -> None:
    classes = {name for name in hs.__all__ if inspect.isclass(getattr(hs, name))}
    others = {"StoreConfig", *errors.__all__}
    assert classes - others == {*reference.CLASSES, *reference.VALUES}


def test_every_setting_and_limit_is_in_the_reference() -> None:
    names = list(hs.StoreConfig.__dataclass_fields__)
    names += [name for name in vars(config) if re.search("_(MAX|WINDOW)$", name)]
    assert [name for name in names if f"| `{name}` |" not in REFERENCE] == []


def test_every_error_is_in_the_reference() -> None:
    names = [name for name in errors.__all__ if inspect.isclass(getattr(errors, name))]
    assert [name for name in names if f"| `{name}` |" not in REFERENCE] == []


@pytest.mark.parametrize("name", SHELLS)
def test_both_faces_have_the_same_members(name: str) -> None:
    def members(cls: type) -> set[str]:
        found = {member for member in dir(cls) if not member.startswith("_")}
        return found - {"send_if_due", "tick"}

    assert members(getattr(aio, name)) == members(getattr(hs, name))


def modules() -> list[str]:
    found = pkgutil.walk_packages(hs.__path__, "hstreamlite.")
    return [info.name for info in found if not info.name.endswith(("_lib", "build", "__main__"))]


@pytest.mark.parametrize("name", ["hstreamlite", *modules()])
def test_doctests_pass(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
