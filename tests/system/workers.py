"""Worker processes seen from the test that ends them.

Loading the package takes an interpreter much longer than opening a store, so one that has it loaded
forks a process for every life. That process reports through a pipe what was acknowledged; what lies
in the pipe was acknowledged before the kill.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import hstreamlite as hs

PACKAGE = Path(hs.__file__).parent.parent
TESTS = Path(__file__).parent.parent.parent


def trace(worker: Worker, log: Path, *options: str) -> subprocess.Popen[str]:
    """Put strace behind a worker that waits, and let it go. It ends with the worker."""
    strace = subprocess.Popen(
        ["strace", "-f", "-y", "-o", log, *options, "-p", str(worker.pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert strace.stderr is not None
    assert "attached" in strace.stderr.readline()
    worker.go()
    return strace


class Workers:
    """Starts one worker at a time. Leaving the `with` block ends them all."""

    def __init__(self, *prefix: str, env: dict[str, str] | None = None) -> None:
        paths = os.pathsep.join(dict.fromkeys([str(PACKAGE), str(TESTS)]))
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.system.killed_worker"],
            env={**os.environ, "PYTHONPATH": paths, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    def start(self, **command: object) -> Worker:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return Worker(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class Worker:
    """One process; iterating yields its reports until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self.status: int | None = None
        word, number = self._stdout.readline().split()
        assert word == b"pid"
        self.pid = int(number)

    def go(self) -> None:
        """Let a worker begin that was told to wait."""
        self._stdin.write(b"\n")
        self._stdin.flush()

    def __iter__(self) -> Iterator[list[str]]:
        for line in self._stdout:
            words = line.decode().split()
            if words[0] == "ended":
                self.status = int(words[1])
                return
            yield words
        raise AssertionError("the interpreter that starts workers is gone")

    def kill(self) -> None:
        """Send SIGKILL. The worker may have ended by itself meanwhile."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _cut(self, cut: Callable[[], None] | None) -> None:
        if cut is not None:
            with open(f"/proc/self/fd/{self._stdout.fileno()}", "wb", buffering=0) as pipe:
                pipe.write(b"cut\n")
            cut()
        self.kill()

    def reports_until(
        self, count: int, cut: Callable[[], None] | None = None
    ) -> Iterator[list[str]]:
        """Yield reports; when there were so many, cut and kill, and yield what was still made.

        The report "cut" stands where the cut began: what follows it was perhaps made in the dark.
        """
        made = 0
        if count == 0:
            self._cut(cut)
        for words in self:
            assert made >= count or words[0] != "failed", words
            yield words
            made += 1
            if made == count:
                self._cut(cut)
        assert made >= count, f"the worker ended by itself: {self.status}"
