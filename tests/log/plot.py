"""Copies of the tree that a bug is planted in, and what a part of the suite says of one."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FLAGS = ["-O1", "-fPIC", "-std=c11", "-pthread", "-fvisibility=hidden", "-w"]
PLUGINS = ["_hypothesis_pytestplugin", "pytest_asyncio.plugin", "pytest_timeout"]
# What a run loads takes it longer than its tests: it is forked from a process that has it loaded.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "cffi", "grpc", "hypothesis.stateful", "msgspec", "pytest_asyncio", "starlette"]
)


@dataclass(frozen=True)
class Bug:
    """One planted line and the test that must notice it."""

    file: str
    good: str
    bad: str
    test: str
    only: str = ""
    remote: bool = False
    """Whether it is one of what lies behind a connection."""


def _compile(source: Path, target: Path) -> None:
    cc = [*shlex.split(sysconfig.get_config_var("CC")), *FLAGS]
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        cc.append("-DPy_LIMITED_API=0x030B0000")
    for include in (source.parent, sysconfig.get_path("include")):
        cc.append(f"-I{include}")
    subprocess.run([*cc, "-c", source, "-o", target], check=True, capture_output=True)


class Objects:
    """The core, compiled once: a planted line costs one file and a link.

    Any process that needs it compiles it, and the others wait for that one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _make(self) -> None:
        native = self._path / "native"
        skipped = shutil.ignore_patterns("*.so", "*.o", "_lib.c", "__pycache__")
        shutil.copytree(ROOT / "hstreamlite" / "_native", native, ignore=skipped)
        generate = (
            "from hstreamlite._native.build import ffibuilder; import sys;"
            "ffibuilder.emit_c_code(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", generate, native / "_lib.c"], cwd=ROOT, check=True)
        sources = sorted(native.glob("*.c"), key=lambda path: -path.stat().st_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            targets = (self._path / f"{source.stem}.o" for source in sources)
            list(pool.map(_compile, sources, targets))

    def link(self, changed: Path, module: Path) -> None:
        """Compile the changed file, and put it in the place of its object."""
        self._path.mkdir(exist_ok=True)
        with (self._path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._path / "done").exists():
                self._make()
                (self._path / "done").touch()
        fresh = changed.with_suffix(".o")
        _compile(changed, fresh)
        others = [path for path in self._path.glob("*.o") if path.name != fresh.name]
        linker = shlex.split(sysconfig.get_config_var("LDSHARED"))
        subprocess.run([*linker, "-pthread", fresh, *others, "-o", module], check=True)


def _plant(bug: Bug, tree: Path, objects: Objects) -> None:
    # Compiled modules stay true, for they keep their times; another process may write one just now.
    skipped = shutil.ignore_patterns("*.o", "*.pyc.*")
    for part in ("hstreamlite", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tree)
    path = tree / "hstreamlite" / bug.file
    source = path.read_text()
    assert source.count(bug.good) == 1, f"{bug.file} no longer has the line of this case"
    path.write_text(source.replace(bug.good, bug.bad))
    if path.suffix == ".c":
        for module in path.parent.glob("_lib*.so"):
            module.unlink()
            objects.link(path, module)


def _run(tree: Path, out: Path, arguments: list[str]) -> None:
    """In a process of its own: run tests of the tree and exit as pytest does."""
    with out.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("hstreamlite", "tests")
    ]:
        del sys.modules[name]
    os.environ |= {
        "PYTHONPATH": str(tree),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HYPOTHESIS_PROFILE": "planted",
    }
    import pytest

    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(code)


def verdict(bug: Bug, tree: Path, objects: Objects) -> tuple[int | None, str]:
    """Return how pytest exits where the bug is planted, and what it says."""
    _plant(bug, tree, objects)
    # Faces behind a connection find nothing more, and take time.
    only = " and ".join(
        [f"({part})" for part in (bug.only, "" if bug.remote else "not remote") if part]
    )
    plugins = [f"-p{name}" for name in (*PLUGINS, "no:cacheprovider")]
    run = ["-x", "-q", "--timeout=120", "--assert=plain", f"--basetemp={tree / 'tmp'}"]
    out = tree / "out.txt"
    child = FORKS.Process(
        target=_run, args=(tree, out, [*run, *plugins, bug.test, "-k", only]), daemon=True
    )
    child.start()
    try:
        child.join()
    finally:
        child.kill()
    return child.exitcode, out.read_text(errors="replace")
