"""The page for Prometheus, read with the parser of its own client library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

import hstreamlite as hs
from hstreamlite.metrics.stalls import WORDS, reason_of
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.exposition import OTHER, documented
from hstreamlite.net.server import Server

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

Key = tuple[str, frozenset[tuple[str, str]]]


class Page:
    """A server and its metrics."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.store = server.node.store
        self.server = server
        self.client = client
        self.values: dict[Key, float] = {}
        self.kinds: dict[str, str] = {}

    async def read(self) -> None:
        before = dict(self.values)
        response = await self.client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        self.values.clear()
        for family in text_string_to_metric_families(response.text):
            self.kinds[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.values
                self.values[key] = sample.value
        for (name, labels), value in self.values.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert value >= before.get((name, labels), 0), (name, labels)

    def __call__(self, name: str, **labels: str) -> float:
        return self.values[f"hstreamlite_{name}", frozenset(labels.items())]

    def names(self, label: str) -> set[str]:
        return {dict(labels)[label] for _, labels in self.values if label in dict(labels)}


@asynccontextmanager
async def serving(path: Path, **options: object) -> AsyncIterator[Page]:
    config = ServerConfig(
        **{"store": str(path / "store"), "port": 0, "http_port": 0, "unix_socket": False} | options
    )
    async with Server(config) as server:
        assert server.node.http_address is not None
        host, port = server.node.http_address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as client:
            yield Page(server, client)


async def test_what_passes_through_is_told_by_stream_and_subscription(tmp_path: Path) -> None:
    async with serving(tmp_path) as page:
        stream = await page.store.create_stream("orders")
        await page.store.create_stream("idle")
        await stream.append_many([b"x" * 100] * 100)
        subscription = await page.store.create_subscription("billing", stream="orders")
        await page.read()
        assert page("stream_append_records_total", stream="orders") == 100
        assert page("stream_append_calls_total", stream="orders") == 1
        assert page("stream_append_bytes_total", stream="orders") > 10_000
        assert page("stream_append_records_total", stream="idle") == 0
        assert page("stream_records", stream="orders") == 100
        assert page("subscription_lag_records", subscription="billing") == 100
        assert page("subscription_lag_bytes", subscription="billing") > 10_000
        assert page("subscription_backlog_records", subscription="billing") == 100
        assert page("append_latency_seconds_count") == 100
        assert page("append_latency_seconds_bucket", le="+Inf") == 100
        assert page("append_size_bytes_sum") == page("stream_append_bytes_total", stream="orders")
        assert (page("streams"), page("subscriptions"), page("records")) == (2, 1, 100)
        async with subscription.consumer("c") as consumer:
            await consumer.ack((await consumer.receive(60))[:40])
            await page.read()
        assert page("subscription_consumers", subscription="billing") == 1
        assert page("subscription_unacked_records", subscription="billing") == 20
        assert page("subscription_acks_total", subscription="billing") == 40
        assert page("subscription_sent_records_total", subscription="billing") == 60
        assert page("subscription_lag_records", subscription="billing") == 60
        assert page.names("stream") == {"orders", "idle"}


async def test_a_stall_has_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path) as page:
        stream = await page.store.create_stream("a")
        subscription = await page.store.create_subscription("s", stream="a", max_unacked=10)

        async def reasons() -> list[str]:
            await page.read()
            return [
                word
                for word in WORDS
                if page("subscription_blocked", subscription="s", reason=word)
            ]

        assert await reasons() == ["no_consumers"]
        async with subscription.consumer("c") as consumer:
            assert await reasons() == []
            await stream.append_many([b"x"] * 20)
            assert await reasons() == []
            taken = await consumer.receive(20)
            assert await reasons() == ["window_full"]
            await consumer.ack(taken)
            assert await reasons() == []
            await subscription.pause()
            assert await reasons() == ["paused"]
    assert reason_of("something new: 7") == ("other", "something new: 7")


async def test_only_so_many_have_labels_and_no_counter_falls(tmp_path: Path) -> None:
    async with serving(tmp_path, metric_labels_max=2) as page:
        names = [f"s{number}" for number in range(6)]
        for name in names:
            await page.store.create_stream(name)
        for name in ("s3", "s5"):
            await page.store.stream(name).append(b"x")
        await page.read()
        assert page.names("stream") == {"s3", "s5", OTHER}
        for name in names:
            await page.store.stream(name).append_many([b"x"] * 10)
        await page.read()
        assert page.names("stream") == {"s3", "s5", OTHER}
        assert page("stream_append_records_total", stream="s3") == 11
        assert page("stream_append_records_total", stream=OTHER) == 40
        assert page("stream_records", stream=OTHER) == 40
        await page.store.delete_stream("s0")
        await page.read()
        assert page("stream_append_records_total", stream=OTHER) == 40
        assert page("stream_records", stream=OTHER) == 30
        await page.store.stream("s1").append(b"x")
        await page.read()
        assert page("stream_append_records_total", stream=OTHER) == 41
        for number in range(4):
            await page.store.create_subscription(f"g{number}", stream="s1")
        await page.read()
        found = page.names("subscription") - {OTHER}
        assert len(found) == 0  # none was used, and there are more than have room
        assert page("subscription_lag_records", subscription=OTHER) == 44
        assert page("subscription_lag_seconds", subscription=OTHER) >= 0


async def test_every_metric_is_documented_and_has_its_kind(tmp_path: Path) -> None:
    async with serving(tmp_path) as page:
        await (await page.store.create_stream("a")).append(b"x")
        await page.store.create_subscription("s", stream="a")
        page.server.node.gate.refused["permission"] += 1
        await page.read()
        ours = {
            f"{name}_total" if kind == "counter" else name
            for name, kind in page.kinds.items()
            if name.startswith("hstreamlite_")
        }
        assert ours == {name for name, _, _ in documented()}
        labels = {name: frozenset(filter(None, text.split(", "))) for name, text, _ in documented()}
        for name, given in page.values:
            if name in labels:
                assert {label for label, _ in given} == labels[name], name
        assert any(name.startswith("process_") for name in page.kinds)


async def test_openmetrics_is_answered_who_asks_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as page:
        await (await page.store.create_stream("a")).append(b"x")
        response = await page.client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        read: Any = openmetrics_families
        families = {family.name for family in read(response.text)}
        assert "hstreamlite_stream_append_records" in families


async def test_health_and_version_are_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as page:
        await page.read()
        assert page("failed") == 0
        assert page("server_info", version=hs.__version__) == 1
