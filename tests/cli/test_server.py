"""Commands about a store that a server has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import cli
from tests.cli.person import Person
from tests.cli.test_completion import completes

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

BENCH = (
    "--bench-time", "0", "--warmup", "0", "--total-size", "10k", "--record-size", "100",
    "--batch-records", "7", "--shard-count", "3", "--stream-count", "2",
)  # fmt: skip
RECORDS = 103


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A server in a process of its own: the directory of its store, and its address."""
    path = tmp_path_factory.mktemp("served") / "store"
    words = ["-m", "hstreamlite", "server", "--store", str(path), "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        address = ready.removeprefix("hstreamlite server ready at ").split()[0]
        yield path, f"hstream://{address}"
        process.terminate()
        assert process.wait() == 0


@pytest.fixture(params=["hstream", "unix"])
def remote(
    request: pytest.FixtureRequest,
    server: tuple[Path, str],
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[Person]:
    path, url = server
    person = Person(path, capfdbinary, url if request.param == "hstream" else f"unix:{path}")
    yield person
    for stream in person.json("stream", "list"):
        person.json("stream", "delete", stream["name"], "--force")


def test_streams(remote: Person) -> None:
    made = remote.json("stream", "create", "orders", "-b", "1d", "--max-bytes", "1G")
    assert made.items() >= {"backlog": 86400.0, "max_bytes": 1 << 30, "shards": 1}.items()
    assert remote.fails("stream", "create", "orders")[0] == 1
    assert remote.json("stream", "create", "orders", "--exists-ok")["backlog"] == 86400.0
    assert [s["name"] for s in remote.json("stream", "list")] == ["orders"]
    assert remote.lines("stream", "read", "orders") == []
    assert remote.json("stream", "trim", "orders", "--before", "latest")["records"] == 0
    assert remote.json("stream", "delete", "orders")["deleted"]
    assert not remote.json("stream", "delete", "orders", "--ignore-missing")["deleted"]
    for words in (["read"], ["follow"], ["list-shard"], ["trim", "--before", "latest"]):
        assert remote.fails("stream", *words, "nope")[0] == 1, words


def test_append(remote: Person, tmp_path: Path) -> None:
    remote.json("stream", "create", "orders")
    done = remote.json("stream", "append", "orders", "-k", "a", given=b"1\n2\n")
    assert (done["records"], done["last_id"]) == (
        2,
        remote.json("stream", "describe", "orders")["tail"],
    )
    file = tmp_path / "lines"
    file.write_bytes(b"3\n4\n")
    words = ("stream", "append", "orders", str(file), "--producer", "import")
    assert remote.json(*words)["records"] == 2
    assert remote.json(*words)["skipped"] == 2
    code, said = remote.fails("stream", "append", "orders", given=b"5\n" + b"x" * (2 << 20))
    assert (code, "line 2 is too long" in said) == (1, True)
    read = remote.lines("stream", "read", "orders")
    assert [(r["key"], r["payload"]) for r in read] == [
        ("a", "1"), ("a", "2"), (None, "3"), (None, "4"), (None, "5"),
    ]  # fmt: skip
    followed = remote.lines("stream", "follow", "orders", "--from", read[1]["id"], "-n", "4")
    assert followed == read[1:]
    assert remote.fails("stream", "append", "nope", given=b"x\n")[0] == 1


def test_shards(remote: Person) -> None:
    assert remote.json("stream", "create", "wide", "-s", "3", "-r", "3")["shards"] == 3
    assert remote.json("stream", "create", "wide", "-s", "3", "--exists-ok")["shards"] == 3
    assert remote.fails("stream", "create", "wide", "-s", "3")[0] == 1
    shards = remote.json("stream", "list-shard", "wide")
    assert (shards[0]["start"], shards[-1]["end"]) == ("0", str(2**128 - 1))
    assert remote.json("stream", "list")[0]["shards"] == 3
    assert sum(shard["records"] for shard in shards) == 0
    keyed = "".join(f"key-{n}:x\n" for n in range(20)).encode()
    remote.json("stream", "append", "wide", "--separator", ":", given=keyed)
    counts = {s["id"]: s["records"] for s in remote.json("stream", "list-shard", "wide")}
    assert sum(counts.values()) == 20
    for shard, records in counts.items():
        assert len(remote.lines("stream", "read", "wide", "--shard", str(shard))) == records
    assert remote.fails("stream", "create", "more", "-s", "1000")[0] == 2


def test_bounds_of_several_shards(remote: Person) -> None:
    bounds = ("--max-bytes", "1G", "--protect", "a", "--protect", "b", "-b", "90m")
    made = remote.json("stream", "create", "wide", "-s", "3", "-r", "2", *bounds)
    wanted = {"shards": 3, "max_bytes": 1 << 30, "protect": ["a", "b"], "backlog": 5400.0}
    assert made.items() >= wanted.items()
    assert remote.json("stream", "describe", "wide").items() >= wanted.items()


def test_nodes(remote: Person) -> None:
    (node,) = remote.json("node", "list")
    assert node["state"] == "running"
    assert node["address"].startswith("127.0.0.1:")
    assert remote.json("node", "status", "--id", str(node["id"]))["streams"] == 0
    assert remote.fails("node", "status", "--id", "77")[0] == 1
    assert remote.json("node", "check-running")["running"] == 1
    assert remote.fails("node", "check-running", "-n", "2")[0] == 1


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_bench_writes_in_the_protocol_of_hstreamdb(codec: str, remote: Person) -> None:
    words = ("--compression", codec, "--keep", "--thread-count", "3")
    *_, summary = remote.lines("bench", "write", *BENCH, *words)
    assert (summary["write"]["records"], summary["write"]["failures"]) == (RECORDS, 0)
    streams = remote.json("stream", "list")
    assert [s["shards"] for s in streams] == [3, 3]
    assert sum(s["records"] for s in streams) == RECORDS
    record, *_ = remote.lines("stream", "read", streams[0]["name"])
    assert record["key"].startswith("key-")


@pytest.mark.parametrize("mode", ["read", "write-read"])
@pytest.mark.parametrize("codec", ["zstd"])
def test_bench_consumes_in_the_protocol_of_hstreamdb(mode: str, codec: str, remote: Person) -> None:
    words = ("--compression", codec, "--consumer-count", "2", "--keep")
    *_, summary = remote.lines("bench", mode, *BENCH, *words)
    assert summary.get("missing", 0) == 0
    assert summary["read"]["records"] == RECORDS


def test_bench_leaves_nothing(remote: Person) -> None:
    remote.lines("bench", "write-read", *BENCH)
    assert remote.json("stream", "list") == []


def test_directory_of_a_server_names_its_address(server: tuple[Path, str], person: Person) -> None:
    path, _ = server
    served = Person(path, person.out)
    code, said = served.fails("stream", "create", "orders")
    assert code == 3
    assert f"that is a server: reach it with --service-url unix:{path}" in said
    assert served.json("stream", "list") == []  # looking needs nobody's leave
    (node,) = served.json("node", "list")
    assert (node["state"], node["address"]) == ("running", f"unix:{path}")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--service-url", "hstream://127.0.0.1:1"), 3),
        (("--service-url", "unix:/nowhere"), 3),
        (("--service-url", "http://127.0.0.1:6570"), 2),
        (("--service-url", "127.0.0.1"), 2),
        (("--service-url", ""), 2),
        (("--service-url", "unix:/nowhere", "--store", "here"), 2),
    ],
)
@pytest.mark.parametrize("command", [("stream", "list"), ("node", "list"), ("bench", "write")])
def test_wrong_addresses(
    command: tuple[str, ...],
    words: tuple[str, ...],
    code: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*command, *words, "--retry-timeout", "0.2"]) == code
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert ":" in said


