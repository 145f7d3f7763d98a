"""The documentation is true: its examples run, and its tables are what the code says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import aio, config, errors
from tests.docs import reference

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = reference.PAGE.read_text(encoding="utf-8")
SHELLS = [name for name in reference.CLASSES if hasattr(aio, name)]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> str:
    """Return the Python of a page, each line at the place where it stands."""
    lines = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```python"
        lines.append(line if inside and not line.startswith("```") else "")
    return "\n".join(lines)


@pytest.fixture
def in_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@each_page
@pytest.mark.usefixtures("in_own_directory")
def test_examples_run(page: Path) -> None:
    code = compile(blocks(page), str(page), "exec", dont_inherit=True)
    exec(code, {"__name__": page.stem})


def test_there_are_examples() -> None:
    assert len([page for page in PAGES if blocks(page).strip()]) >= 3


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_tables_are_what_the_code_says() -> None:
    assert reference.filled(REFERENCE) == REFERENCE, "run tests/docs/reference.py --write"


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
