"""What `import hstreamlite` loads: little, and nothing of the optional parts."""

import json
import subprocess
import sys

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
