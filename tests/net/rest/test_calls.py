"""Calls of the protocol over HTTP: what reaches the servicer, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty

from hstreamlite.errors import StreamNotFound
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.served import Served
from hstreamlite.net.api.unserved import refuse_others
from hstreamlite.net.errors import Refused, Status
from hstreamlite.net.hstream_pb2_grpc import add_HStreamApiServicer_to_server
from hstreamlite.net.limits import LimitsConfig
from hstreamlite.net.node import CALL, Node, Service
from hstreamlite.net.part import Part
from hstreamlite.net.rest.answers import HTTP_STATUS
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.part import Rest
from hstreamlite.net.rest.rules import rules_of
from tests.logs import logged
from tests.net.rest.conftest import sent, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

SERVICE = pb.DESCRIPTOR.services_by_name["HStreamApi"]


class Recorder(Served):
    """Keeps what it is asked, and answers as each test has it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.ended = asyncio.Event()
        self.heard = asyncio.Event()

    async def Echo(self, request: pb.EchoRequest, context: Any) -> pb.EchoResponse:
        self.asked.append(request)
        match request.msg:
            case "abort":
                await context.abort(Status.ABORTED, '{"error": 1}')
            case "code":
                context.set_code(Status.DATA_LOSS)
                context.set_details("gone")
            case "hang":
                self.heard.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.ended.set()
            case "bug":
                raise KeyError("secret")
            case "peer":
                me = dict(context.invocation_metadata())["x-me"]
                return pb.EchoResponse(msg=f"{context.peer()} {me} {CALL.get().method}")
            case name if name in Status.__members__:
                raise Refused(grpc.StatusCode[name], 42, "as told", {"a": 1})
        return pb.EchoResponse(msg=request.msg)

    async def GetStream(self, request: pb.GetStreamRequest, context: Any) -> pb.GetStreamResponse:
        raise StreamNotFound(request.name)

    async def TrimStream(self, request: pb.TrimStreamRequest, context: Any) -> Any:
        self.asked.append(request)
        return Empty()

    async def Append(self, request: pb.AppendRequest, context: Any) -> pb.AppendResponse:
        self.asked.append(request)
        return pb.AppendResponse(streamName=request.streamName, shardId=request.shardId)

    async def ReadStream(self, request: pb.ReadStreamRequest, context: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        if request.readerId == "refused":
            raise StreamNotFound(request.streamName)
        try:
            for _ in range(request.maxReadBatches):
                yield pb.ReadStreamResponse()
            if request.readerId == "broken":
                raise StreamNotFound(request.streamName)
            if request.readerId == "endless":
                await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def ReadShardStream(self, request: pb.ReadShardStreamRequest, context: Any) -> None:
        for _ in range(request.maxReadBatches):
            await context.write(pb.ReadShardStreamResponse())

    async def StreamingFetch(
        self, requests: AsyncIterator[pb.StreamingFetchRequest], context: Any
    ) -> AsyncIterator[Any]:
        async for request in requests:
            self.asked.append(request)
            self.heard.set()
            yield pb.StreamingFetchResponse()

    async def ReadStreamByKey(self, requests: object, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            self.asked.append(request)
            await context.write(pb.ReadStreamByKeyResponse())


Serving = tuple[Recorder, httpx.AsyncClient]
refuse_others(Recorder)


class Recorded(Part):
    def __init__(self) -> None:
        self.servicer = Recorder()

    def services(self, node: Node) -> Sequence[Service]:
        return [Service(SERVICE, self.servicer, add_HStreamApiServicer_to_server)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Recorder, httpx.AsyncClient]]:
    part = Recorded()
    rest = Rest(RestConfig(body_bytes_max=64 << 10))
    async with serving(tmp_path_factory.mktemp("store"), [part, rest]) as (_, client):
        yield part.servicer, client


@pytest.fixture
def served(recording: Serving, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setattr("hstreamlite.net.rest.calls._FIRST_ANSWER", 60)
    recording[0].asked.clear()
    recording[0].ended.clear()
    recording[0].heard.clear()
    return recording


async def test_path_query_and_body_make_the_request(served: Serving) -> None:
    servicer, client = served
    answer = await client.post(
        "/v1/streams/a%2Fb:trim", json={"trimPoint": {"timestampOffset": {"timestampInMs": "7"}}}
    )
    assert (answer.status_code, answer.json()) == (200, {})
    point = pb.StreamOffset(timestampOffset=pb.TimestampOffset(timestampInMs=7))
    assert servicer.asked.pop() == pb.TrimStreamRequest(streamName="a/b", trimPoint=point)

    await client.post("/v1/streams/s/shards/18446744073709551615/batches", json={"payload": "AAE="})
    expected = pb.AppendRequest(streamName="s", shardId=2**64 - 1, records={"payload": b"\0\1"})
    assert servicer.asked.pop() == expected

    query = "from.timestampOffset.strictAccuracy=true&until.specialOffset=LATEST&readerId=r"
    await client.get(f"/v1/streams/s/batches?{query}")
    request = servicer.asked.pop()
    assert getattr(request, "from").timestampOffset.strictAccuracy
    assert request.until == pb.StreamOffset(specialOffset=pb.SpecialOffset.LATEST)
    assert (request.streamName, request.readerId) == ("s", "r")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("POST", "/v1/echo", b"{", 400, "no JSON"),
        ("POST", "/v1/echo", b"[]", 400, "must be a JSON object: a EchoRequest"),
        ("POST", "/v1/echo", b"null", 400, "must be a JSON object"),
        ("POST", "/v1/echo", b'{"msg": 1}', 400, "msg"),
        ("POST", "/v1/echo", b'{"nope": 1}', 400, "nope"),
        ("POST", "/v1/echo", b'{"msg": "\\ud800"}', 400, "no JSON"),
        ("POST", "/v1/echo", b"\xff", 400, "no JSON"),
        ("POST", "/v1/echo", b"[" * 30_000, 400, "nested too deep"),
        ("POST", "/v1/echo", b'{"msg": "' + b"x" * (64 << 10) + b'"}', 413, "over the limit"),
        ("POST", "/v1/echo?msg=1", b"{}", 400, "all but the path is in the body"),
        ("GET", "/v1/echo?nope=1", b"", 400, "its fields are: msg"),
        ("GET", "/v1/echo?msg=1&msg=2", b"", 400, "given twice"),
        ("GET", "/v1/echo?msg=1", b"{}", 400, "takes no body"),
        ("GET", "/v1/streams/s/batches?from=1", b"", 400, "no single value"),
        ("GET", "/v1/streams/s/batches?streamName=t", b"", 400, "elsewhere"),
        ("GET", "/v1/streams/s/batches?maxReadBatches=x", b"", 400, "maxReadBatches"),
        ("GET", "/v1/streams/s/batches?maxReadBatches=-1", b"", 400, "maxReadBatches"),
        ("DELETE", "/v1/streams/s?force=1", b"", 400, "true or false"),
        ("POST", "/v1/streams/s/shards/x/batches", b"{}", 400, "shardId"),
        ("GET", "/v1/streams/%FF", b"", 400, "no UTF-8"),
        ("GET", "/v1/nope", b"", 404, "nothing at /v1/nope"),
        ("PATCH", "/v1/echo", b"", 405, "is for GET, POST, not PATCH"),
    ],
)
async def test_what_makes_no_request_is_refused_with_the_reason(
    served: Serving, method: str, path: str, body: bytes, status: int, why: str
) -> None:
    servicer, client = served
    answer = await client.request(method, path, content=body or None)
    assert answer.status_code == status
    error = answer.json()
    assert error["error"] == 0
    assert error["extra"] == ("body_bytes_max" if status == 413 else None)
    assert why in error["message"]
    assert servicer.asked == []
    assert (await client.get("/v1/echo?msg=still")).json() == {"msg": "still"}


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.OK])
async def test_a_refusal_has_its_status_and_its_error(served: Serving, status: Status) -> None:
    answer = await served[1].get(f"/v1/echo?msg={status.name}")
    assert answer.status_code == HTTP_STATUS[status]
    assert answer.json() == {"error": 42, "message": "as told", "extra": {"a": 1}}


