"""Followers in processes of their own: killed beside a writer that is killed too, and traced.

A follower checks every record that it is shown. What it was shown must be in the store afterwards,
from the life that it named; the writer must not notice it; nothing may be written by it.
"""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Thread

import hstreamlite as hs
from tests.system.ledger import STREAMS, Ledger, last_of, numbers_of, small
from tests.system.machine import need
from tests.system.workers import Worker, Workers, trace

LEVELS = ["sync", "os", "memory"]
CONFIG = small()
KILLS = 20
OPENINGS = 20
WRITER_REPORTS_MAX = 60
FOLLOWER_REPORTS_MAX = 800
REPORTS_OF_OPENING = 6
SEED = 26
FOLLOWED_RECORDS = 400

CHANGING = (
    "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,"
    "chmod,fchmod,fchmodat,chown,fchown,fchownat,utimensat,setxattr,fsetxattr,copy_file_range,"
    "sendfile,splice,fsync,fdatasync,sync_file_range,mmap,msync,fcntl,flock,ioctl"
)
READING = re.compile(
    r"open(at)?\((?!.*(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND))"
    r"|mmap\((?!.*PROT_WRITE.*MAP_SHARED)"
    r"|fcntl\(.*F_(OFD_GETLK|GETLK|GETFD|SETFD|GETFL|DUPFD_CLOEXEC)\b"
    r"|ioctl\(.*\b(TCGETS|FIOCLEX)\b"
)

Shown = Counter[tuple[str, int, int]]


class Watched:
    """A worker whose reports are taken off it as they come, so that it never waits for the test."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.reports: list[list[str]] = []
        self._ended = False
        self._changed = Condition()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for words in self.worker:
                with self._changed:
                    self.reports.append(words)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def reach(self, count: int = 0, word: str = "") -> None:
        """Wait until there are so many reports, or one of a kind."""

        def reached() -> bool:
            enough = [word] in self.reports if word else len(self.reports) >= count
            return enough or self._ended

        with self._changed:
            self._changed.wait_for(reached)
            assert not self._ended, f"ended by itself: {self.worker.status}, {self.reports[-3:]}"

    def kill(self) -> list[list[str]]:
        """Kill; return all reports."""
        self.worker.kill()
        self._thread.join()
        assert self.worker.status == -signal.SIGKILL, (self.worker.status, self.reports[-3:])
        return self.reports

    def finish(self) -> list[list[str]]:
        """Let it end by itself; return all reports."""
        self._thread.join()
        assert self.worker.status == 0, self.reports[-3:]
        return self.reports


class Campaign:
    """One directory, its writers and its followers."""

    def __init__(self, path: Path, writers: Workers, followers: Workers) -> None:
        self.path = path
        self.ledger = Ledger()
        self.shown: Shown = Counter()
        self.counts: Counter[str] = Counter()
        self._writers, self._followers = writers, followers

    def write(self, **options: object) -> Watched:
        life = self.ledger.begin()
        settings = {"levels": LEVELS, "config": CONFIG, **options}
        worker = self._writers.start(do="write", path=str(self.path), life=life, **settings)
        return Watched(worker)

    def follow(self, **options: object) -> Watched:
        return Watched(self._followers.start(do="follow", path=str(self.path), **options))

    def wrote(self, reports: list[list[str]]) -> None:
        for words in reports:
            assert words[0] != "failed", words
            self.ledger.take(words)
        self.ledger.end("kill")

    def saw(self, reports: list[list[str]]) -> Shown:
        found: Shown = Counter()
        for words in reports:
            self.counts[words[0]] += 1
            if words[0] == "shown":
                found[words[1], int(words[2]), int(words[3])] += 1
        assert not found or max(found.values()) == 1, "shown twice by one follower"
        self.shown |= found
        return found

    def look_alone(self) -> None:
        """Follow what a killed writer left: it stays as it is, name by name and byte by byte."""
        before = contents(self.path)
        follower = self.follow()
        follower.reach(word="looked")
        assert contents(self.path) == before
        self.saw(follower.kill())
        assert contents(self.path) == before


def contents(path: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a change would change."""
    found: dict[str, tuple[object, ...]] = {}
    for file in [path, *path.rglob("*")]:
        at = file.stat()
        held = file.read_bytes() if file.is_file() else b""
        facts = (at.st_ino, at.st_mode, at.st_size, at.st_blocks, at.st_mtime_ns, at.st_ctime_ns)
        found[str(file)] = (*facts, held)
    return found


