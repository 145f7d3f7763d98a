"""SIGKILL in the middle of a backup, a salvage or a regrouping loses nothing and leaves no half.

What a killed backup or salvage leaves lies under a name of its own, which the next one tells; what
a killed regrouping leaves, the next open removes. The victims die by a timer, anywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 150 if os.environ.get("HSTREAMLITE_LONG") == "1" else 12
SEED = 7


@pytest.mark.parametrize("operation", ["backup", "salvage", "compact"])
def test_killed_copy_is_whole_or_not_there(
    operation: str, tmp_path: Path, say: Callable[[str], None]
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.system.killed_copier"),
            *(operation, str(tmp_path), str(KILLS), str(SEED)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    say(done.stdout.strip())
    assert f"{operation}: {KILLS} kills" in done.stdout
