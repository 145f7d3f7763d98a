"""Statistics under the names that HStreamDB has for them: counters, series and histograms.

What a server counts are meters of its store. Counters can be set back for those who ask here; the
meters, which others read too, only grow. Methods block for as long as a look at all counters takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hstreamlite.aio import Store
from hstreamlite.log.catalog import StreamState
from hstreamlite.metrics.histogram import Distribution, distribution_of
from hstreamlite.metrics.rates import INTERVAL_NS_MAX
from hstreamlite.metrics.traffic import StreamTraffic, SubscriptionTraffic

INTERVAL_MS_MAX: Final = INTERVAL_NS_MAX // 1_000_000

STREAM_COUNTERS: Final = {
    "append_in_bytes": "append_bytes",
    "append_in_records": "append_records",
    "append_total": "append_calls",
    "append_failed": "append_failed",
    "read_in_bytes": "read_bytes",
    "read_in_batches": "read_batches",
}
"""Fields of `StreamTraffic`."""
SUBSCRIPTION_COUNTERS: Final = {
    "send_out_bytes": "sent_bytes",
    "send_out_records": "first_records",
    "send_out_records_failed": "failed_records",
    "resend_records": "resent_records",
    "resend_records_failed": "",
    "received_acks": "acks",
    "request_messages": "requests",
    "response_messages": "responses",
    "checklist_size": "",
}
"""Fields of `SubscriptionTraffic`, but for the size of the checklist: what is unacked now. Records
that are sent again and cannot be sent count as those sent first."""
STREAM_SERIES: Final = {
    "append_in_bytes": 0,
    "appends": 0,
    "append_in_records": 1,
    "append_in_requests": 2,
    "append_failed_requests": 3,
    "read_in_bytes": 4,
    "reads": 4,
    "read_in_batches": 5,
}
"""Places in `StreamRates`."""
SUBSCRIPTION_SERIES: Final = {
    "send_out_bytes": 0,
    "sends": 0,
    "send_out_records": 1,
    "acks": 2,
    "acknowledgements": 2,
    "request_messages": 3,
    "response_messages": 4,
}
"""Places in `SubscriptionRates`."""
HISTOGRAMS: Final = ("append_request_latency", "append_latency", "read_latency")


class Statistics:
    """What a server counts, since it was started or counters were set back. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._engine = store._engine
        self._feeds = store._feeds
        self._meters = store._ticker.meters
        self._streams_before: dict[str, StreamTraffic] = {}
        self._subscriptions_before: dict[str, SubscriptionTraffic] = {}
        self._histograms_before: dict[str, Distribution] = {}

    def reset(self) -> None:
        """Count from 0 again. Rates stay: they forget by themselves."""
        self._streams_before = self._stream_traffic()
        self._subscriptions_before = self._subscription_traffic()
        self._histograms_before = {name: self._distribution(name) for name in HISTOGRAMS}

    # Counters.

    def stream_counter(self, name: str) -> dict[str, int]:
        """Return a counter of every stream that was used, by name of the stream."""
        field = STREAM_COUNTERS[name]
        return {
            stream: value
            for stream, traffic in self._stream_traffic().items()
            if any(_counts(traffic))
            for value in [_since(traffic, self._streams_before.get(stream), field)]
        }

    def subscription_counter(self, name: str) -> dict[str, int]:
        """Return a counter of every subscription."""
        if name == "checklist_size":
            return dict(self._feeds.told(lambda feed: (feed.state.name, feed.lag().unacked)))
        field, traffic = SUBSCRIPTION_COUNTERS[name], self._subscription_traffic()
        before = self._subscriptions_before
        return {
            subscription: _since(found, before.get(subscription), field) if field else 0
            for subscription, found in traffic.items()
        }

    def _stream_traffic(self) -> dict[str, StreamTraffic]:
        return self._meters.streams(self._states())

    def _subscription_traffic(self) -> dict[str, SubscriptionTraffic]:
        return dict(
            self._feeds.told(lambda feed: (feed.state.name, self._meters.subscription(feed)))
        )

    def _states(self) -> list[StreamState]:
        with self._engine.lock:
            return sorted(self._engine.catalog.streams.values(), key=lambda state: state.name)

    # Series.

    def stream_series(
        self, name: str, stream: str, intervals_ms: Iterable[int]
    ) -> list[float] | None:
        """Return the rates of a stream, per second; None if there is no such series or stream, or
        an interval is none."""
        place, intervals = STREAM_SERIES.get(name), list(intervals_ms)
        state = self._engine.catalog.streams.get(stream)
        if place is None or state is None or not all(map(is_interval, intervals)):
            return None
        return self._stream_rates(state, place, intervals)

    def all_stream_series(self, name: str, intervals_ms: Iterable[int]) -> dict[str, list[float]]:
        """Return the rates of every stream that was used; empty if there is no such series."""
        place, intervals = STREAM_SERIES.get(name), list(intervals_ms)
        if place is None:
            return {}
        used = self._stream_traffic()
        return {
            state.name: self._stream_rates(state, place, intervals)
            for state in self._states()
            if state.name in used and any(_counts(used[state.name]))
        }

    def _stream_rates(self, state: StreamState, place: int, intervals_ms: list[int]) -> list[float]:
        return [
            self._meters.stream_rates(state, interval * 1_000_000)[place]
            for interval in intervals_ms
        ]

    def all_subscription_series(
        self, name: str, intervals_ms: Iterable[int]
    ) -> dict[str, list[float]]:
        """Return the rates of every subscription."""
        place, intervals = SUBSCRIPTION_SERIES[name], list(intervals_ms)
        return dict(
            self._feeds.told(
                lambda feed: (
                    feed.state.name,
                    [
                        self._meters.subscription_rates(feed, interval * 1_000_000)[place]
                        for interval in intervals
                    ],
                )
            )
        )

    # Histograms.

    def histogram(self, name: str) -> Distribution:
        """Return a distribution, in seconds."""
        now = self._distribution(name)
        before = self._histograms_before.get(name)
        if before is None or not before.count:
            return now
        counts = [new - old for new, old in zip(now.counts, before.counts, strict=True)]
        return distribution_of(round((now.sum - before.sum) / now.unit), counts, now.unit)

    def _distribution(self, name: str) -> Distribution:
        if name == "append_latency":
            return self._meters.append_latency()
        if name == "append_request_latency":
            return self._meters.append_request.distribution()
        return self._meters.read_latency()


def is_interval(ms: int) -> bool:
    return 0 < ms <= INTERVAL_MS_MAX


def _counts(traffic: StreamTraffic) -> list[int]:
    return [getattr(traffic, field) for field in STREAM_COUNTERS.values()]


def _since(
    now: StreamTraffic | SubscriptionTraffic,
    before: StreamTraffic | SubscriptionTraffic | None,
    field: str,
) -> int:
    value: int = getattr(now, field)
    return value if before is None else max(0, value - int(getattr(before, field)))
