"""What `import hstreamlite` loads: little, and nothing of the optional parts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import hstreamlite

MODULES_MAX = 100
NOT_LOADED = frozenset(
    [
        "asyncio",
        "click",
        "google.protobuf",
        "grpc",
        "hstreamlite.aio",
        "hstreamlite.testing",
        "pandas",
        "pyarrow",
        "pydantic",
        "rich",
        "sqlglot",
        "starlette",
        "uvicorn",
    ]
)
PROGRAM = """
import sys
before = set(sys.modules)
import hstreamlite
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded() -> set[str]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_import_loads_no_optional_part() -> None:
    assert loaded() & NOT_LOADED == set()


def test_import_loads_few_modules() -> None:
    modules = loaded()
    assert "hstreamlite" in modules
    assert len(modules) <= MODULES_MAX, sorted(modules)


def test_a_source_tree_without_its_core_says_what_to_do(tmp_path: Path) -> None:
    package = Path(hstreamlite.__file__).parent
    copytree(package, tmp_path / "hstreamlite", ignore=ignore_patterns("_lib.*.so", "__pycache__"))
    command = [sys.executable, "-c", "import hstreamlite; hstreamlite.open('data')"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: hstreamlite: there is no working core in ")
    assert "pip install -e ." in last
    assert "in another directory" in last
