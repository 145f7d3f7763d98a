"""Bugs planted in a copy of the tree, each caught by the fast tests.

A test system is worth what it finds. Every case changes one line of the engine in a copy, builds
the copy where that line is C, runs a named part of the suite there and expects it to fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STATES = "tests/log/test_recovery_states.py"
CASES = "tests/log/test_reopening.py"
MODEL = "tests/test_model_store.py"
REGROUP = "tests/log/test_regroup.py"
FLIGHTS = "tests/log/test_two_in_flight.py"

PUBLISH = """    for (uint32_t n = 0; n < count && rc == HSL_OK; n++)
        rc = hsl_group_publish(log, flight(log, n));
"""
LOCK = "    pthread_mutex_lock(&log->stage_mu);\n"
SUBMIT = """    if (!log->cfg.threaded && hsl_may_submit(log) && hsl_random(&log->course) % 2 == 0)
        submit(log); /* as another thread would while the sync is under way */
"""


@dataclass(frozen=True)
class Bug:
    """One planted line and the test that must notice it."""

    file: str
    good: str
    bad: str
    test: str
    only: str = ""


BUGS = {
    "acknowledge before the sync": Bug(
        "_native/writer.c",
        "int err = log->io->datasync(log->io->ctx, segment->fd);",
        "int err = 0;",
        STATES,
        "crash_at_every",
    ),
    "acknowledge the faster of two writes": Bug(
        "_native/writer.c",
        "while (count < log->flying && flight(log, count)->state == HSL_GROUP_WRITTEN)",
        "while (count < log->flying)",
        FLIGHTS,
        "younger_group_waits",
    ),
    "acknowledge what was written after the sync began": Bug(
        "_native/writer.c",
        PUBLISH + LOCK + SUBMIT,
        LOCK + SUBMIT + "    count = log->flying;\n" + PUBLISH,
        FLIGHTS,
        "sync_covers",
    ),
    "acknowledge one group ahead": Bug(
        "_native/group.c",
        "&log->durable_ticket, last->ticket, memory",
        "&log->durable_ticket, last->ticket + 1, memory",
        FLIGHTS,
        "older_group_is",
    ),
    "state the group in flight as durable": Bug(
        "_native/group.c",
        "header->durable = log->durable_at;",
        "header->durable = active->number << 32 | active->end;",
        FLIGHTS,
        "crash_with",
    ),
    "skip the sync of the directory": Bug(
        "_native/segment.c",
        "    if (err == 0)\n        err = io->sync_dir(io->ctx, dir);\n"
        '    return err < 0 ? hsl_fail(log, "start"',
        '    return err < 0 ? hsl_fail(log, "start"',
        STATES,
        "crash_at_every",
    ),
    "believe blocks without their checksum": Bug(
        "_native/cursor.c",
        "out->crc == found)",
        "true)",
        STATES,
        "flipped_bit and closed",
    ),
    "take damage for the end of the log": Bug(
        "log/recovery.py",
        "    if claim > found.end:\n",
        "    if claim > found.end and False:\n",
        STATES,
        "flipped_bit and crashed",
    ),
    "take a truncated file for a torn tail": Bug(
        "log/recovery.py",
        "found.file_bytes < found.capacity and",
        "False and",
        STATES,
        "truncated_file and crashed",
    ),
    "trim one record too many": Bug(
        "_native/index.c",
        "first < shard->durable_next ? first : shard->durable_next);",
        "first < shard->durable_next ? first + 1 : shard->durable_next);",
        "tests/log/test_reopening.py",
        "trim_that_is_staged",
    ),
    "send again before the deadline": Bug(
        "sub/custody.py",
        "now + self._limits.ack_timeout_ns",
        "now + self.limits.ack_timeout_ns // 2",
        MODEL,
        "at_its_deadline",
    ),
    "forget what a named producer stored": Bug(
        "log/producers.py",
        "self.last = max(self.last, batch.last)",
        "self.last = self.last",
        "tests/log/test_reopening.py",
        "producers_log_goes_on",
    ),
    "lose the mapped stage": Bug(
        "_native/osstage.c",
        "while (rc == HSL_OK && pos < limit) {",
        "while (rc == HSL_OK && pos > limit) {",
        CASES,
        "replaying",
    ),
    "expire by a wrong unit": Bug(
        "housekeeping.py",
        "now_ms - int(state.backlog * 1000)",
        "now_ms - int(state.backlog * 100)",
        MODEL,
        "expire_at",
    ),
    "believe a leap of the clock": Bug(
        "housekeeping.py",
        "if leap > self._jump_ms:",
        "if leap > self._jump_ms * 1000:",
        MODEL,
        "leap",
    ),
    "go on after a failed sync": Bug(
        "_native/writer.c",
        "    drop_over(log);\n    if (rc != HSL_OK)\n",
        "    drop_over(log);\n    if (false)\n",
        STATES,
        "failed_store",
    ),
    "name a regrouped file before it is synced": Bug(
        "_native/regroup.c",
        "    err = r->io->sync(r->io->ctx, s->fd);\n",
        "    err = 0;\n",
        REGROUP,
        "crash_at_every",
    ),
    "drop old files before the new name is synced": Bug(
        "_native/regroup.c",
        "err = r->io->sync_dir(r->io->ctx, r->dir);",
        "err = 0;",
        REGROUP,
        "crash_at_every",
    ),
    "unlink files before that is recorded": Bug(
        "housekeeping.py",
        "        journal.wait(ticket)\n        journal.drop_segments(dead)\n",
        "        journal.drop_segments(dead)\n        journal.wait(ticket)\n",
        REGROUP,
        "crash_at_every",
    ),
    "leave out the block in which a log begins": Bug(
        "_native/swap.c",
        "    if (row->seq + row->count <= adding->part->kept)",
        "    if (row->seq <= adding->part->kept)",
        REGROUP,
        "same_before_and_after",
    ),
    "leave out what a trim not yet durable covers": Bug(
        "regrouper.py",
        "            engine.journal.wait(swap.ticket)\n",
        "",
        REGROUP,
        "deleting_a_stream",
    ),
    "let a replaced file count": Bug(
        "log/regroup.py",
        "            replaced.append(span)\n",
        "            counting.insert(at, span)\n",
        REGROUP,
        "crash_at_every",
    ),
    "rely on names a killed process left": Bug(
        "log/recovery.py",
        "        _sync_directories(env, path, whole=",
        "        (lambda *a, **k: None)(env, path, whole=",
        CASES,
        "names_left",
    ),
}


@pytest.mark.planted
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    skipped = shutil.ignore_patterns("__pycache__", "*.o")
    shutil.copytree(ROOT / "hstreamlite", tmp_path / "hstreamlite", ignore=skipped)
    for part in ("tests", "build_backend"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skipped)
    for part in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / part, tmp_path / part)
    path = tmp_path / "hstreamlite" / bug.file
    source = path.read_text()
    assert source.count(bug.good) == 1, f"{bug.file} no longer has the line of this case"
    path.write_text(source.replace(bug.good, bug.bad))
    env = os.environ | {"PYTHONPATH": str(tmp_path), "HYPOTHESIS_PROFILE": "probe"}
    if path.suffix == ".c":
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        fast = env | {"CFLAGS": "-O0"}
        subprocess.run(build, cwd=tmp_path, env=fast, check=True, capture_output=True)
    run = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=120"]
    result = subprocess.run(
        [*run, bug.test, "-k", bug.only], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert result.returncode == 1, f"not caught: {result.stdout[-2000:]}{result.stderr[-500:]}"
