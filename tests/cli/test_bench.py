"""The bench commands: what they do to a store, and what they tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

import hstreamlite as hs
from hstreamlite.cli.bench.meter import Meter, counts_of
from hstreamlite.cli.bench.pace import BEHIND_NS_MAX, Pace
from hstreamlite.cli.bench.target import StoreTarget
from tests.cli.person import Person

TIMED = ("--bench-time", "50ms", "--warmup", "0", "--report-interval", "20ms")
SIZED = ("--bench-time", "0", "--total-size", "10k", "--warmup", "0", "--report-interval", "1ms")
RECORDS = 103
SMALL = ("--record-size", "100", "--key-count", "10", "--batch-records", "7")


def reports(person: Person, *words: str) -> list[dict[str, object]]:
    found = person.lines("bench", *words)
    assert [r["report"] for r in found] == ["interval"] * (len(found) - 1) + ["summary"]
    return found


def test_write_tells_what_it_wrote(person: Person) -> None:
    words = ("--keep", "--stream-count", "2", "--thread-count", "3")
    *intervals, summary = reports(person, "write", *SIZED, *SMALL, *words)
    assert sum(r["write"]["records"] for r in intervals) <= summary["write"]["records"]
    assert (summary["write"]["records"], summary["write"]["bytes"]) == (RECORDS, 100 * RECORDS)
    assert summary["write"]["failures"] == 0
    latency = list(summary["write"]["latency_ms"].values())
    assert latency == sorted(latency)
    assert latency[0] > 0
    streams = person.json("stream", "list")
    assert len(streams) == 2
    assert all(s["backlog"] == 1800.0 for s in streams)
    assert sum(s["records"] for s in streams) == RECORDS
    (record, *_) = person.records(streams[0]["name"])
    assert len(record.payload) == 100
    assert record.key == "key-0"


def test_read_reads_all_that_it_wrote(person: Person) -> None:
    words = ("--thread-count", "3", "--consumer-count", "2", "--keep")
    *_, summary = reports(person, "read", *SIZED, *SMALL, *words)
    assert summary["read"]["records"] == RECORDS
    (stream,) = person.json("stream", "list")
    assert stream["records"] == RECORDS
    (subscription,) = person.json("subscription", "list")
    assert (subscription["backlog"], subscription["unacked"]) == (0, 0)


@pytest.mark.parametrize("kind", ["raw", "json"])
def test_write_read_misses_nothing(kind: str, person: Person) -> None:
    words = ("--shard-count", "3", "--payload-type", kind, "--compression", "zstd")
    *_, summary = reports(person, "write-read", *SIZED, *SMALL, *words, "--rate-limit", "10000")
    assert summary["missing"] == 0
    assert summary["write"]["records"] == summary["read"]["records"] == RECORDS
    assert summary["read"]["latency_ms"]["p50"] > 0
    assert person.json("stream", "list") == []
    assert person.json("subscription", "list") == []


def test_time_ends_it_too(person: Person) -> None:
    for mode in ("write", "write-read"):
        *_, summary = reports(person, mode, *TIMED, *SMALL)
        assert summary.get("missing", 0) == 0
        assert summary["write"]["failures"] == 0


def test_people_get_lines(person: Person) -> None:
    said = person.prints("bench", "write-read", *SIZED, *SMALL, "--un-buffered", "--no-json")
    *_, summary, _, missing = said.decode().splitlines()
    words = ("summary", "records/s", "MiB/s", "0 failures", "p50", "p90", "p99", "p99.9")
    assert [word for word in words if word not in summary] == []
    assert missing == "missing: 0"


@pytest.mark.parametrize(
    "words",
    [
        ("--stream-count", "0"),
        ("--record-size", "big"),
        ("--rate-limit", "-1"),
        ("--report-interval", "0"),
        ("--bench-time", "-1"),
        ("--key-count", "0"),
        ("--shard-count", "1000"),
        ("--stream-name-prefix", "1"),
        ("--compression", "lz4"),
        ("--payload-type", "xml"),
    ],
)
def test_wrong_options_leave_nothing(words: tuple[str, ...], person: Person) -> None:
    person.json("stream", "create", "orders")
    assert person.fails("bench", "write", *TIMED, *words)[0] == 2
    assert len(person.json("stream", "list")) == 1


def test_record_that_is_too_large_ends_it(person: Person) -> None:
    words = ("--bench-time", "0", "--record-size", "2M", "--total-size", "4M")
    assert person.types("bench", "write", *words)[0] == 1
    assert "is over the limit of" in person.said
    assert person.json("stream", "list") == []
    assert person.fails("bench", "read", "--record-size", "2M", "--total-size", "4M")[0] == 1


def test_failures_that_may_pass_are_counted(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        def send(_: object) -> None:
            raise hs.StorageFull("/disk")

        return send

    monkeypatch.setattr(StoreTarget, "sender", full)
    *_, summary = reports(person, "write", *SIZED, *SMALL)
    assert (summary["write"]["records"], summary["write"]["failures"]) == (0, RECORDS)
    code, _ = person.types("bench", "read", *TIMED, *SMALL, "--total-size", "1k")
    assert code == 1
    assert "11 of 11 records could not be written" in person.said


@pytest.mark.parametrize(("time", "code"), [("0", 0), ("1h", 130)])
def test_interrupt_ends_it_with_a_summary(time: str, code: int, person: Person) -> None:
    words = ["--store", str(person.path), "bench", "write", *SMALL, "--rate-limit", "1000"]
    timing = ["--bench-time", time, "--warmup", "0", "--report-interval", "10ms"]
    with subprocess.Popen(
        [sys.executable, "-m", "hstreamlite", *words, *timing], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        os.kill(process.pid, signal.SIGINT)
        *_, last = process.stdout
        assert process.wait() == code
    assert (first["report"], json.loads(last)["report"]) == ("interval", "summary")
    assert person.json("stream", "list") == []


@given(
    rate=st.integers(1, 10**7),
    steps=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10**9)), max_size=50),
)
def test_pace_is_never_above_its_rate(rate: int, steps: list[tuple[int, int]]) -> None:
    """Over any run: no more is sent than the rate allows, beside one batch and what is made up."""
    pace = Pace(rate)
    now = 0
    sent: list[tuple[int, int]] = []
    for records, passed in steps:
        now += passed
        now += pace.wait_ns(records, now)
        sent.append((now, records))
    for start, (begin, _) in enumerate(sent):
        for end in range(start, len(sent)):
            total = sum(records for _, records in sent[start:end])
            allowed = (sent[end][0] - begin + BEHIND_NS_MAX) * rate / 1e9
            assert total <= allowed + len(sent)


def test_pace_of_0_never_waits() -> None:
    pace = Pace(0)
    assert {pace.wait_ns(1000, 5) for _ in range(100)} == {0}


def test_interval_counts_only_what_was_new() -> None:
    meter = Meter()
    for _ in range(1000):
        meter.done(1, 10, 1_000)
    before = counts_of([meter])
    meter.done(5, 50, 1_000_000)
    facts = counts_of([meter]).since(before).facts(2)
    assert (facts["records"], facts["bytes"], facts["records_per_second"]) == (5, 50, 2.5)
    assert facts["latency_ms"]["p50"] == facts["latency_ms"]["p99_9"]
    assert 0.9 < facts["latency_ms"]["p50"] < 1.1
