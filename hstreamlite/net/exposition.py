"""The metrics of a server as Prometheus and OpenMetrics have them.

What has a label has it for so many streams and subscriptions at most; the others are added up under
`_other`, which no name can be. Who has a label keeps it, so that no counter ever falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from hstreamlite import __version__
from hstreamlite.errors import SubscriptionNotFound
from hstreamlite.info import StoreStats, stats_of
from hstreamlite.metrics.histogram import Distribution
from hstreamlite.metrics.stalls import WORDS, reason_of
from hstreamlite.metrics.traffic import StreamTraffic, SubscriptionTraffic
from hstreamlite.net.node import Node
from hstreamlite.position import lag
from hstreamlite.sub.effects import GroupStats, Lag

_TCP: Final = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
OTHER: Final = "_other"
SECONDS: Final = range(13, 37)
BYTES: Final = range(6, 26)
"""Powers of two at which buckets end, of ns and bytes."""

T = TypeVar("T")


_STREAM: Final[dict[str, tuple[str, Callable[[StreamTraffic], float]]]] = {
    "append_bytes_total": ("Bytes appended, as stored.", lambda t: t.append_bytes),
    "append_records_total": ("Records appended.", lambda t: t.append_records),
    "append_calls_total": ("Calls that append, failed ones included.", lambda t: t.append_calls),
    "append_failed_total": ("Calls that failed to append.", lambda t: t.append_failed),
    "read_bytes_total": ("Bytes read by readers and subscriptions.", lambda t: t.read_bytes),
    "read_batches_total": ("Stored batches that were begun to read.", lambda t: t.read_batches),
}
_STREAM_SIZE: Final = {
    "records": "Records kept.",
    "bytes": "Bytes kept, as stored.",
}
_SENT: Final[dict[str, tuple[str, Callable[[SubscriptionTraffic], float]]]] = {
    "sent_bytes_total": ("Bytes delivered, about.", lambda t: t.sent_bytes),
    "sent_records_total": ("Deliveries.", lambda t: t.sent_records),
    "resent_records_total": (
        "Deliveries that were not the first of their record.",
        lambda t: t.resent_records,
    ),
    "send_failed_records_total": (
        "Records that could not be sent to a remote consumer.",
        lambda t: t.failed_records,
    ),
    "acks_total": ("Records acked.", lambda t: t.acks),
    "requests_total": ("Messages from remote consumers.", lambda t: t.requests),
    "responses_total": ("Messages to remote consumers.", lambda t: t.responses),
}
_GROUP_COUNTERS: Final[dict[str, tuple[str, Callable[[GroupStats], float]]]] = {
    "gap_records_total": (
        "Records that were trimmed or expired before they were acked.",
        lambda g: g.gap_records,
    ),
    "dead_letters_total": (
        "Records moved to the dead-letter stream.",
        lambda g: g.buried,
    ),
}
_GROUP: Final[dict[str, tuple[str, Callable[[GroupStats], float]]]] = {
    "unacked_records": ("Records delivered and not acked.", lambda g: g.unacked),
    "damaged_records": ("Records that cannot be read.", lambda g: g.damaged),
    "backlog_records": ("Records never delivered.", lambda g: g.backlog),
    "waiting_records": ("Records that wait to be sent again.", lambda g: g.waiting),
    "doomed_records": (
        "Records that wait for their move to the dead-letter stream.",
        lambda g: g.doomed,
    ),
    "consumers": ("Consumers attached.", lambda g: len(g.consumers)),
}
_LAG: Final[dict[str, tuple[str, Callable[[Lag], float]]]] = {
    "lag_records": ("Records behind: unacked, and never delivered.", lambda found: found.records),
    "lag_bytes": ("Bytes behind, about.", lambda found: found.bytes),
}
_AGES: Final = {
    "lag_seconds": "Age of the oldest record that is behind; of _other, the largest.",
    "stalled_seconds": (
        "For how long there was something to deliver and nothing was delivered or acked; of "
        "_other, the longest."
    ),
}
_LOG: Final = {
    "frames": ("frames", "Frames made durable."),
    "syncs": ("syncs", "Syncs of the disk."),
    "blocks": ("blocks", "Blocks made durable."),
    "written_bytes": ("bytes_written", "Bytes written to segments."),
    "read_bytes": ("bytes_read", "Bytes read from segments."),
    "reads": ("reads", "Reads of segments."),
    "full": ("full", "Appends that found the disk full."),
}
_STORE: Final[dict[str, tuple[str, Callable[[StoreStats], float]]]] = {
    "streams": ("Streams.", lambda s: s.streams),
    "subscriptions": ("Subscriptions.", lambda s: len(s.subscriptions)),
    "records": ("Records kept.", lambda s: s.records),
    "bytes": ("Bytes kept, as stored.", lambda s: s.bytes),
    "disk_bytes": ("Bytes of segment files.", lambda s: s.disk_bytes),
    "failed": (
        "1 after a failed write or sync, when nothing more is taken.",
        lambda s: float(s.log["failed"] != 0),
    ),
}
_MEASURES: Final[dict[str, tuple[str, Callable[[StoreStats], Distribution], range]]] = {
    "append_latency_seconds": (
        "How long records waited until they were on disk, from the begin of their frame.",
        lambda s: s.append_latency,
        SECONDS,
    ),
    "append_request_latency_seconds": (
        "How long appends of remote clients took to be answered.",
        lambda s: s.append_request_latency,
        SECONDS,
    ),
    "append_size_bytes": (
        "What one call appended to one shard, as stored.",
        lambda s: s.append_size,
        BYTES,
    ),
    "read_latency_seconds": (
        "How long reads of segment files took.",
        lambda s: s.read_latency,
        SECONDS,
    ),
}


def documented() -> Iterator[tuple[str, str, str]]:
    """Return name, labels and meaning of every metric, in the order of the page."""
    for part, label, metrics in (
        ("stream", "stream", _STREAM),
        ("subscription", "subscription", _SENT | _GROUP_COUNTERS | _GROUP | _LAG),
        ("store", "", _STORE | _MEASURES),
    ):
        for name, known in metrics.items():
            yield _name(part, name), label, known[0]
    for name, text in _STREAM_SIZE.items():
        yield _name("stream", name), "stream", text
    for name, text in _AGES.items():
        yield _name("subscription", name), "subscription", text
    yield _name("subscription", "blocked"), "subscription, reason", BLOCKED
    for name, (_, text) in _LOG.items():
        yield _name("log", f"{name}_total"), "", text
    yield _name("server", "refused_calls_total"), "reason", REFUSED
    yield _name("server", "calls"), "", CALLS
    yield _name("server", "busy_connections"), "", BUSY
    yield _name("server", "connections"), "listener", CONNECTIONS
    yield _name("server", "info"), "version", INFO
    yield _name("server", "uptime_seconds"), "", UPTIME


BLOCKED: Final = f"1 while nothing can be delivered for this reason: {', '.join(WORDS)}."
REFUSED: Final = "Calls refused: unauthenticated, for want of permission, or by a limit's name."
CALLS: Final = "Calls under way over gRPC."
BUSY: Final = "Connections of gRPC that have calls under way."
CONNECTIONS: Final = "TCP connections, used or not; on Linux only."
INFO: Final = "1, with the version of the server."
UPTIME: Final = "Seconds since the start."


def _name(part: str, name: str) -> str:
    return f"hstreamlite_{name}" if part == "store" else f"hstreamlite_{part}_{name}"


class Labels:
    """Who has a label of its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: set[str] = set()
        self._before: dict[str, float] = {}
        self._lost: dict[str, float] = {}

    def give(self, names: Iterable[str], used: Callable[[str], bool]) -> set[str]:
        """Return which of the names have labels: all, or those that were used first."""
        there = list(names)
        self._given &= set(there)
        for name in there:
            if len(self._given) >= self._most:
                break
            if len(there) <= self._most or used(name):
                self._given.add(name)
        return self._given

    def added_up(self, metric: str, value: float) -> float:
        """Return the counter of all others, which does not fall when one of them is deleted."""
        self._lost[metric] = lost = max(
            self._lost.get(metric, 0.0), self._before.get(metric, 0.0) - value
        )
        self._before[metric] = value + lost
        return value + lost


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is told at once."""

    stats: StoreStats
    lags: Mapping[str, Lag]
    sizes: Mapping[str, tuple[int, int]]
    streams: set[str]
    subscriptions: set[str]


class Exposition:
    """Makes the page. One thread at a time."""

    def __init__(self, node: Node, labels_max: int) -> None:
        self._node = node
        self._streams = Labels(labels_max)
        self._subscriptions = Labels(labels_max)
        self._process = ProcessCollector(registry=CollectorRegistry())

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the format that is asked for."""
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Return all metrics, as they are now."""
        snapshot = self._snapshot()
        yield from self._of_streams(snapshot)
        yield from self._of_subscriptions(snapshot)
        yield from self._of_store(snapshot.stats)
        yield from self._of_server()
        yield from self._process.collect()

    def _snapshot(self) -> Snapshot:
        store = self._node.store
        engine, feeds = store._engine, store._feeds
        engine.check_open()
        stats = stats_of(engine, feeds, store._ticker.meters)
        nothing = StreamTraffic()
        streams = self._streams.give(
            stats.stream_traffic, lambda name: stats.stream_traffic[name] != nothing
        )
        subscriptions = self._subscriptions.give(
            stats.subscription_traffic, lambda name: bool(stats.subscriptions[name].consumers)
        )
        states = dict(engine.catalog.streams)
        sizes = {name: engine.stream_bytes(states[name]) for name in streams if name in states}
        lags = {}
        for name in stats.subscriptions:
            feed = feeds.find(name)
            if feed is not None:
                try:
                    lags[name] = lag(feed)
                except SubscriptionNotFound:
                    continue  # deleted meanwhile
        return Snapshot(stats, lags, sizes, streams, subscriptions)

    def _of_streams(self, snapshot: Snapshot) -> Iterator[Metric]:
        traffic, labels = snapshot.stats.stream_traffic, snapshot.streams
        for name, (text, read) in _STREAM.items():
            yield self._counter("stream", name, text, traffic, read, labels, self._streams)
        kept = snapshot.stats.records, snapshot.stats.bytes
        for place, (name, text) in enumerate(_STREAM_SIZE.items()):
            gauge = GaugeMetricFamily(_name("stream", name), text, labels=["stream"])
            for stream, sizes in snapshot.sizes.items():
                gauge.add_metric([stream], sizes[place])
            if len(traffic) > len(labels):
                own = sum(sizes[place] for sizes in snapshot.sizes.values())
                gauge.add_metric([OTHER], max(0, kept[place] - own))
            yield gauge

    def _of_subscriptions(self, snapshot: Snapshot) -> Iterator[Metric]:
        stats, labels = snapshot.stats, snapshot.subscriptions
        known = self._subscriptions
        for name, (text, sent) in _SENT.items():
            traffic = stats.subscription_traffic
            yield self._counter("subscription", name, text, traffic, sent, labels, known)
        for name, (text, counted) in _GROUP_COUNTERS.items():
            groups = stats.subscriptions
            yield self._counter("subscription", name, text, groups, counted, labels, known)
        for name, (text, held) in _GROUP.items():
            values = {each: held(group) for each, group in stats.subscriptions.items()}
            yield _gauge(name, text, values, labels, sum)
        for name, (text, behind) in _LAG.items():
            values = {each: behind(found) for each, found in snapshot.lags.items()}
            yield _gauge(name, text, values, labels, sum)
        ages = {each: found.age for each, found in snapshot.lags.items()}
        stalls = {each: group.stalled for each, group in stats.subscriptions.items()}
        for (name, text), values in zip(_AGES.items(), (ages, stalls), strict=True):
            yield _gauge(name, text, values, labels, max)
        yield _blocked(stats.subscriptions, labels)

    def _of_store(self, stats: StoreStats) -> Iterator[Metric]:
        for name, (text, read) in _STORE.items():
            yield GaugeMetricFamily(_name("store", name), text, value=read(stats))
        for name, (field, text) in _LOG.items():
            yield CounterMetricFamily(_name("log", name), text, value=stats.log[field])
        for name, (text, measured, powers) in _MEASURES.items():
            found = measured(stats)
            buckets = [(repr(edge), float(count)) for edge, count in found.up_to(powers)]
            buckets.append(("+Inf", float(found.count)))
            yield HistogramMetricFamily(
                _name("store", name), text, buckets=buckets, sum_value=found.sum
            )

    def _of_server(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(_name("server", "refused_calls"), REFUSED, labels=["reason"])
        for reason, count in (self._node.gate.refused + self._node.limits.refused).items():
            refused.add_metric([reason], count)
        yield refused
        yield GaugeMetricFamily(_name("server", "calls"), CALLS, value=self._node.limits.calls)
        busy = self._node.limits.connections
        yield GaugeMetricFamily(_name("server", "busy_connections"), BUSY, value=busy)
        connections = GaugeMetricFamily(
            _name("server", "connections"), CONNECTIONS, labels=["listener"]
        )
        for listener, count in _connections(self._node):
            connections.add_metric([listener], count)
        yield connections
        info = GaugeMetricFamily(_name("server", "info"), INFO, labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            _name("server", "uptime_seconds"), UPTIME, value=self._node.uptime()
        )

    def _counter(
        self,
        part: str,
        name: str,
        text: str,
        values: Mapping[str, T],
        read: Callable[[T], float],
        labels: set[str],
        known: Labels,
    ) -> Metric:
        family = CounterMetricFamily(_name(part, name), text, labels=[part])
        other = 0.0
        for key, value in values.items():
            if key in labels:
                family.add_metric([key], read(value))
            else:
                other += read(value)
        if len(values) > len(labels):
            family.add_metric([OTHER], known.added_up(name, other))
        return family


_ESTABLISHED: Final = "01"


def _connections(node: Node) -> Iterator[tuple[str, int]]:
    """Yield how many connections each listener has, as the kernel knows of them: gRPC tells of none
    that makes no call."""
    listeners = {each.port: each.group for each in node.listeners if each.port}
    if node.http_address is not None:
        listeners[node.http_address[1]] = "http"
    found = dict.fromkeys(listeners, 0)
    tables = [table for table in map(Path, _TCP) if table.exists()]
    for table in tables:
        for line in table.read_text("ascii").splitlines()[1:]:
            _, local, _, state, _ = line.split(maxsplit=4)
            port = int(local.rpartition(":")[2], 16)
            if state == _ESTABLISHED and port in found:
                found[port] += 1
    if tables:
        yield from ((listeners[port], count) for port, count in found.items())


def _gauge(
    name: str,
    text: str,
    values: Mapping[str, float],
    labels: set[str],
    join: Callable[[list[float]], float],
) -> Metric:
    family = GaugeMetricFamily(_name("subscription", name), text, labels=["subscription"])
    for key in labels & values.keys():
        family.add_metric([key], values[key])
    others = [value for key, value in values.items() if key not in labels]
    if others:
        family.add_metric([OTHER], join(others))
    return family


def _blocked(groups: Mapping[str, GroupStats], labels: set[str]) -> Metric:
    family = GaugeMetricFamily(
        _name("subscription", "blocked"), BLOCKED, labels=["subscription", "reason"]
    )
    for name in labels & groups.keys():
        now, _ = reason_of(groups[name].blocked)
        for word in WORDS:
            family.add_metric([name, word], float(word == now))
    return family