async def test_errors_of_the_store_are_told_as_over_grpc(served: Serving) -> None:
    answer = await served[1].get("/v1/streams/s")
    assert answer.status_code == 404
    assert answer.json()["error"] == pb.ErrorCode.StreamNotFound
    assert answer.json()["extra"] == "s"


async def test_a_line_that_is_no_command_is_the_fault_of_who_sent_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        for line in ("", "nonsense", "server nonsense", "server sql", "server stats x y", "a 'b"):
            answer = await client.post("/v1/cluster/admin", json={"command": line})
            assert answer.status_code == 400, line
            assert answer.json()["message"].startswith("this is no command: "), line


async def test_what_the_context_is_told_counts(served: Serving) -> None:
    answers = [await served[1].get(f"/v1/echo?msg={msg}") for msg in ("abort", "code")]
    assert [answer.status_code for answer in answers] == [409, 500]
    assert answers[1].json()["message"] == "gone"


async def test_a_mistake_of_the_servicer_tells_no_secret(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await served[1].get("/v1/echo?msg=bug")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text


async def test_the_context_tells_who_calls_what(served: Serving) -> None:
    answer = await served[1].get("/v1/echo?msg=peer", headers={"X-Me": "you"})
    peer, me, method = answer.json()["msg"].split()
    assert peer.startswith("ipv4:127.0.0.1:")
    assert (me, method) == ("you", "/hstream.server.HStreamApi/Echo")


async def test_a_call_that_does_not_end_is_ended(tmp_path: Path) -> None:
    part = Recorded()
    async with serving(tmp_path, [part, Rest(RestConfig(call_timeout=0.2))]) as (_, client):
        answer = await client.get("/v1/echo?msg=hang")
    assert answer.status_code == 504
    assert "may have happened" in answer.json()["message"]
    assert part.servicer.ended.is_set()


async def test_a_call_whose_client_goes_is_cancelled(tmp_path: Path) -> None:
    part = Recorded()
    async with serving(tmp_path, [part, Rest(RestConfig(call_timeout=3600))]) as (_, client):
        asking = asyncio.ensure_future(client.get("/v1/echo?msg=hang"))
        await part.servicer.heard.wait()
        asking.cancel()
        await part.servicer.ended.wait()


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    rest = Rest(RestConfig(body_timeout=0.2))
    async with serving(tmp_path, [Recorded(), rest]) as (server, client):
        answer = await sent(client, head, b"{")
        assert server.node.limits.refused == {"body_timeout": 1}
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 0.2 s" in answer


async def test_a_body_that_is_not_there_when_the_server_stops_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    async with serving(tmp_path, [Recorded(), Rest(RestConfig())]) as (server, client):
        url = client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head + b"Expect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await server.stop()
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 503 ")
        writer.close()
    assert logged(caplog) == []


async def test_a_body_without_announced_length_is_bounded(served: Serving) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await sent(served[1], head, *[b"1000\r\n" + b" " * 4096 + b"\r\n"] * 17)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"extra":"body_bytes_max"' in answer


@pytest.mark.parametrize("path", ["/v1/streams/s/batches", "/v1/shards/7/batches"])
async def test_a_stream_comes_as_lines(served: Serving, path: str) -> None:
    answer = await served[1].get(f"{path}?maxReadBatches=3")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"receivedRecords": []}] * 3


