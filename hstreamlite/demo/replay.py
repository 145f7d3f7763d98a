"""The worker that writes: flights and weather into their streams, hour by hour.

Each stream has an idempotent producer that numbers its records as the table numbers its rows. So
a restarted worker asks how many the log holds and goes on behind them, and a row that is submitted
although it was stored is not stored twice.
"""

from __future__ import annotations

from collections import deque
from typing import Self

import hstreamlite as hs
from hstreamlite.demo.dataset import Run, Table, event_order, load_flights, load_weather
from hstreamlite.demo.leash import Leash

_STEP_ROWS = 500


def write_streams(directory: str, durability: hs.Durability, rows: int | None) -> None:
    """Write what is missing of both streams, and report rows stored of flights and weather."""
    leash = Leash()
    flights, weather = load_flights(rows), load_weather(rows)
    with (
        hs.open(directory, durability=durability) as store,
        _Replay(store, flights) as flight_log,
        _Replay(store, weather) as weather_log,
    ):
        logs = {"flights": flight_log, "weather": weather_log}
        leash.report("ready", flight_log.stored(), weather_log.stored())
        unreported = 0
        for run in event_order([weather, flights]):
            unreported += logs[run.table.name].submit(run)
            if unreported >= _STEP_ROWS:
                unreported = 0
                leash.report("step", flight_log.stored(), weather_log.stored())
        flight_log.flush()
        weather_log.flush()
        leash.report("step", flight_log.stored(), weather_log.stored())
    leash.report("done", len(flights), len(weather))


class _Replay:
    """One table on its way into its stream."""

    def __init__(self, store: hs.Store, table: Table) -> None:
        stream = store.create_stream(table.name, exists_ok=True)
        self._producer = stream.producer(name="replay")
        self._table = table
        self._found = self._stored = self._producer.last_sequence
        self._newest: hs.Submitted
        self._pending: deque[tuple[int, hs.Submitted]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._producer.close()

    def submit(self, run: Run) -> int:
        """Submit the rows of a run that the log did not hold yet, and return their number."""
        start = max(run.start, self._found)
        if start >= run.stop:
            return 0
        submit = self._producer.submit
        records = self._table.records(start, run.stop)
        for sequence, (key, payload) in enumerate(records, start + 1):
            self._newest = submit(payload, key=key, sequence=sequence)
        self._pending.append((run.stop, self._newest))
        return run.stop - start

    def stored(self) -> int:
        """Return the number of rows that are stored as durably as was asked for."""
        while self._pending and self._pending[0][1].done():
            self._stored, pending = self._pending.popleft()
            pending.result()
        return self._stored

    def flush(self) -> None:
        """Wait until all that was submitted is stored."""
        self._producer.flush()