def test_followers_and_writers_are_killed_in_turn(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    random_ = random.Random(SEED)
    with Workers() as writers, Workers() as followers:
        campaign = Campaign(tmp_path / "s", writers, followers)
        writer = campaign.write()
        writer.reach(REPORTS_OF_OPENING)
        follower = campaign.follow()
        for kill in range(KILLS):
            if kill % 2 == 0:
                follower.reach(random_.randrange(FOLLOWER_REPORTS_MAX))
                campaign.saw(follower.kill())
            else:
                writer.reach(random_.randrange(WRITER_REPORTS_MAX))
                campaign.wrote(writer.kill())
                if kill % 4 == 3:
                    campaign.saw(follower.kill())
                    campaign.look_alone()
                writer = campaign.write()
            if kill % 2 == 0 or kill % 4 == 3:
                follower = campaign.follow()
        campaign.wrote(writer.kill())
        campaign.wrote(campaign.write(rounds=2).finish())
        campaign.saw(follower.kill())
        whole = campaign.saw(campaign.follow(records=0).finish())
    check(campaign, whole)
    counts, shown = campaign.counts, sum(campaign.shown.values())
    say(
        f"followers: {KILLS} kills in turn, {counts['opened']} opened, {counts['shown']} records "
        f"shown ({shown} different), 0 foreign, {counts['gap']} gaps; "
        f"{Ledger.tell(campaign.ledger.counts)}"
    )


def test_followers_open_while_writers_are_killed_in_opening(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    random_ = random.Random(SEED)
    with Workers() as writers, Workers() as followers:
        campaign = Campaign(tmp_path / "s", writers, followers)
        writer = campaign.write()
        writer.reach(REPORTS_OF_OPENING)
        for _ in range(OPENINGS):
            campaign.wrote(writer.kill())
            follower = campaign.follow()
            writer = campaign.write()
            writer.reach(random_.randrange(2 * REPORTS_OF_OPENING))
            if random_.randrange(2):
                campaign.wrote(writer.kill())
                writer = campaign.write()
            follower.reach(word="looked")
            campaign.saw(follower.kill())
        campaign.wrote(writer.kill())
        campaign.wrote(campaign.write(rounds=2).finish())
        whole = campaign.saw(campaign.follow(records=0).finish())
    check(campaign, whole)
    say(f"followers opened beside {OPENINGS} killed writers: {campaign.counts['shown']} records")


def test_a_reader_slower_than_retention_meets_gaps_and_nothing_else(tmp_path: Path) -> None:
    config = hs.StoreConfig(**small(retention_interval=0.01))  # type: ignore[arg-type]
    with (
        hs.open(tmp_path / "s", config=config) as writer,
        hs.open(tmp_path / "s", config=config, read_only=True) as follower,
    ):
        stream = writer.create_stream("a", max_bytes=100_000)
        readers = [follower.stream("a").read(follow=True) for _ in range(3)]
        last = [0] * len(readers)
        gaps = 0

        def step(at: int) -> int:
            nonlocal gaps
            try:
                record = next(readers[at])
            except hs.RecordTrimmed:
                gaps += 1
                return last[at]
            assert record.id is not None
            assert record.id.lsn > last[at]
            assert record.payload == b"%d;" % record.id.lsn * 500
            last[at] = record.id.lsn
            return last[at]

        number = 0
        for _ in range(80):
            for _ in range(20):
                number += 1
                stream.append(b"%d;" % number * 500, durability="memory")
            writer.sync()
            for at in range(len(readers)):
                for _ in range(at + 1):
                    step(at)
        assert gaps > 0
        for at in range(len(readers)):
            while step(at) < number:
                pass


def check(campaign: Campaign, whole: Shown) -> None:
    ledger = campaign.ledger
    assert {file.name for file in campaign.path.iterdir()} <= {
        "LOCK",
        "STAGE",
        "SUPER",
        "TAIL",
        "segments",
    }
    files = [file.name for file in (campaign.path / "segments").iterdir()]
    assert all(file.endswith(".seg") or file == "reserve" for file in files), files
    with hs.open(campaign.path) as store:
        ledger.check(store)
        kept = {
            (name, number, ledger.lines[name].life_of(number))
            for name in STREAMS
            for number in numbers_of(store.stream(name).read())
        }
        last = {name: last_of(store.stream(name)) for name in STREAMS}
        ledger.drain(store)
    assert set(whole) == kept, "the last follower showed something else than the store holds"
    for name, number, life in campaign.shown:
        assert number <= last[name], f"{name} {number} was shown and is not there"
        assert ledger.lines[name].life_of(number) == life, f"{name} {number} was another record"


def changes(log: Path, path: Path) -> Iterator[str]:
    """Yield the traced calls that touch the store and do not only read.

    A call that waited has a second line; what it was asked stands in the first.
    """
    for line in log.read_text().splitlines():
        call = line.split(maxsplit=1)[-1]
        if str(path) in call and not call.startswith("<...") and not READING.match(call):
            yield call


def test_a_follower_makes_no_call_that_writes(tmp_path: Path, say: Callable[[str], None]) -> None:
    need("strace")
    path, logs = tmp_path / "s", {"write": tmp_path / "w.log", "follow": tmp_path / "f.log"}
    with Workers() as writers, Workers() as followers:
        campaign = Campaign(path, writers, followers)
        traced = writers.start(
            do="write",
            path=str(path),
            life=campaign.ledger.begin(),
            levels=LEVELS,
            config=CONFIG,
            rounds=1,
            waits="pid",
        )
        strace = trace(traced, logs["write"], "-e", f"trace={CHANGING}")
        campaign.wrote(Watched(traced).finish())
        strace.communicate()
        writer = campaign.write()
        worker = followers.start(do="follow", path=str(path), records=FOLLOWED_RECORDS, waits="pid")
        strace = trace(worker, logs["follow"], "-e", f"trace={CHANGING}")
        seen = campaign.saw(Watched(worker).finish())
        strace.communicate()
        campaign.wrote(writer.kill())
    assert len(seen) > FOLLOWED_RECORDS
    assert any("pwrite64(" in call for call in changes(logs["write"], path)), "the trace is blind"
    told = logs["follow"].read_text()
    assert f"{path}/TAIL" in told, "the trace is blind"
    assert f"{path}/segments/" in told, "the trace is blind"
    assert not list(changes(logs["follow"], path))
    say(f"traced follower: {len(seen)} records shown, {told.count(str(path))} calls, 0 of change")
