"""Statistics and command lines over the wire, as HStreamDB's Go client and tools ask for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite.net import admin, hstream_pb2 as pb
from hstreamlite.net.api import stats
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

STREAM = pb.StreamStats
SUBSCRIPTION = pb.SubscriptionStats


class Client:
    """A server, its store, and a stub."""

    def __init__(self, server: Server, stub: Any) -> None:
        self.server = server
        self.store = server.node.store
        self.stub = stub

    async def run(self, command: str) -> dict[str, Any]:
        response = await self.stub.SendAdminCommand(pb.AdminCommandRequest(command=command))
        answer = json.loads(response.result)
        assert set(answer) == {"type", "content"}
        found: dict[str, Any] = answer
        return found

    async def table(self, command: str) -> tuple[list[str], list[list[str]]]:
        answer = await self.run(command)
        assert answer["type"] == "table", answer
        content = answer["content"]
        assert set(content) == {"headers", "rows"}
        for row in content["rows"]:
            assert len(row) == len(content["headers"])
            assert all(isinstance(cell, str) for cell in row)
        return content["headers"], content["rows"]

    async def counter(self, **stat: int) -> dict[str, int]:
        asked = pb.GetStatsRequest(stats=[pb.StatType(**stat)])
        response = await self.stub.GetStats(asked)
        assert not response.errors
        [value] = response.statsValues
        assert value.statType == asked.stats[0]
        return dict(value.statValues)


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with (
        Server(ServerConfig(store=str(tmp_path / "store"), port=0, http=False)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Client(server, HStreamApiStub(channel))


async def fill(client: Client) -> None:
    """Append 100 records, and one that is refused."""
    stream = client.store.stream("a")
    await stream.append_many([b"x" * 100] * 100)
    with pytest.raises(hs.RecordTooLarge):
        await stream.append(b"x" * (2 << 20))


async def busy(client: Client) -> None:
    """Append 100 records, deliver 60, 10 of them twice, ack 30."""
    await client.store.create_stream("a")
    await client.store.create_stream("idle")
    await fill(client)
    subscription = await client.store.create_subscription("s", stream="a")
    async with subscription.consumer("c") as consumer:
        taken = await consumer.receive(60)
        await consumer.ack(taken[:30])
        await consumer.release(taken[30:40])
        await consumer.receive(10)


async def test_counters_are_told_by_stream_and_subscription(client: Client) -> None:
    await busy(client)
    assert await client.counter(streamStat=STREAM.AppendInRecords) == {"a": 100}
    assert await client.counter(streamStat=STREAM.AppendTotal) == {"a": 2}
    assert await client.counter(streamStat=STREAM.AppendFailed) == {"a": 1}
    size = (await client.counter(streamStat=STREAM.AppendInBytes))["a"]
    assert 10_000 < size < 20_000
    assert await client.counter(streamStat=STREAM.ReadInBatches) == {"a": 1}
    assert (await client.counter(streamStat=STREAM.ReadInBytes))["a"] > 6000
    assert await client.counter(subStat=SUBSCRIPTION.SendOutRecords) == {"s": 60}
    assert await client.counter(subStat=SUBSCRIPTION.ResendRecords) == {"s": 10}
    assert await client.counter(subStat=SUBSCRIPTION.ReceivedAcks) == {"s": 30}
    assert (await client.counter(subStat=SUBSCRIPTION.SendOutBytes))["s"] > 6000
    for failed in (SUBSCRIPTION.SendOutRecordsFailed, SUBSCRIPTION.ResendRecordsFailed):
        assert await client.counter(subStat=failed) == {"s": 0}


async def test_appends_of_clients_are_counted_and_timed(client: Client) -> None:
    await client.stub.CreateStream(pb.Stream(streamName="a", replicationFactor=1, shardCount=1))
    [shard] = (await client.stub.ListShards(pb.ListShardsRequest(streamName="a"))).shards
    records = pb.BatchHStreamRecords(records=[pb.HStreamRecord(payload=b"x")] * 3)
    batch = pb.BatchedRecord(batchSize=3, payload=records.SerializeToString())

    async def append(**fields: object) -> None:
        request = {"streamName": "a", "shardId": shard.shardId, "records": batch} | fields
        await client.stub.Append(pb.AppendRequest(**request))

    for _ in range(2):
        await append()
    wrong = [
        {"records": pb.BatchedRecord()},
        {"records": pb.BatchedRecord(batchSize=1, payload=b"x" * (2 << 20))},
        {"shardId": 999},
        {"streamName": "nothing"},
    ]
    for fields in wrong:
        with pytest.raises(grpc.aio.AioRpcError):
            await append(**fields)
    assert await client.counter(streamStat=STREAM.AppendInRecords) == {"a": 6}
    assert await client.counter(streamStat=STREAM.AppendTotal) == {"a": 5}
    assert await client.counter(streamStat=STREAM.AppendFailed) == {"a": 3}
    found = await client.store.stats()
    assert found.append_request_latency.count == 2
    assert found.append_request_latency.p99 > 0


async def test_deliveries_to_clients_are_counted(client: Client) -> None:
    stream = await client.store.create_stream("a")
    await client.stub.CreateSubscription(
        pb.Subscription(
            subscriptionId="s", streamName="a", ackTimeoutSeconds=60, maxUnackedRecords=100
        )
    )
    await stream.append_many([b"x" * 100] * 3)
    call = client.stub.StreamingFetch()
    await call.write(pb.StreamingFetchRequest(subscriptionId="s", consumerName="c"))
    received = (await call.read()).receivedRecords
    await call.write(
        pb.StreamingFetchRequest(
            subscriptionId="s", consumerName="c", ackIds=list(received.recordIds)
        )
    )
    while await client.counter(subStat=SUBSCRIPTION.ReceivedAcks) != {"s": 3}:
        pass  # acks come in beside
    call.cancel()
    assert await client.counter(subStat=SUBSCRIPTION.SendOutRecords) == {"s": 3}
    assert (await client.counter(subStat=SUBSCRIPTION.SendOutBytes))["s"] > 300
    assert await client.counter(subStat=SUBSCRIPTION.RequestMessages) == {"s": 2}
    assert await client.counter(subStat=SUBSCRIPTION.ResponseMessages) == {"s": 1}


async def test_messages_and_the_checklist_are_counted(client: Client) -> None:
    stream = await client.store.create_stream("a")
    await stream.append_many([b"x"] * 10)
    subscription = await client.store.create_subscription("s", stream="a")
    tally = client.server.node.tally
    for _ in range(3):
        tally.requested("s")
    tally.responded("s")
    tally.send_failed("s", 7)
    tally.requested("gone")
    assert await client.counter(subStat=SUBSCRIPTION.RequestMessages) == {"s": 3}
    assert await client.counter(subStat=SUBSCRIPTION.ResponseMessages) == {"s": 1}
    assert await client.counter(subStat=SUBSCRIPTION.SendOutRecordsFailed) == {"s": 7}
    async with subscription.consumer("c") as consumer:
        await consumer.receive(4)
        assert await client.counter(subStat=SUBSCRIPTION.ChecklistSize) == {"s": 4}


async def test_every_counter_of_the_protocol_has_an_answer(client: Client) -> None:
    kinds = {
        "streamStat": pb.StreamStats,
        "subStat": pb.SubscriptionStats,
        "connStat": pb.ConnectorStats,
        "queryStat": pb.QueryStats,
        "viewStat": pb.ViewStats,
        "cacheStoreStat": pb.CacheStoreStats,
    }
    asked = [pb.StatType(**{kind: n}) for kind, enum in kinds.items() for n in enum.values()]
    wrong = [pb.StatType(), pb.StatType(streamStat=99), pb.StatType(viewStat=99)]
    response = await client.stub.GetStats(pb.GetStatsRequest(stats=[*asked, *asked, *wrong]))
    assert [value.statType for value in response.statsValues] == asked
    assert [error.statType for error in response.errors] == wrong
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.GetStats(pb.GetStatsRequest())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_rates_are_told_for_any_intervals_up_to_ten_minutes(client: Client) -> None:
    await busy(client)

    async def rates(
        method: str, stream: str, *intervals: int
    ) -> pb.PerStreamTimeSeriesStatsResponse:
        request = pb.PerStreamTimeSeriesStatsRequest(
            method=method, streamName=stream, intervals=pb.StatsIntervalVals(intervals=intervals)
        )
        found: pb.PerStreamTimeSeriesStatsResponse = await client.stub.PerStreamTimeSeriesStats(
            request
        )
        return found

    for method in (
        "append_in_bytes",
        "appends",
        "append_in_records",
        "append_in_requests",
        "append_failed_requests",
    ):
        found = await rates(method, "a", 1000, 60_000, 600_000)
        while not found.stats.vals[0]:  # a busy machine may take a second to ask
            await fill(client)
            found = await rates(method, "a", 1000, 60_000, 600_000)
        assert len(found.stats.vals) == 3
        assert min(found.stats.vals) > 0
        assert list((await rates(method, "idle", 4000)).stats.vals) == [0]
    assert (await rates("appends", "a")).HasField("stats")
    for none in [("appends", "nothing", 1000), ("no_such", "a", 1000), ("appends", "a", 600_001)]:
        assert not (await rates(*none)).HasField("stats")


async def test_rates_of_all_streams_are_told_at_once(client: Client) -> None:
    await busy(client)

    async def rates(method: str, *intervals: int) -> dict[str, list[float]]:
        request = pb.PerStreamTimeSeriesStatsAllRequest(
            method=method, intervals=pb.StatsIntervalVals(intervals=intervals)
        )
        response = await client.stub.PerStreamTimeSeriesStatsAll(request)
        return {stream: list(found.vals) for stream, found in response.stats.items()}

    found = await rates("appends", 60_000, 300_000)
    assert list(found) == ["a"]
    assert min(found["a"]) > 0
    assert await rates("no_such", 60_000) == {}
    for wrong in (600_001, 0, -1):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rates("appends", 60_000, wrong)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert str(wrong) in json.loads(refused.value.details() or "")["message"]


async def test_streams_and_subscriptions_are_managed_by_command_lines(client: Client) -> None:
    ok = {"type": "plain", "content": "OK"}
    assert await client.run("server stream create a -r 3 -s 2 --backlog-duration 60") == ok
    assert await client.run("server stream create b") == ok
    names = ["Stream Name", "Replication Factor"]
    assert await client.table("server stream list") == (names, [["a", "3"], ["b", "1"]])
    assert await client.table("server stream describe a") == (names, [["a", "3"]])
    assert len(client.store._engine.stream("a").shard_ids) == 2
    create = "server sub create s --stream a --ack-timeout 30 --max-unacked-records 7"
    assert await client.run(f"{create} --offset latest") == ok
    headers, [[name, stream, created]] = await client.table("server sub list")
    assert headers == ["Subscription ID", "Stream Name", "CreatedTime"]
    assert (name, stream) == ("s", "a")
    assert await client.table("server sub describe s") == (
        ["Subscription ID", "Stream Name", "Timeout", "Max Unacked", "CreatedTime", "Sub Offset"],
        [["s", "a", "30", "7", created, "LATEST"]],
    )
    assert (await client.run("server stream delete a"))["type"] == "error"
    assert await client.run("server sub delete s") == ok
    assert await client.run("server sub create s --stream a") == ok
    assert await client.run("server sub deleteall --force") == ok
    assert await client.table("server sub list") == (headers, [])
    assert await client.run("server stream delete a --force") == ok
    for missing in ("stream describe a", "stream delete a", "sub describe s", "sub delete s"):
        answer = await client.run(f"server {missing}")
        assert answer["type"] == "error"
        assert repr(missing.split()[-1]) in answer["content"]


async def test_the_server_tells_of_itself(client: Client) -> None:
    host, port = client.server.address.split(":")
    assert await client.table("server status") == (
        ["Node ID", "State", "Address"],
        [["1", "Running", f"{host}:{port}"]],
    )
    for kind in ("stream", "sub", "subscription", "shard", "query", "view", "connector", "key"):
        assert await client.table(f"server lookup {kind} x") == (
            ["Resource ID", "Host", "Port"],
            [["x", host, port]],
        )
    assert (await client.run("server init"))["content"] == (
        "Server successfully received init signal"
    )
    assert await client.run("server ready") == {"type": "plain", "content": "Cluster is ready"}
    for kind in ("view", "query", "connector"):
        assert (await client.table(f"server {kind} list"))[1] == []
        assert (await client.run(f"server {kind} delete x"))["type"] == "error"
    assert (await client.run("server meta list --anything"))["type"] == "error"


async def test_statistics_are_told_as_tables(client: Client) -> None:
    await busy(client)
    table = client.table
    assert await table("server stats stream_counter append_total") == (
        ["stream_name", "append_total"],
        [["a", "2"]],
    )
    headers, _ = await table("server stats stream appends")
    assert headers == ["stream_name", "appends_1min", "appends_5min", "appends_10min"]
    headers, [[stream, *rates]] = await table("server stats stream append_in_bytes")
    assert headers == ["stream_name", *(f"append_in_bytes_{n}min" for n in (1, 5, 10))]
    assert stream == "a"
    assert all(int(rate) > 0 for rate in rates)
    headers, _ = await table("server stats stream append_in_records -i 500ms -i 4s -i 2min")
    assert headers[1:] == ["append_in_records_500ms", "append_in_records_4s",
                           "append_in_records_2min"]  # fmt: skip
    assert await table("server stats subscription_counter received_acks") == (
        ["subscription_id", "received_acks"],
        [["s", "30"]],
    )
    headers, [[subscription, rate]] = await table("server stats subscription acks -i 1min")
    assert (headers, subscription) == (["subscription_id", "acks_1min"], "s")
    assert int(rate) > 0
    headers, [percentiles] = await table("server stats server_histogram append_latency")
    assert headers == ["p50", "p75", "p95", "p99"]
    assert all(int(value) > 0 for value in percentiles)
    headers, _ = await table("server stats server_histogram append_latency -p 0.9 -p 0.999")
    assert headers == ["p90", "p99.9"]
    for category, label, name in (
        ("handle", "handle_name", "queries"),
        ("connector_counter", "task_name", "is_alive"),
        ("query_counter", "query_name", "total_input_records"),
        ("view_counter", "view_name", "total_execute_queries"),
    ):
        headers, rows = await table(f"server stats {category} {name}")
        assert (headers[0], rows) == (label, [])
    for wrong in (
        "stream_counter no_such",
        "stream appends -i 11min",
        "stream appends -i soon",
        "server_histogram append_latency -p 7",
        "server_histogram append_latency -p most",
    ):
        assert (await client.run(f"server stats {wrong}"))["type"] == "error"


async def test_every_name_of_a_statistic_has_a_table(client: Client) -> None:
    await busy(client)
    for category, (names, _) in admin._CATEGORIES.items():
        for name in names:
            await client.table(f"server stats {category} {name}")


async def test_counters_are_set_back(client: Client) -> None:
    await busy(client)
    assert await client.run("server reset-stats") == {"type": "plain", "content": "OK"}
    assert await client.counter(streamStat=STREAM.AppendInRecords) == {"a": 0}
    assert await client.counter(subStat=SUBSCRIPTION.ReceivedAcks) == {"s": 0}
    _, [percentiles] = await client.table("server stats server_histogram append_latency")
    assert percentiles == ["0", "0", "0", "0"]
    await client.store.stream("a").append_many([b"x"] * 5)
    assert await client.counter(streamStat=STREAM.AppendInRecords) == {"a": 5}
    _, [percentiles] = await client.table("server stats server_histogram append_latency")
    assert int(percentiles[0]) > 0
    assert (await client.store.stats()).stream_traffic["a"].append_records == 105


async def test_sql_over_statistics_is_run_by_the_server(client: Client) -> None:
    await busy(client)
    statement = "SELECT name, records FROM streams ORDER BY name"
    assert await client.run(f'server sql "{statement}"') == {
        "type": "rows",
        "content": {"headers": ["name", "records"], "rows": [["a", 100], ["idle", 0]]},
    }
    assert (await client.run("server sql DROP TABLE streams"))["type"] == "error"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "status",
        "server",
        "server explode",
        "server stats",
        "server stats nothing append_total",
        "server stream create",
        "server stream create a -s many",
        "server sub create s",
        'server stream list "',
        "server status now",
        "server lookup planet x",
    ],
)
async def test_a_line_that_is_no_command_is_refused_in_plain_text(
    client: Client, line: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.run(line)
    assert refused.value.code() == grpc.StatusCode.INTERNAL
    details = refused.value.details()
    assert details
    assert not details.startswith("{")


async def test_answers_stay_below_what_clients_take(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy(client)
    monkeypatch.setattr(stats, "ANSWER_BYTES_MAX", 10)
    monkeypatch.setattr(admin, "ANSWER_BYTES_MAX", 10)
    assert (await client.run("server stream list"))["type"] == "error"
    response = await client.stub.GetStats(
        pb.GetStatsRequest(stats=[pb.StatType(streamStat=STREAM.AppendTotal)])
    )
    assert len(response.errors) == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.PerStreamTimeSeriesStatsAll(
            pb.PerStreamTimeSeriesStatsAllRequest(
                method="appends", intervals=pb.StatsIntervalVals(intervals=[60_000])
            )
        )
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
