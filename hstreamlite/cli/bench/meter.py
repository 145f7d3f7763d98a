"""What a run counts, and its reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hstreamlite.metrics.histogram import Distribution, Histogram, distribution_of

_NANOSECONDS = 1e-9


@dataclass(slots=True)
class Meter:
    """Counts of one thread; the histogram is shared by those that do the same."""

    latency: Histogram = field(default_factory=lambda: Histogram(_NANOSECONDS))
    records: int = 0
    bytes: int = 0
    failures: int = 0

    def done(self, records: int, size: int, elapsed_ns: int) -> None:
        """Count records that were done in so long."""
        self.records += records
        self.bytes += size
        self.latency.add(elapsed_ns)


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums of several meters at one time."""

    records: int
    bytes: int
    failures: int
    latency: Distribution

    def since(self, before: Counts) -> Counts:
        latency = self.latency
        counts = latency.counts
        if before.latency.counts:
            counts = tuple(
                now - then for now, then in zip(counts, before.latency.counts, strict=True)
            )
        return Counts(
            self.records - before.records,
            self.bytes - before.bytes,
            self.failures - before.failures,
            distribution_of(0, counts, _NANOSECONDS),
        )

    def facts(self, seconds: float) -> dict[str, Any]:
        """Return a report over so many seconds."""
        seconds = max(seconds, 1e-9)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
        return {
            "records": self.records,
            "bytes": self.bytes,
            "records_per_second": round(self.records / seconds, 1),
            "bytes_per_second": round(self.bytes / seconds, 1),
            "failures": self.failures,
            "latency_ms": {
                name: round(self.latency.percentile(share) * 1e3, 3)
                for name, share in shares.items()
            },
        }


def counts_of(meters: list[Meter]) -> Counts:
    """Return what meters that share a histogram counted together."""
    return Counts(
        sum(meter.records for meter in meters),
        sum(meter.bytes for meter in meters),
        sum(meter.failures for meter in meters),
        meters[0].latency.distribution(),
    )


def line_of(what: str, facts: dict[str, Any]) -> str:
    """Return a report as a line for a person."""
    latency = facts["latency_ms"]
    spread = "  ".join(f"{name.replace('_', '.')} {latency[name]:,.3f}" for name in latency)
    return (
        f"{what:<5} {facts['records_per_second']:>12,.0f} records/s "
        f"{facts['bytes_per_second'] / 2**20:>9,.2f} MiB/s  {facts['failures']} failures  "
        f"ms: {spread}"
    )
