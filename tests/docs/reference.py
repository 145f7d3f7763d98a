"""Makes the tables of docs/reference.md and docs/cli.md from the code.

python tests/docs/reference.py --write
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hstreamlite as hs
from hstreamlite import config, errors
from tests.docs import commands, statistics

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reference.md"
CLI_PAGE = ROOT / "docs" / "cli.md"
METRICS_PAGE = ROOT / "docs" / "metrics.md"
CLASSES = (
    "Store",
    "Stream",
    "Producer",
    "Submitted",
    "Reader",
    "BatchReader",
    "Batch",
    "Subscription",
    "Consumer",
    "DeliveryBatch",
    "Delivery",
    "Transaction",
    "Record",
    "RecordId",
    "RecordIds",
)
VALUES = (
    "AckResult",
    "Backoff",
    "ConsumerStats",
    "Damaged",
    "Distribution",
    "Gap",
    "GroupStats",
    "Lag",
    "LostRecords",
    "Rates",
    "RecoveryReport",
    "Sought",
    "StoreStats",
    "StreamInfo",
    "StreamRates",
    "StreamTraffic",
    "SubscriptionInfo",
    "SubscriptionRates",
    "SubscriptionTraffic",
)
INTERNAL = {"Producer.send_if_due"}
MEANINGS = {
    "BATCH_RECORDS_MAX": "Records of a batch that a remote client encoded.",
    "SHARDS_MAX": "Shards of one stream.",
    "STREAMS_MAX": "Streams of one store.",
    "SUBSCRIPTIONS_MAX": "Subscriptions of one store.",
    "ACK_TIMEOUT_SECONDS_MAX": "Longest ack timeout, extension or delay of a release, in seconds.",
    "MAX_UNACKED_MAX": "Largest max_unacked of a subscription.",
    "MAX_UNACKED_BYTES_MAX": "Largest window in bytes.",
    "JSON_DEPTH_MAX": "Depth of a JSON record that is read; those written may be 32 deep.",
    "PRODUCER_NAME_MAX": "Characters of a producer's name.",
}
MEMBERS = {
    "Stream.name": "Name of the stream.",
    "Subscription.name": "Name of the subscription.",
    "Store.path": "Path of the directory.",
    "Store.closed": "Whether it was closed.",
    "Consumer.closed": "Whether it was closed.",
    "Consumer.name": "Name under which it is attached.",
    "Consumer.subscription": "Name of its subscription.",
    "DeliveryBatch.spans": "Ranges covered, as (shard, first LSN, end LSN).",
    "DeliveryBatch.consumer": "The consumer that received it.",
    "Batch.shard_id": "Number of the shard.",
    "Batch.batch_id": "LSN of the first record as stored.",
    "Batch.first": "Index of the first record to be read; above 0 in a batch that is trimmed.",
    "Batch.end": "Index behind the last record to be read.",
    "Batch.append_time_ms": "Append time in milliseconds since 1970.",
    "Batch.append_time": "Append time.",
    "Batch.compression": "How the payload is compressed.",
    "Batch.payload": "Serialized records, as stored.",
    "Batch.decoded_bytes": "Size of the payload decompressed; 0 where a client encoded it.",
    "Batch.size": "Number of its records, trimmed ones included.",
    "Transaction.ids": "After the commit: ids of what was appended, by stream.",
    "RecordIds.count": "Say how often an id occurs.",
    "RecordIds.index": "Return the index of an id.",
}
EXTRA_MEMBERS = {"Consumer": ("name", "subscription"), "Transaction": ("ids",)}


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(head: str, rows: Iterator[str]) -> str:
    line = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, line, *rows])


def documented(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield statements with the text that stands below them."""
    for statement, after in zip(body, [*body[1:], None], strict=True):
        match after:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield statement, text
            case _:
                yield statement, ""


def config_tree() -> ast.Module:
    return ast.parse(Path(config.__file__).read_text(encoding="utf-8"))


