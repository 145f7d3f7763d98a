"""The OpenAPI document says what is served, and what is served keeps to it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.rest.rules import rules_of
from hstreamlite.net.server import Server

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

SERVICE = pb.DESCRIPTOR.services_by_name["HStreamApi"]
UNSERVED = re.compile("/v1/(queries|views|connectors|connectorSpecs|schemas|sql|namespaces)")
UNFORESEEN = "The server failed in a way that it logged."
CHECKS = [content_type_conformance, response_headers_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-ndjson")
def lines(_: object, value: object) -> bytes:
    values = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(each).encode() for each in values)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve on a loop of another thread, for a client that blocks."""
    config = ServerConfig(
        store=str(tmp_path_factory.mktemp("store")), port=0, http_port=0, unix_socket=False
    )
    ready = Queue[tuple[Server, asyncio.AbstractEventLoop]]()

    async def serve() -> None:
        async with Server(config) as server:
            store = server.node.store
            await store.create_stream("s")
            await store.create_subscription("s", stream="s")
            ready.put((server, asyncio.get_running_loop()))
            await server.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    server, loop = ready.get(timeout=60)
    yield "http://{}:{}".format(*server.node.http_address or ())
    loop.call_soon_threadsafe(server.begin_stop)
    thread.join()


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/openapi.json", timeout=60).json()
    return found


def test_each_rule_is_in_it(document: dict[str, Any]) -> None:
    for rule in rules_of(SERVICE):
        operation = document["paths"][rule.template.text][rule.method.lower()]
        assert operation["summary"] == rule.rpc.name
        names = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert names == set(rule.template.names)
        assert ("requestBody" in operation) is bool(rule.body)


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    names = Counter(
        op["operationId"] for path in document["paths"].values() for op in path.values()
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert len(references) > 50
    for reference in references:
        at: Any = document
        for name in reference.split("/"):
            at = at[name]


def test_all_it_says_is_served_and_answers_as_it_says(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    statuses: Counter[int] = Counter()

    def tried(operation: Any, mode: GenerationMode) -> None:
        @settings(
            max_examples=1 if UNSERVED.match(operation.path) else 2,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def works(case: Any) -> None:
            settle(case)
            answer = case.call(timeout=60)
            statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
            assert UNFORESEEN not in answer.text, case.as_curl_command()
            assert answer.status_code != 404 or "there is nothing at" not in answer.text

        works()

    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.path.endswith(":consume"):
            continue  # it does not end
        tried(operation, GenerationMode.POSITIVE)
        if operation.body or operation.query:
            tried(operation, GenerationMode.NEGATIVE)
    assert httpx.get(f"{url}/v1/echo?msg=alive", timeout=60).json() == {"msg": "alive"}
    assert statuses[200] > 20, statuses
    assert statuses[400] > 20, statuses


def settle(case: Any) -> None:
    """Let a case be about the stream and the subscription that there are, and end soon."""
    parameters = case.path_parameters or {}
    endless = "read" in case.path or "batches" in case.path or "streamingFetch" in case.path
    if case.method.lower() != "delete" and not endless:
        known = {"stream", "streamName", "subscription", "subscriptionId", "name", "id"}
        for name in known & set(parameters):
            parameters[name] = "s"
    query = case.query if isinstance(case.query, dict) else {}
    query.pop("follow", None)
    for place in (query, case.body):
        if isinstance(place, dict) and "wait" in place:
            place["wait"] = 0


def test_the_page_needs_nothing_from_elsewhere(url: str) -> None:
    answer = httpx.get(f"{url}/docs", timeout=60)
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?://|//cdn|@import|src=|url\(", answer.text) == []
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        [inline] = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert answer.text.count("<script") == answer.text.count("<style") == 1


def test_the_page_is_a_file_of_the_package() -> None:
    import hstreamlite.net.rest as package

    assert package.__file__ is not None
    assert Path(package.__file__).with_name("docs.html").is_file()
