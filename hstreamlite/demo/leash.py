"""The pipes between the demo and a worker process that it is going to kill.

A worker reports its progress in lines on its standard output and waits for a line on its standard
input after each. So it is never further than one report ahead, and a kill that its progress calls
for can't come too late; and when the demo is gone, the worker finds its input closed and goes too.

A report is a word and some numbers: ``step 12000 800``.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

_ORPHANED = 3
"""Exit code of a worker whose supervisor is gone; nobody is there to see it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker said, and its counts.

    Ready: open for work. Took: received a batch. Step: got on. Idle: found nothing to do. Done.
    """

    kind: str
    counts: tuple[int, ...]


class Leash:
    """The worker's end. One thread at a time may report."""

    def report(self, kind: str, *counts: int) -> None:
        """Tell the supervisor and wait until it says to go on.

        Ends the process when the supervisor is gone, as abruptly as the supervisor itself would
        have: a store is made to be left like that.
        """
        try:
            print(kind, *counts, flush=True)
            answer = sys.stdin.readline()
        except OSError:
            answer = ""
        if not answer:
            os._exit(_ORPHANED)


class WorkerFailed(Exception):
    """A worker ended, or fell silent, without being asked to."""


class Worker:
    """A worker process, seen from its supervisor. Leaving the `with` block kills it."""

    def __init__(self, arguments: list[str]) -> None:
        # A process group of its own: Ctrl-C is for the supervisor, which then ends the worker.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own arguments
            [sys.executable, "-m", "hstreamlite", "demo", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def wait_report(self, timeout: float) -> Report:
        """Return the next report; the worker waits until `go_on`. Timeout in seconds."""
        output = self._process.stdout
        assert output is not None
        deadline = monotonic() + timeout
        # One report is under way at a time, so the buffer above the pipe is empty here.
        while not select.select([output], [], [], max(0.0, deadline - monotonic()))[0]:
            if monotonic() >= deadline:
                raise WorkerFailed(f"A worker process made no progress for {timeout:g} seconds.")
        line = output.readline()
        if not line.endswith("\n"):
            code = self._process.wait()
            raise WorkerFailed(f"A worker process ended by itself with exit code {code}.")
        kind, *counts = line.split()
        return Report(kind, tuple(map(int, counts)))

    def go_on(self) -> None:
        """Let the worker work until its next report."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(
                f"A worker process ended by itself with exit code {self._process.wait()}."
            ) from None

    def wait(self, timeout: float) -> None:
        """Wait for the end of a worker that is done."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(
                f"A worker process that was done did not end within {timeout:g} seconds."
            ) from None
        if code != 0:
            raise WorkerFailed(f"A worker process that was done ended with exit code {code}.")

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
