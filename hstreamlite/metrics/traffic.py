"""What passed through a stream or a subscription since the store was opened."""

from dataclasses import dataclass, fields

from hstreamlite.metrics.rates import Rates

NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class StreamRates:
    """What passes through a stream, per second."""

    append_bytes: Rates = NO_RATES
    append_records: Rates = NO_RATES
    append_calls: Rates = NO_RATES
    append_failed: Rates = NO_RATES
    read_bytes: Rates = NO_RATES
    read_batches: Rates = NO_RATES

    def __add__(self, other: "StreamRates") -> "StreamRates":
        return StreamRates(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(StreamRates))
        )


@dataclass(frozen=True, slots=True)
class SubscriptionRates:
    """What goes to and comes from the consumers of a subscription, per second."""

    sent_bytes: Rates = NO_RATES
    sent_records: Rates = NO_RATES
    acks: Rates = NO_RATES
    requests: Rates = NO_RATES
    responses: Rates = NO_RATES


NO_STREAM_RATES = StreamRates()
NO_SUBSCRIPTION_RATES = SubscriptionRates()


@dataclass(frozen=True, slots=True)
class StreamTraffic:
    """What passed through a stream since the store was opened.

    `append_bytes` and `read_bytes` count records as they are stored; `append_calls` what reached
    the log as one call, `append_failed` those of them that raised. Readers and subscriptions both
    read; `read_batches` counts the stored batches they began. `rates` is None where the store has
    no room for them, as it has for 10,000 streams at a time.
    """

    append_bytes: int = 0
    append_records: int = 0
    append_calls: int = 0
    append_failed: int = 0
    read_bytes: int = 0
    read_batches: int = 0
    rates: StreamRates | None = NO_STREAM_RATES


@dataclass(frozen=True, slots=True)
class SubscriptionTraffic:
    """What went to and came from the consumers of a subscription since the store was opened.

    `sent_records` counts deliveries, of which `resent_records` were not the first of their record;
    `sent_bytes` is what they take as stored, by the mean size of what was read about then. `acks`
    counts each record once. `requests` and `responses` are messages of remote consumers, and
    `failed_records` what could not be sent to them.
    """

    sent_bytes: int = 0
    sent_records: int = 0
    resent_records: int = 0
    failed_records: int = 0
    acks: int = 0
    requests: int = 0
    responses: int = 0
    rates: SubscriptionRates = NO_SUBSCRIPTION_RATES

    @property
    def first_records(self) -> int:
        """Deliveries that were the first of their record."""
        return self.sent_records - self.resent_records


@dataclass(slots=True)
class Outflow:
    """Counters of one subscription at work; the shell's lock guards the first two."""

    sent: int = 0
    resent: int = 0
    failed: int = 0
    requests: int = 0
    responses: int = 0