async def test_a_stream_comes_as_events_where_asked_for(served: Serving) -> None:
    answer = await served[1].get(
        "/v1/streams/s/batches?maxReadBatches=2", headers={"Accept": "text/event-stream"}
    )
    assert answer.headers["content-type"] == "text/event-stream"
    events = [event for event in answer.text.split("\n\n") if not event.startswith(":")]
    assert events == ['data: {"receivedRecords":[]}'] * 2 + [""]


async def test_a_stream_that_is_refused_has_a_status(served: Serving) -> None:
    answer = await served[1].get("/v1/streams/s/batches?readerId=refused")
    assert answer.status_code == 404
    assert answer.json()["error"] == pb.ErrorCode.StreamNotFound


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_a_stream_that_breaks_says_so_in_the_end(served: Serving, accept: str) -> None:
    answer = await served[1].get(
        "/v1/streams/s/batches?maxReadBatches=1&readerId=broken", headers={"Accept": accept}
    )
    last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
    error = json.loads(last)
    assert error.get("error", error)["error"] if accept == "*/*" else error["error"] == 200
    assert ("event: error" in answer.text) is (accept != "*/*")


async def test_a_stream_ends_with_its_client(served: Serving) -> None:
    servicer, client = served
    path = "/v1/streams/s/batches?maxReadBatches=1&readerId=endless"
    async with client.stream("GET", path) as answer:
        async for _ in answer.aiter_lines():
            break
    await asyncio.wait_for(servicer.ended.wait(), 30)


