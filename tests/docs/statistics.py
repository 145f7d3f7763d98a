"""Makes the tables of docs/metrics.md from the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hstreamlite.net import stats
from hstreamlite.net.exposition import documented
from hstreamlite.tables import COLUMNS


def metrics() -> str:
    rows = (
        f"| `{name}` | {_coded(labels.split(', ')) if labels else ''} | {text} |"
        for name, labels, text in sorted(documented())
    )
    return "\n".join(["| metric | labels | what |", "|---|---|---|", *rows])


def sql_tables() -> str:
    rows = (f"| `{name}` | {_coded(columns)} |" for name, columns in COLUMNS.items())
    return "\n".join(["| table | columns |", "|---|---|", *rows])


def names() -> str:
    def rows() -> Iterator[str]:
        for category, known in (
            ("stream_counter", stats.STREAM_COUNTERS),
            ("stream", stats.STREAM_SERIES),
            ("subscription_counter", stats.SUBSCRIPTION_COUNTERS),
            ("subscription", stats.SUBSCRIPTION_SERIES),
            ("server_histogram", stats.HISTOGRAMS),
        ):
            yield f"| `{category}` | {_coded(known)} |"

    return "\n".join(["| category | names |", "|---|---|", *rows()])


def _coded(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
