"""`hstreamlite sql`, of a directory and of a server."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.cli.sql import sql
from hstreamlite.tables import COLUMNS
from tests.cli.person import Person
from tests.metrics.test_sql import TOP_FIVE


def test_a_directory_is_read_and_its_rates_are_said_to_be_none(orders: Person) -> None:
    orders.prints("stream", "append", "orders", given=b"a\nb\nc\n")
    found = orders.json("sql", "--stats", "SELECT name, records FROM streams")
    assert found == [{"name": "orders", "records": 3}]
    assert "counters and rates are 0" in orders.said
    assert orders.json("sql", "--stats", TOP_FIVE) == [{"name": "orders", "total_throughput": 0.0}]
    twice = orders.json("sql", "--stats", "SELECT name, name, bytes > 0 FROM streams")
    assert twice == [{"name": "orders", "name_2": "orders", "bytes > 0": 1}]


def test_a_statement_that_is_wrong_is_refused(orders: Person) -> None:
    code, said = orders.fails("sql", "--stats", "DROP TABLE streams")
    assert (code, "only one SELECT" in said) == (2, True)
    code, said = orders.fails("sql", "--stats", "SELECT * FROM lags")
    assert (code, "at character 14" in said, ", ".join(COLUMNS) in said) == (2, True, True)
    code, said = orders.fails("sql", "--stats", "SELECT byte FROM lag")
    assert (code, f"there are {', '.join(COLUMNS['lag'])}" in said) == (2, True)
    assert orders.fails("sql", "SELECT 1")[0] == 2  # without --stats
    assert orders.fails("sql", "--stats", "--service-url", "http://x", "SELECT 1")[0] == 2


def test_examples_of_the_documentation_run(orders: Person) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text()
    [block] = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    examples = [shlex.split(line)[1:] for line in block.splitlines()]
    assert examples[0][-1] == TOP_FIVE
    for words in examples:
        assert isinstance(orders.json(*words), list)


def test_help_names_every_table() -> None:
    assert sql.help is not None
    named = sql.help.split("Tables: ")[1].split(".")[0].replace("\n", " ").split(",")
    assert [name.strip() for name in named] == list(COLUMNS)


@pytest.mark.asyncio
@pytest.mark.unsanitized("gRPC's own core is no build of ours")
async def test_the_server_that_has_a_store_is_asked(orders: Person) -> None:
    from hstreamlite.net.config import ServerConfig
    from hstreamlite.net.server import Server

    config = ServerConfig(store=str(orders.path), port=0, http=False)
    async with Server(config) as server:
        stream: hs.aio.Stream = server.node.store.stream("orders")
        await stream.append_many([b"x" * 100] * 100)
        for url in ([], ["--service-url", f"hstream://{server.address}"]):
            [row] = await asyncio.to_thread(orders.json, "sql", "--stats", *url, TOP_FIVE)
            assert orders.said == ""
            assert row["name"] == "orders"
            assert row["total_throughput"] > 0
        code, said = await asyncio.to_thread(orders.fails, "sql", "--stats", "SELECT absent")
        assert (code, "no such column" in said) == (2, True)
    gone = ["--service-url", f"hstream://{server.address}"]
    code, said = await asyncio.to_thread(orders.fails, "sql", "--stats", *gone, "SELECT 1")
    assert (code, "no connection" in said) == (3, True)


def test_nothing_is_made_where_there_is_no_store(person: Person, tmp_path: Path) -> None:
    assert person.fails("sql", "--stats", "SELECT 1")[0] == 3
    assert not Path(tmp_path / "store").exists()