async def test_a_stream_ends_with_the_server(tmp_path: Path) -> None:
    path = "/v1/streams/s/batches?maxReadBatches=1&readerId=endless"
    async with serving(tmp_path, [Recorded(), Rest(RestConfig())]) as (server, client):
        async with client.stream("GET", path) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            stopping = asyncio.ensure_future(server.stop())
            [last] = [json.loads(line) async for line in lines]
            assert "stopping" in last["error"]["message"]
        await stopping


@pytest.mark.parametrize(
    "path", ["/v1/subscriptions/s:streamingFetch", "/v1/streams/s/keys/k:read"]
)
async def test_a_call_of_two_streams_takes_lines_and_gives_lines(
    served: Serving, path: str
) -> None:
    servicer, client = served
    answer = await client.post(path, content=b'{}\n\n{}\n{"nope": 1}\n{}')
    lines = answer.text.splitlines()
    assert len(lines) == 3
    assert "nope" in json.loads(lines[-1])["error"]["message"]
    assert len(servicer.asked) == 2
    assert "s" in str(servicer.asked[0])


async def test_lines_are_answered_as_they_come(served: Serving) -> None:
    turn = asyncio.Queue[bytes | None]()

    async def body() -> AsyncIterator[bytes]:
        while (part := await turn.get()) is not None:
            yield part

    await turn.put(b'{"consumerName": "a"}\n{"consum')
    path = "/v1/subscriptions/s:streamingFetch"
    # This client reads no answer before it has sent all, so what comes is told by the servicer.
    calling = asyncio.ensure_future(served[1].post(path, content=body()))
    await served[0].heard.wait()
    await turn.put(b'erName": "b"}')
    await turn.put(None)
    answer = await calling
    assert [each.consumerName for each in served[0].asked] == ["a", "b"]
    assert len(answer.text.splitlines()) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost:80"}, 200),
    ],
)
async def test_pages_of_others_are_refused(
    served: Serving, headers: dict[str, str], status: int
) -> None:
    answer = await served[1].post("/v1/echo", json={"msg": "x"}, headers=headers)
    assert answer.status_code == status
    assert len(served[0].asked) == (status == 200)
    assert "access-control-allow-origin" not in answer.headers


async def test_origins_that_are_named_may_use_it(tmp_path: Path) -> None:
    rest = Rest(RestConfig(cors_origins=("https://app.example",)))
    async with serving(tmp_path, [Recorded(), rest]) as (_, client):
        headers = {"Origin": "https://app.example"}
        answer = await client.post("/v1/echo", json={"msg": "x"}, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        asked = headers | {"Access-Control-Request-Method": "POST"}
        assert (await client.options("/v1/echo", headers=asked)).status_code == 200
        other = await client.post("/v1/echo", json={}, headers={"Origin": "https://b.example"})
        assert other.status_code == 403


async def test_names_that_are_given_lead_here(tmp_path: Path) -> None:
    rest = Rest(RestConfig(host_names=("streams.example",)))
    async with serving(tmp_path, [Recorded(), rest]) as (_, client):
        for host, status in (("streams.example", 200), ("evil.example", 421)):
            answer = await client.get("/v1/echo", headers={"Host": host})
            assert answer.status_code == status


async def test_every_rule_reaches_its_call(served: Serving) -> None:
    reached = set()
    for rule in rules_of(SERVICE):
        path = rule.template.text.format(**dict.fromkeys(rule.template.names, "1"))
        body = b"{}" if rule.body else None
        answer = await served[1].request(rule.method, path, content=body)
        if rule.rpc.name not in vars(Recorder) or answer.status_code == 501:
            assert answer.json()["message"] == f"This server does not serve {rule.rpc.name}."
            reached.add(rule.rpc.name)
    assert len(reached) > 50


async def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    limits = {"limits": LimitsConfig(handshake_timeout=0.3)}
    async with serving(tmp_path, server=limits) as (server, client):
        for parts in ([], [b"GET /v1/echo HTTP/1.1\r\nHost: lo"]):
            reader, writer = await asyncio.open_connection(
                client.base_url.host, client.base_url.port
            )
            for part in parts:
                writer.write(part)
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
        assert server.node.limits.refused == {"handshake_timeout": 2}
