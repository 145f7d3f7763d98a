"""A backup, a salvage or a regrouping that is killed at any time, again and again.

Started as a module with a name, a directory, a number of kills and a seed. This process forks a
victim that dies by a timer of its own, then one that looks at what is left; it opens nothing
itself. Prints how the runs ended; fails where something is lost or half done.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hstreamlite as hs
from hstreamlite._native.files import real_env
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage

NAMES = ("a", "b", "c", "d")
CONFIG = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=256 << 10)
AGAIN_EACH = 4
"""A run of this share of the kills is followed by one that is let alone."""

Content = dict[str, list[list[int]]]
"""LSN and CRC of each record, by stream."""


def fill(path: Path, rounds: int) -> None:
    """Append to all streams in turn, so that their records lie scattered."""
    with hs.open(path, config=CONFIG) as store:
        streams = [store.create_stream(name, exists_ok=True) for name in NAMES]
        for number in range(rounds):
            for stream in streams:
                stream.append_many([b"%d-%d" % (number, i) + b"." * 900 for i in range(20)])


def damage(path: Path) -> None:
    """Flip a byte in the middle of the second segment."""
    segment = sorted((path / "segments").glob("*.seg"))[1]
    with segment.open("r+b") as file:
        file.seek(segment.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def content(path: Path, **options: bool) -> Content:
    found: Content = {}
    with hs.open(path, config=CONFIG, **options) as store:  # type: ignore[arg-type]
        for info in store.streams():
            reader = store.stream(info.name).read()
            records: list[list[int]] = []
            found[info.name] = records
            while True:
                try:
                    for r in reader:
                        assert r.id is not None
                        assert isinstance(r.payload, bytes)
                        records.append([r.id.lsn, zlib.crc32(r.payload)])
                    break
                except (hs.RecordTrimmed, hs.CorruptionError):
                    continue
    return found


class Campaign:
    """One operation, its store, and what must be found in it."""

    def __init__(self, operation: str, directory: Path) -> None:
        self.operation = operation
        self.path, self.target = directory / "store", directory / "new"

    def prepare(self) -> None:
        fill(self.path, 12)
        if self.operation == "salvage":
            damage(self.path)

    def read(self) -> Content:
        return content(
            self.path,
            **({"read_only": True, "accept_damage": True} if self.operation == "salvage" else {}),
        )

    def run(self, begin: Callable[[], object]) -> None:
        if self.operation == "salvage":
            begin()
            salvage(real_env(), str(self.path), str(self.target))
            return
        with hs.open(self.path, config=CONFIG) as store:
            begin()
            if self.operation == "backup":
                store.backup(self.target)
            else:
                store.compact()

    def look(self, expected: Content, *, again: bool) -> str:
        """Check what a killed run left; return what that is."""
        assert self.read() == expected, "the store has lost something"
        partial = self.target.with_name("new.partial")
        left = "nothing"
        if self.operation == "compact":
            if again:
                self.run(lambda: None)
                assert self.read() == expected
                assert check(real_env(), str(self.path)).sound
            names = os.listdir(self.path / "segments")
            assert "regroup" not in names, "what the killed one wrote is still there"
            return "compacted" if any(name.startswith("000000008") for name in names) else left
        if partial.exists():
            left = "partial"
            try:
                self.run(lambda: None)
            except FileExistsError as error:
                assert error.filename == str(partial)
            else:
                raise AssertionError("built over what was left")
            shutil.rmtree(partial)
        if again and not self.target.exists():
            self.run(lambda: None)
        if self.target.exists():
            left = "whole" if left == "nothing" else left
            assert not partial.exists()
            assert check(real_env(), str(self.target)).sound
            assert content(self.target) == expected
            shutil.rmtree(self.target)
        return left


def in_child(run: Callable[[], object]) -> tuple[int, bytes]:
    """Run in a forked child; return its status and what it returned, as JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.write(writer, json.dumps(run()).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - told, and the status says it
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def must(run: Callable[[], object]) -> Any:
    status, said = in_child(run)
    if status != 0:
        raise SystemExit(status)
    return json.loads(said)


def main(operation: str, directory: str, kills: int, seed: int) -> None:
    random_ = random.Random(seed)
    campaign = Campaign(operation, Path(directory))

    def first() -> tuple[float, Content]:
        """Fill the store, and measure a run that is let alone."""
        campaign.prepare()
        expected = campaign.read()
        began = [0.0]
        campaign.run(lambda: began.append(time.perf_counter()))
        seconds = time.perf_counter() - began[-1]
        shutil.rmtree(campaign.target, ignore_errors=True)
        return seconds, expected

    seconds, expected = must(first)
    outcomes: Counter[str] = Counter()
    runs = dead = 0
    while dead < kills:
        runs += 1
        after = max(1e-5, random_.random() * seconds)
        again = runs % AGAIN_EACH == 0

        def victim(after: float = after) -> None:
            if operation == "compact":
                shutil.rmtree(campaign.path)
                campaign.prepare()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            campaign.run(lambda: signal.setitimer(signal.ITIMER_REAL, after))

        status, _ = in_child(victim)
        if status == -signal.SIGALRM:
            dead += 1
        else:  # the run that was measured may have been a slow one
            seconds = (seconds + after) / 2
        outcomes[must(lambda again=again: campaign.look(expected, again=again))] += 1
    print(f"{operation}: {dead} kills of {runs} runs; left behind:", dict(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
