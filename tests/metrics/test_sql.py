"""SQL over statistics: what it answers, and what it refuses to do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.metrics import sql
from hstreamlite.metrics.sql import Table, select
from hstreamlite.tables import COLUMNS, tables_of

TOP_FIVE = (
    "SELECT streams.name, sum(append_throughput.throughput_1min) AS total_throughput "
    "FROM append_throughput LEFT JOIN streams ON streams.name = append_throughput.stream_name "
    "GROUP BY stream_name ORDER BY total_throughput DESC LIMIT 0, 5;"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[hs.Store]:
    with hs.open(tmp_path / "store") as store:
        yield store


def test_the_statement_of_hstreamdb_finds_the_streams_that_most_is_appended_to(
    store: hs.Store,
) -> None:
    for number in range(7):
        store.create_stream(f"s{number}").append_many([b"x" * 100 * number] * 100)
    found = tables_of(store).select(TOP_FIVE)
    assert found.columns == ("name", "total_throughput")
    assert [name for name, _ in found.rows] == ["s6", "s5", "s4", "s3", "s2"]
    rates = [float(rate or 0) for _, rate in found.rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_every_table_has_its_columns_and_a_row_for_all_that_there_is(store: hs.Store) -> None:
    store.create_stream("a").append_many([b"x"] * 10)
    store.create_stream("b")
    subscription = store.create_subscription("s", stream="a", max_unacked=5)
    with subscription.consumer("c") as consumer:
        consumer.receive(5)
        tables = tables_of(store)
        rows = {name: tables.select(f"SELECT * FROM {name}") for name in COLUMNS}
        one = tables.select("SELECT reason, detail FROM stalls").rows
        lag = tables.select("SELECT records, unacked, backlog FROM lag").rows
    assert {name: found.columns for name, found in rows.items()} == COLUMNS
    counts = {name: len(found.rows) for name, found in rows.items()}
    for name, columns in COLUMNS.items():
        first = {"stream_name": 2, "name": 2}.get(columns[0], 1)
        assert counts[name] == first, name
    assert one[0][0] == "window_full"
    assert "oldest unacked id " in str(one[0][1])
    assert lag == [(10, 5, 5)]


def test_only_tables_that_are_read_are_made() -> None:
    made = []

    def rows(name: str) -> Iterator[tuple[int]]:
        made.append(name)
        yield (len(made),)

    tables = {name: Table(("x",), partial(rows, name)) for name in ("a", "b", "c")}
    found = select("SELECT count(*), max(b.x) FROM c JOIN (SELECT x FROM b) AS b", tables)
    assert found.rows == [(1, 1)]
    assert made == ["b", "c"]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE streams",
        "INSERT INTO streams VALUES (1)",
        "CREATE TABLE x (y)",
        "PRAGMA hard_heap_limit = 1",
        "ATTACH '/etc/passwd' AS x",
        "VACUUM INTO '/tmp/x'",
        "BEGIN",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT writefile('/tmp/x', 1)",
        "SELECT * FROM nothing",
        "SELECT zeroblob(100000)",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT '\0'",
        "SELECT " + "(" * 500 + "1" + ")" * 500,
        "SELECT " + "1, " * 1000 + "1",
        "SELECT '" + "x" * 5000 + "'",
        "-- nothing",
        "",
    ],
)
def test_all_but_a_select_over_the_tables_is_refused(statement: str, store: hs.Store) -> None:
    with pytest.raises(hs.SqlError):
        tables_of(store).select(statement)


def test_an_error_tells_where_it_is(store: hs.Store) -> None:
    with pytest.raises(hs.SqlError) as refused:
        tables_of(store).select("SELECT name FORM streams")
    assert refused.value.position == 17


def test_what_takes_too_long_or_selects_too_much_is_ended(
    store: hs.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "STEPS_MAX", 300_000)
    monkeypatch.setattr(sql, "ROWS_MAX", 1000)
    monkeypatch.setattr(sql, "ANSWER_CHARACTERS_MAX", 100_000)
    for number in range(40):
        store.create_stream(f"s{number}")
    joined = "streams a, streams b, streams c, streams d"
    with pytest.raises(hs.SqlError, match="too long"):
        tables_of(store).select(f"SELECT count(*) FROM {joined}")
    with pytest.raises(hs.SqlError, match="more than 1,000 rows"):
        tables_of(store).select("SELECT a.name FROM streams a, streams b")
    with pytest.raises(hs.SqlError, match="limit it"):
        tables_of(store).select("SELECT hex(randomblob(2000)) FROM streams")