def settings() -> str:
    (cls,) = (n for n in config_tree().body if isinstance(n, ast.ClassDef))

    def rows() -> Iterator[str]:
        for statement, text in documented(cls.body):
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as default):
                    yield f"| `{name}` | `{ast.unparse(default)}` | {cell(text)} |"

    return table("| setting | default | meaning |", rows())


def limits() -> str:
    def rows() -> Iterator[str]:
        for statement, text in documented(config_tree().body):
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)]) if re.search("_(MAX|WINDOW)$", name):
                    meaning = MEANINGS.get(name) or cell(text)
                    yield f"| `{name}` | {getattr(config, name):,} | {meaning} |"

    return table("| limit | value | of what |", rows())


def error_table() -> str:
    def rows() -> Iterator[str]:
        for name in errors.__all__:
            error = getattr(errors, name)
            if not (inspect.isclass(error) and issubclass(error, errors.HStreamError)):
                continue
            parents = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
            facts = ", ".join(
                f"`{fact}`"
                for fact in inspect.get_annotations(error)
                if fact not in ("retryable", "outcome")
            )
            summary = cell((error.__doc__ or "").split("\n\n")[0])
            retryable = "yes" if error.retryable else "no"
            cells = (f"`{name}`", parents, error.outcome, retryable, facts, summary)
            yield f"| {' | '.join(cells)} |"

    return table("| error | is a | outcome | retryable | attributes | meaning |", rows())


def members(name: str) -> list[str]:
    cls = getattr(hs, name)
    inherited = set(dir(tuple)) if name == "DeliveryBatch" else set()
    found = [m for m in dir(cls) if not m.startswith("_") and m not in inherited]
    found = [m for m in found if f"{name}.{m}" not in INTERNAL]
    return sorted({*found, *EXTRA_MEMBERS.get(name, ())})


def signature(name: str, member: str) -> str:
    value = inspect.getattr_static(getattr(hs, name), member, None)
    if not callable(value) and not isinstance(value, (classmethod, staticmethod)):
        return member
    try:
        parameters = list(inspect.signature(getattr(getattr(hs, name), member)).parameters.values())
    except ValueError:
        return f"{member}()"
    shown = []
    keyword = False
    for parameter in parameters:
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            shown.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(parameter.name + default.replace("hstreamlite.", ""))
    return f"{member}({', '.join(shown)})"


def summary(name: str, member: str) -> str:
    own = MEMBERS.get(f"{name}.{member}")
    if own:
        return own
    value = inspect.getattr_static(getattr(hs, name), member)
    text = cell((inspect.getdoc(getattr(value, "fget", None) or value) or "").split("\n\n")[0])
    assert text, f"{name}.{member} says nothing of itself"
    return text if text.endswith(".") else f"{text}."


def class_table(name: str) -> str:
    rows = (f"| `{cell(signature(name, m))}` | {summary(name, m)} |" for m in members(name))
    return table("| member | does |", rows)


def value_table() -> str:
    def rows() -> Iterator[str]:
        for name in VALUES:
            cls = getattr(hs, name)
            fields = ", ".join(f"`{field}`" for field in cls.__dataclass_fields__)
            text = cell((cls.__doc__ or "").split("\n\n")[0])
            yield f"| `{name}` | {fields} | {text} |"

    return table("| value | fields | what |", rows())


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "limits": limits,
    "errors": error_table,
    "values": value_table,
    "commands": commands.commands,
    "exits": commands.exits,
    "metrics": statistics.metrics,
    "sqltables": statistics.sql_tables,
    "stats": statistics.names,
    **{name: (lambda name=name: class_table(name)) for name in CLASSES},  # type: ignore[misc]
}


def filled(page: str) -> str:
    """Return the page with its tables as the code has them."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


if __name__ == "__main__":
    for page in (PAGE, CLI_PAGE, METRICS_PAGE):
        text = page.read_text(encoding="utf-8")
        if "--write" in sys.argv[1:]:
            page.write_text(filled(text), encoding="utf-8")
        elif filled(text) != text:
            sys.exit(f"{page} is not what the code says")
