"""FORMAT.md, format.h, the comments and the example say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.log.golden import example

PACKAGE = Path(__file__).parent.parent.parent / "hstreamlite"
PAGE = (PACKAGE / "log" / "FORMAT.md").read_text(encoding="utf-8")
HEADER = (PACKAGE / "_native" / "format.h").read_text(encoding="utf-8")
SIZES = {"char": 1, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8}


def structs_of_header() -> dict[str, list[tuple[int, int, str]]]:
    """Return (offset, size, name) of every field of every struct."""
    found = {}
    for name, body in re.findall(r"struct (\w+) \{[^\n]*\n(.*?)\n\};", HEADER, re.DOTALL):
        at = 0
        rows = []
        for kind, names in re.findall(r"^ +(\w+) ([^;]+);", body, re.MULTILINE):
            for field in names.split(", "):
                word, _, count = field.partition("[")
                size = SIZES[kind] * int(count.rstrip("]") or 1)
                rows.append((at, size, word))
                at += size
        found[name] = rows
    return found


def tables_of_page() -> dict[str, list[tuple[int, int, str]]]:
    found = {}
    for part in re.split(r"\n`struct (?=\w+`\n)", PAGE)[1:]:
        name, _, rest = part.partition("`")
        rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", rest.split("\n\n")[1], re.MULTILINE)
        found[name] = [(int(at), int(size), field) for at, size, field in rows]
    return found


@pytest.mark.parametrize("name", structs_of_header())
def test_table_has_the_fields_of_the_struct(name: str) -> None:
    assert tables_of_page()[name] == structs_of_header()[name]


def test_no_table_without_a_struct() -> None:
    assert tables_of_page().keys() == structs_of_header().keys()


def test_magics_are_those_of_the_header() -> None:
    for text in re.findall(r'#define HSL_\w+_MAGIC "?(\w+?)u?"?(?:\s|$)', HEADER):
        assert text in PAGE, text


def test_drawings_are_those_of_the_comments() -> None:
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.[ch]")):
        for drawing in re.findall(r"```\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            if "+---" in drawing:
                assert drawing in PAGE, path


def test_example_is_what_the_script_prints() -> None:
    assert f"```\n{example.example()}\n```" in PAGE