def test_inner_address_counts(server: tuple[Path, str], person: Person) -> None:
    path, url = server
    assert person.json("node", "check-running", "--service-url", url)["running"] == 1
    remote = Person(person.path, person.out, "hstream://127.0.0.1:1")
    assert remote.json("node", "check-running", "--store", str(path))["running"] == 1


def test_environment_names_the_server(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, url = server
    monkeypatch.setenv("HSTREAMLITE_SERVICE_URL", url)
    assert cli.main(["node", "check-running"]) == 0
    assert cli.main(["node", "check-running", "--store", f"{path}.no"]) == 3
    monkeypatch.setenv("HSTREAMLITE_STORE", str(path))
    assert cli.main(["node", "check-running"]) == 2
    assert "not both" in capfd.readouterr().err
    assert cli.main(["node", "check-running", "--store", str(path)]) == 0
    assert os.environ["HSTREAMLITE_SERVICE_URL"] == url


def test_subscriptions(remote: Person, tmp_path: Path) -> None:
    remote.json("stream", "create", "orders")
    with hs.connect(remote.url) as store:
        store.stream("orders").append_many([b"%d" % n for n in range(10)], key="k")
    name = f"billing-{tmp_path.name}"
    made = remote.json("subscription", "create", name, "--stream", "orders", "--ack-timeout", "5m")
    assert made.items() >= {"stream": "orders", "ack_timeout": 300.0, "backlog": 10}.items()
    assert remote.fails("subscription", "create", name, "--stream", "orders")[0] == 1
    consume = ("subscription", "consume", name, "--timeout", "5s", "--limit")
    assert [r["payload"] for r in remote.lines(*consume, "3")] == ["0", "1", "2"]
    assert [r["payload"] for r in remote.lines(*consume, "2", "--no-ack")] == ["3", "4"]
    again = remote.lines(*consume, "7")
    assert [r["payload"] for r in again] == ["3", "4", "5", "6", "7", "8", "9"]
    assert again[0]["attempt"] == 2
    assert remote.json("subscription", "describe", name)["lag"]["backlog"] == 0
    assert remote.json("subscription", "seek", name, "earliest")["backlog"] == 10
    assert remote.json("subscription", "pause", name)["paused"]
    assert not remote.json("subscription", "resume", name)["paused"]
    assert name in [s["name"] for s in remote.json("subscription", "list")]
    assert remote.json("stream", "describe", "orders")["subscriptions"] == [name]
    assert remote.fails("stream", "delete", "orders")[0] == 1
    assert remote.json("subscription", "delete", name)["deleted"]
    assert remote.fails("subscription", "consume", name)[0] == 1


def test_names_are_completed(remote: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.json("stream", "create", "orders")
    monkeypatch.setenv("HSTREAMLITE_SERVICE_URL", remote.url)
    assert completes(remote, "hstreamlite stream read o", monkeypatch) == ["orders"]
