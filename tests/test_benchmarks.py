from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("lists", "singles", "callers", "streams", "reopen", "consume")


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory in memory where there is room: figures are not what is tested."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as path:
        yield Path(path)


def run(*arguments: str, module: str = "benchmarks") -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.unsanitized("a minute of measuring, of code that the workloads below run too")
def test_the_table_has_a_row_for_every_goal(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    shown = run("table", "--scale", "tiny", "--dir", str(data), "--json", str(file))
    content = json.loads(file.read_text(encoding="utf-8"))
    assert {row["goal"] for row in content["rows"]} == {"1", "2", "3", "4", "5", "6"}
    for row in content["rows"]:
        assert row["title"] in shown
        assert row["ratio"] > 0
        assert row["ratios"] == [row["ratio"]]
    assert list(data.iterdir()) == []


def test_every_workload_is_tried_here() -> None:
    shown = run("--help")
    assert f"{{{','.join(WORKLOADS)}}}" in shown


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_gives_every_contender_a_figure(
    workload: str, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    shown = run(
        *("--workload", workload, "--scale", "tiny", "--repeats", "1", "--seed", "7"),
        *("--dir", str(data), "--json", str(file)),
    )
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["machine"]["seed"] == "7"
    assert content["results"]
    for result in content["results"]:
        assert result["line"] in shown
        assert next(iter(result["contenders"])) == "hstreamlite"
        assert result["ratio_to_limit"] > 0
        for samples in (*result["contenders"].values(), *result["limits"].values()):
            assert [sample["rate"] > 0 for sample in samples] == [True]
    assert list(data.iterdir()) == []


@pytest.mark.unsanitized("processes of their own that measure what tests of acks run too")
def test_subscriptions_are_held_against_rivals_and_bounds(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    arguments = ("--scale", "tiny", "--seed", "7", "--dir", str(data), "--json", str(file))
    shown = run(*arguments, module="benchmarks.subscriptions")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["machine"]["seed"] == "7"
    titles = {row["title"] for row in content["rows"]}
    assert {"lists of 100, 4 consumers", "delivery.ack()", "memory of 1,000 in flight"} <= titles
    assert "ordered by 100,000 keys, 100 consumers" in titles
    assert all(title in shown for title in titles)
    assert list(data.iterdir()) == []


@pytest.mark.unsanitized("processes of their own that measure what tests of the server run too")
def test_the_server_is_held_against_one_that_does_nothing(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    arguments = ("--scale", "tiny", "--rounds", "1", "--dir", str(data), "--json", str(file))
    shown = run(*arguments, "--only", "16 in flight", module="benchmarks.server")
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["beside"] == "empty"
    assert row["ratio"] > 0
    assert row["title"] in shown
    assert list(data.iterdir()) == []
