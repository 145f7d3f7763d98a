"""Commands about subscriptions, as a person runs them on a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import hstreamlite as hs
from hstreamlite.cli.subscription import batches
from tests.cli.person import Person


@pytest.fixture
def billing(orders: Person) -> Person:
    """Orders 0 to 9, and a subscription of them."""
    orders.json(
        "stream", "append", "orders", "-k", "a", given=b"".join(b"%d\n" % n for n in range(10))
    )
    orders.json("subscription", "create", "billing", "--stream", "orders")
    return orders


def payloads(person: Person, *words: str) -> str:
    read = person.lines("subscription", "consume", "billing", "--timeout", "0", *words)
    return "".join(record["payload"] for record in read)


def test_life_of_a_subscription(billing: Person) -> None:
    assert [row["name"] for row in billing.json("subscription", "list")] == ["billing"]
    assert payloads(billing, "--limit", "3") == "012"
    described = billing.json("subscription", "describe", "billing")
    assert (described["backlog"], described["lag"]["unacked"]) == (7, 0)
    assert described["lag"]["bytes"] > 0
    assert payloads(billing) == "3456789"
    assert payloads(billing) == ""
    assert billing.json("subscription", "seek", "billing", "1-1-8")["backlog"] == 2
    assert payloads(billing) == "89"
    assert billing.json("subscription", "delete", "billing")["deleted"]
    assert billing.json("subscription", "list") == []


def test_settings_of_a_new_subscription_are_kept(billing: Person) -> None:
    billing.json("stream", "create", "dead")
    made = billing.json(
        "sub", "create", "s", "-s", "orders", "--mode", "shared", "--ack-timeout", "1m30s",
        "--max-unacked-records", "7", "--offset", "latest", "--max-attempts", "5",
        "--dead-letter", "dead", "--backoff", "1s:5m",
    )  # fmt: skip
    wanted = {
        "stream": "orders",
        "mode": "shared",
        "ack_timeout": 90.0,
        "max_unacked": 7,
        "backlog": 0,
        "max_attempts": 5,
        "dead_letter": "dead",
        "backoff": {"first": 1.0, "most": 300.0, "factor": 2.0},
    }
    assert made.items() >= wanted.items()


def test_what_exists_is_left_as_it_is(billing: Person) -> None:
    words = ("subscription", "create", "billing", "--stream", "orders", "--ack-timeout", "1s")
    code, said = billing.fails(*words)
    assert (code, "exists; --exists-ok leaves it as it is" in said) == (1, True)
    assert billing.json(*words, "--exists-ok")["ack_timeout"] == 60.0


def test_unacked_come_again_and_attempts_count(billing: Person) -> None:
    assert payloads(billing, "-n", "2", "--no-ack") == "01"
    again = billing.lines("subscription", "consume", "billing", "-n", "3", "--timeout", "0")
    assert [(r["payload"], r["attempt"]) for r in again] == [("0", 2), ("1", 2), ("2", 1)]
    billing.json("subscription", "seek", "billing", "earliest")
    text = billing.prints(
        "subscription", "consume", "billing", "-n", "1", "--timeout", "0", "--format", "text"
    )
    assert text.decode().rstrip().endswith("a  0")


def test_formats_are_those_of_read(billing: Person) -> None:
    words = ("subscription", "consume", "billing", "-n", "1", "--format")
    assert billing.prints(*words, "raw") == b"0\n"
    assert billing.prints(*words, "keyed", "--separator", "=") == b"a=1\n"


def test_paused_gives_nothing(billing: Person) -> None:
    assert billing.json("subscription", "pause", "billing")["paused"]
    assert payloads(billing) == ""
    assert billing.json("subscription", "describe", "billing")["paused"]
    assert not billing.json("subscription", "resume", "billing")["paused"]
    assert payloads(billing, "-n", "1") == "0"


def test_dead_letters_go_back(billing: Person) -> None:
    billing.json("stream", "create", "dead")
    words = ("--max-attempts", "1", "--dead-letter", "dead")
    billing.json("subscription", "create", "once", "--stream", "orders", *words)
    consume = ("subscription", "consume", "once", "-n", "2", "--timeout", "0")
    assert len(billing.lines(*consume, "--no-ack")) == 2
    billing.lines(*consume)  # opened again, the store moves those that died
    assert len(billing.records("dead")) == 2
    assert billing.json("subscription", "redrive", "once", "--limit", "1")["records"] == 1
    assert billing.json("subscription", "redrive", "once")["records"] == 1
    assert billing.payloads()[-2:] == [b"0", b"1"]


def test_dropped_records_are_told_of(billing: Person) -> None:
    context = click.Context(click.Command("consume"), info_name="consume")
    with (
        hs.open(billing.path) as store,
        store.subscription("billing").consumer("c") as consumer,
        context.scope(),
    ):
        store.stream("orders").trim(before=hs.RecordId(1, 1, 4))
        (batch,) = batches(consumer, None, 0)
    assert [d.payload for d in batch] == [b"4", b"5", b"6", b"7", b"8", b"9"]
    said = billing.out.readouterr().err
    assert said == b"consume: 4 records were dropped before they were acked\n"


def test_no_subscription_is_1_and_bad_words_are_2(billing: Person) -> None:
    for words in (
        ["describe"],
        ["consume"],
        ["delete"],
        ["pause"],
        ["resume"],
        ["redrive"],
        ["skip-damaged"],
    ):
        assert billing.fails("subscription", *words, "nope")[0] == 1
        assert "There is no subscription 'nope'; `hstreamlite subscription list`" in billing.said
        assert billing.fails("subscription", *words)[0] == 2
    assert billing.fails("subscription", "seek", "nope", "latest")[0] == 1
    assert billing.fails("subscription", "seek", "billing", "somewhere")[0] == 2
    assert billing.fails("subscription", "seek", "billing", "1-99-0")[0] == 2
    assert billing.fails("subscription", "consume", "billing", "--consumer", "")[0] == 2
    create = ("subscription", "create", "s", "--stream")
    assert billing.fails("subscription", "create", "s")[0] == 2
    assert billing.fails(*create, "nope")[0] == 1
    for words in (
        ["--ack-timeout", "-1"], ["--ack-timeout", "soon"], ["--mode", "wild"],
        ["--offset", "here"], ["--max-unacked-records", "0"], ["--max-attempts", "-1"],
        ["--max-attempts", "3"],
        ["--backoff", "1s"], ["--backoff", "5m:1s"], ["--backoff", "x:y"],
    ):  # fmt: skip
        assert billing.fails(*create, "orders", *words)[0] == 2, words
    assert not billing.json("subscription", "delete", "nope", "--ignore-missing")["deleted"]
    assert len(billing.json("subscription", "list")) == 1


def test_consuming_beside_the_writer_is_refused_and_looking_is_not(billing: Person) -> None:
    with hs.open(billing.path):
        assert billing.fails("subscription", "consume", "billing")[0] == 3
        assert billing.json("subscription", "describe", "billing")["backlog"] == 10
        assert len(billing.json("subscription", "list")) == 1


def test_people_get_tables(billing: Person) -> None:
    for words in (["list"], ["describe", "billing"]):
        assert "billing" in billing.prints("subscription", *words, "--no-json").decode()
    done = billing.prints("subscription", "seek", "billing", "latest", "--no-json")
    assert done == b"'billing' was moved; 0 records are before it\n"
    done = billing.prints("subscription", "pause", "billing", "--no-json")
    assert done == b"'billing' is paused\n"


CONSUME = [sys.executable, "-m", "hstreamlite", "subscription", "consume", "billing", "--store"]


def test_what_nobody_read_is_not_acked(billing: Person) -> None:
    with hs.open(billing.path) as store:
        store.stream("orders").append_many([b"x" * 1000] * 3000)
    with subprocess.Popen([*CONSUME, str(billing.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read = [process.stdout.readline() for _ in range(1000)]
        process.stdout.close()
        assert process.wait() == 0
    backlog = billing.json("subscription", "describe", "billing")["backlog"]
    assert all(read)
    assert backlog > 0
    assert 3010 - backlog >= 1000 - 100  # of the last batch only some was read, and none acked


def test_interrupt_keeps_what_was_acked(billing: Person) -> None:
    with hs.open(billing.path) as store:
        store.stream("orders").append_many([b"%d" % n for n in range(10, 200)])
    with subprocess.Popen([*CONSUME, str(billing.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(101):  # it has acked those before by the time it prints this one
            process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
    lag = billing.json("subscription", "describe", "billing")["lag"]
    left = lag["unacked"] + lag["backlog"]
    assert left <= 100
    assert payloads(billing) == "".join(map(str, range(200 - left, 200)))


def test_nodes(billing: Person, tmp_path: Path) -> None:
    (node,) = billing.json("node", "list")
    assert (node["state"], node["pid"], node["address"]) == ("stopped", None, None)
    assert billing.fails("node", "check-running")[0] == 1
    with hs.open(billing.path):
        (node,) = billing.json("node", "list")
        assert (node["state"], node["pid"]) == ("running", os.getpid())
        assert billing.json("node", "check-running")["running"] == 1
        code, said = billing.fails("node", "check-running", "-n", "2")
        assert (code, said) == (1, "hstreamlite node check-running: 1 of 2 nodes run")
        status = billing.json("node", "status")
    wanted = {"streams": 1, "subscriptions": 1, "records": 10, "store": str(billing.path)}
    assert status.items() >= wanted.items()
    assert status["free_bytes"] > 0
    assert billing.fails("node", "check-running", "-n", "0")[0] == 2
    nothing = Person(tmp_path / "nothing", billing.out)
    for words in (["list"], ["status"], ["check-running"]):
        assert nothing.fails("node", *words)[0] == 3
