"""House rules, checked over the tree. Each rule is a function from source to complaints."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hstreamlite"
LINE_COLUMNS_MAX = 100

OUTSIDE_WORLD = {
    "hstreamlite/env.py": "the one seam to clock, chance, threads and files",
    "hstreamlite/_native/": "the build, and the loading of the extension module",
    "hstreamlite/testing/": "drives real processes and seeded worlds",
    "hstreamlite/cli": "a program, not a part of the library",
    "hstreamlite/demo": "a program, not a part of the library",
    "hstreamlite/net": "the shell for sockets",
    "hstreamlite/signals.py": "what is of the process, and not of a store's world",
    "hstreamlite/remote/address.py": "calls a socket by a handle of its directory",
    "hstreamlite/remote/security.py": "reads keys and certificates for the shell for sockets",
    "hstreamlite/__main__.py": "a program, not a part of the library",
}
EVENT_LOOPS = OUTSIDE_WORLD | {
    "hstreamlite/aio": "the shell for asyncio",
    "hstreamlite/remote": "lives on the loop that its connection needs",
}
PRINTERS = {
    "hstreamlite/__main__.py": "talks to its user",
    "hstreamlite/cli": "talks to its user",
    "hstreamlite/demo": "talks to its user",
    "hstreamlite/net/main.py": "talks to its user",
    "hstreamlite/testing/": "workers tell the process that started them where they are",
}
SYSTEM_CALLERS = {
    "hstreamlite/_native/io_posix.c": "the one seam of the native core",
    "hstreamlite/_native/notify.c": "wakes an event loop through a descriptor the loop gave",
}
ENTRY_POINTS = {
    "hstreamlite.__main__": "run by python -m hstreamlite",
    "hstreamlite._native.build": "run by setup.py",
    "hstreamlite.testing.pytest_plugin": "loaded by pytest",
    "hstreamlite.typed": "called by the native core",
}
# A part may land before what uses it, with its tests; so tests count as users.
USERS = ("hstreamlite", "tests", "benchmarks")

BANNED_MODULES = frozenset(
    [
        "_thread",
        "fcntl",
        "mmap",
        "multiprocessing",
        "random",
        "secrets",
        "select",
        "shutil",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    ]
)
PURE_OS = frozenset(["PathLike", "fsdecode", "fsencode", "fspath", "path", "strerror"])
FILE_METHODS = frozenset(["read_bytes", "read_text", "write_bytes", "write_text"])
# clock_gettime is missing: a condition variable's deadline is told in the system's own clock.
SYSTEM_CALLS = re.compile(
    r"(?<![\w.>])("
    r"open|openat|creat|close|read|write|pread|pwrite|preadv|pwritev|readv|writev|lseek|fsync"
    r"|fdatasync|sync_file_range|ftruncate|truncate|fallocate|posix_fallocate|f?stat|statvfs"
    r"|rename|renameat|unlink|unlinkat|mkdir|rmdir|link|opendir|readdir|flock|fcntl|mmap|munmap"
    r"|msync|fopen|fread|fwrite|fclose|gettimeofday|time|nanosleep|usleep|sleep"
    r"|rand|random|getrandom"
    r")\s*\("
)
LEFTOVERS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")


def files(*suffixes: str, under: tuple[str, ...] = ("hstreamlite",)) -> list[Path]:
    found = (path for top in under for path in (ROOT / top).rglob("*") if path.suffix in suffixes)
    return sorted(
        path for path in found if path.name != "_lib.c" and "_pb2" not in path.name
    )  # those are generated


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_in(path: Path, allowed: dict[str, str]) -> bool:
    return name_of(path).startswith(tuple(allowed))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of all that is imported, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            yield node.lineno, source
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def outside_world(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for line, name in imports(tree):
        top, _, rest = name.partition(".")
        if top in BANNED_MODULES or (top == "os" and rest and rest.split(".")[0] not in PURE_OS):
            yield f"{line}: imports {name}"
    own_open = any(isinstance(n, ast.FunctionDef) and n.name == "open" for n in tree.body)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="open")) if not own_open:
                yield f"{node.lineno}: calls open"
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr not in PURE_OS:
                yield f"{node.lineno}: uses os.{attr}"
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in FILE_METHODS:
                yield f"{node.lineno}: calls {attr}"


def event_loops(source: str) -> Iterator[str]:
    for line, name in imports(ast.parse(source)):
        if name.split(".")[0] == "asyncio":
            yield f"{line}: imports {name}"


def prints(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield f"{node.lineno}: prints"


def sleeps(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for line, name in imports(tree):
        if name == "time.sleep":
            yield f"{line}: imports time.sleep"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep")):
                yield f"{node.lineno}: sleeps"
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="asyncio"), attr="sleep"),
                args=[ast.Constant(value=value)],
            ) if value:
                yield f"{node.lineno}: sleeps"


def leftovers(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if LEFTOVERS.search(line):
            yield f"{number}: {line.strip()}"


def long_lines(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield f"{number}: {len(line)} columns"


def without_comments(source: str) -> str:
    """Blank out comments and strings of C, keeping the lines."""
    tokens = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"'
    return re.sub(tokens, lambda m: "\n" * m[0].count("\n"), source, flags=re.DOTALL)


def system_calls(source: str) -> Iterator[str]:
    for number, line in enumerate(without_comments(source).splitlines(), 1):
        for match in SYSTEM_CALLS.finditer(line):
            yield f"{number}: calls {match[1]}"


def python_headers(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if re.match(r"\s*#\s*include\s*[<\"](Python|hsl_py)\.h", line):
            yield f"{number}: {line.strip()}"


def preprocessor_lines(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("#"):
            yield f"{number}: {line.strip()}"


Rule = Callable[[str], Iterator[str]]


def complaints(rule: Rule, paths: list[Path]) -> list[str]:
    assert paths, "a rule that looks at nothing holds nothing"
    return [
        f"{name_of(path)}:{complaint}"
        for path in paths
        for complaint in rule(path.read_text(encoding="utf-8"))
    ]


EVERYWHERE = ("hstreamlite", "tests", "benchmarks", "build_backend")


def test_only_the_seam_touches_clock_chance_threads_and_files() -> None:
    inside = [path for path in files(".py") if not is_in(path, OUTSIDE_WORLD)]
    assert complaints(outside_world, inside) == []


def test_only_the_async_shell_knows_asyncio() -> None:
    inside = [path for path in files(".py") if not is_in(path, EVENT_LOOPS)]
    assert complaints(event_loops, inside) == []


def test_the_library_prints_nothing() -> None:
    assert complaints(prints, [path for path in files(".py") if not is_in(path, PRINTERS)]) == []


def test_tests_do_not_sleep() -> None:
    assert complaints(sleeps, files(".py", under=("tests",))) == []


def test_nothing_is_left_for_later() -> None:
    assert complaints(leftovers, files(".py", ".c", ".h", ".md", under=EVERYWHERE)) == []


def test_lines_fit() -> None:
    assert complaints(long_lines, files(".py", ".pyi", ".c", ".h", under=EVERYWHERE)) == []


def test_only_io_posix_calls_the_system() -> None:
    inside = [path for path in files(".c") if not is_in(path, SYSTEM_CALLERS)]
    assert complaints(system_calls, inside) == []


def test_only_the_glue_knows_python() -> None:
    inside = [path for path in files(".c", ".h") if not path.name.startswith("py_")]
    glue_header = PACKAGE / "_native" / "hsl_py.h"
    assert complaints(python_headers, [path for path in inside if path != glue_header]) == []


def test_declarations_hold_no_preprocessor_lines() -> None:
    declared = [path for path in files(".h") if path.name.endswith("_api.h")]
    assert complaints(preprocessor_lines, declared) == []


def test_every_header_is_included() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in files(".c", ".h"))
    headers = [path.name for path in files(".h")]
    assert [name for name in headers if f'#include "{name}"' not in sources] == []


def test_every_module_is_imported() -> None:
    used: set[str] = set()
    for path in files(".py", under=USERS):
        module = module_of(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used.update(name for _, name in imports(tree, package) if name != module)
        used.update(
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and path.is_relative_to(PACKAGE)
        )
    modules = {module_of(path) for path in files(".py") if path.name != "__init__.py"}
    assert sorted(modules - used - set(ENTRY_POINTS)) == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (outside_world, "import time"),
        (outside_world, "import threading as t"),
        (outside_world, "def f():\n    from random import Random"),
        (outside_world, "from os import unlink"),
        (outside_world, "import os\nos.replace('a', 'b')"),
        (outside_world, "open('a')"),
        (outside_world, "Path('a').read_text()"),
        (event_loops, "from asyncio import run"),
        (prints, "print(1)"),
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "from time import sleep"),
        (sleeps, "asyncio.sleep(0.1)"),
        (leftovers, "# TO" + "DO later"),
        (long_lines, "x" * 101),
        (system_calls, "n = pread(fd, p, 1, 0);"),
        (system_calls, "if (fsync (fd))"),
        (python_headers, "#include <Python.h>"),
        (preprocessor_lines, "#define X"),
    ],
)
def test_rule_finds_a_breach(rule: Rule, source: str) -> None:
    assert len(list(rule(source))) > 0


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (outside_world, "import os\nos.fspath(p)\nfrom os import PathLike"),
        (outside_world, "def open(path): ...\nopen('a')"),
        (outside_world, "files.open('a')"),
        (sleeps, "asyncio.sleep(0)"),
        (long_lines, "x" * 100),
        (system_calls, "io->pread(io->ctx, fd, p, 1, 0); io.open(a); hsl_read(x);"),
        (system_calls, '/* close(fd)\n * open(p) */ // read(x)\nlog("write(");'),
    ],
)
def test_rule_leaves_the_allowed_alone(rule: Rule, source: str) -> None:
    assert list(rule(source)) == []
