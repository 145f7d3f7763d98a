"""Command lines for the server, as HStreamDB's administration tool and Go client send them.

Each answers with one JSON text: a table whose cells are all text, a plain line, or an error.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

from hstreamlite.aio.bell import in_thread
from hstreamlite.errors import HStreamError
from hstreamlite.feed import Feed
from hstreamlite.net.errors import Refused, Status
from hstreamlite.net.node import Node
from hstreamlite.net.stats import (
    HISTOGRAMS,
    STREAM_COUNTERS,
    STREAM_SERIES,
    SUBSCRIPTION_COUNTERS,
    SUBSCRIPTION_SERIES,
    Statistics,
    is_interval,
)
from hstreamlite.place import EARLIEST, LATEST
from hstreamlite.tables import tables_of

ANSWER_BYTES_MAX: Final = 3 << 20
"""Below what gRPC's clients take."""
INTERVALS: Final = ("1min", "5min", "10min")
PERCENTILES: Final = ("0.5", "0.75", "0.95", "0.99")
RESOURCES: Final = (
    "stream", "subscription", "sub", "shard", "shard-reader", "reader", "query", "view",
    "connector", "key",
)  # fmt: skip

_UNITS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_INTERVAL: Final = re.compile(r"(\d{1,9})(ms|s|min|h)")

Content = dict[str, Any]
Command = Callable[[argparse.Namespace], Awaitable[Content]]


class Unparsed(Refused):
    """A line that is no command. gRPC tells of it as HStreamDB does: INTERNAL, with plain text."""

    plain = True
    http = 400

    def __init__(self, why: str) -> None:
        super().__init__(Status.INTERNAL, 0, why)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        words = f"{self.prog.strip()}: " if self.prog.strip() else ""
        raise Unparsed(f"this is no command: {words}{message}")


def table(headers: Iterable[str], rows: Iterable[Iterable[object]]) -> Content:
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return {"type": "table", "content": {"headers": list(headers), "rows": cells}}


def plain(text: str) -> Content:
    return {"type": "plain", "content": text}


def failure(text: str) -> Content:
    return {"type": "error", "content": text}


OK: Final = plain("OK")


class Administration:
    """Runs command lines."""

    def __init__(self, node: Node, statistics: Statistics) -> None:
        self._node = node
        self._statistics = statistics
        self._tables = tables_of(node.store)
        self._parser = _parser(self)

    async def run(self, line: str) -> str:
        """Run a command and return its answer; Unparsed if it is none, PermissionDenied for who may
        not: statistics need the action monitor, or admin as all else."""
        gate = self._node.gate
        try:
            options = self._parser.parse_args(shlex.split(line))
        except Unparsed:
            gate.require("admin")
            raise
        except ValueError as error:
            gate.require("admin")
            raise Unparsed(f"this is no command: {error} in {line[:100]!r}") from None
        if options.run not in (self.sql, self.stats) or not gate.allows("monitor"):
            gate.require("admin")
        try:
            answer = json.dumps(await options.run(options), ensure_ascii=False)
        except (HStreamError, Refused, ValueError) as error:
            answer = json.dumps(failure(str(error)))
        if len(answer.encode()) > ANSWER_BYTES_MAX:
            answer = json.dumps(failure("The answer is too large; ask for less."))
        return answer

    # The server.

    async def status(self, _: argparse.Namespace) -> Content:
        host, port = self._node.address()
        state = "Unavailable" if self._node.stopping.is_set() else "Running"
        return table(["Node ID", "State", "Address"], [[self._node.id, state, f"{host}:{port}"]])

    async def init(self, _: argparse.Namespace) -> Content:
        return plain("Server successfully received init signal")

    async def ready(self, _: argparse.Namespace) -> Content:
        return plain("Cluster is ready")

    async def lookup(self, options: argparse.Namespace) -> Content:
        host, port = self._node.address()
        return table(["Resource ID", "Host", "Port"], [[options.id, host, port]])

    async def meta(self, _: argparse.Namespace) -> Content:
        return failure("This server keeps its metadata in its store, and has no other to show.")

    async def sql(self, options: argparse.Namespace) -> Content:
        found = await in_thread(self._tables.select, " ".join(options.statement))
        return {"type": "rows", "content": {"headers": found.columns, "rows": found.rows}}

    # Statistics.

    async def reset_stats(self, _: argparse.Namespace) -> Content:
        await in_thread(self._statistics.reset)
        return OK

    async def stats(self, options: argparse.Namespace) -> Content:
        return await in_thread(self._stats, options)

    def _stats(self, options: argparse.Namespace) -> Content:
        category, name = options.category, options.name
        known, label = _CATEGORIES[category]
        if name not in known:
            names = ", ".join(sorted(known))
            return failure(f"There is no {name!r} in {category}; there are {names}.")
        statistics = self._statistics
        if category == "stream_counter":
            return _counters(label, name, statistics.stream_counter(name))
        if category == "subscription_counter":
            return _counters(label, name, statistics.subscription_counter(name))
        if category == "server_histogram":
            return self._percentiles(name, options.percentile or PERCENTILES)
        if category.endswith("_counter"):
            return _counters(label, name, {})
        intervals = options.interval or INTERVALS
        times = [_interval_ms(text) for text in intervals]
        rates: dict[str, list[float]] = {}
        if category == "stream":
            rates = statistics.all_stream_series(name, times)
        elif category == "subscription":
            rates = statistics.all_subscription_series(name, times)
        headers = [label, *(f"{name}_{text}" for text in intervals)]
        return table(headers, ([key, *map(round, found)] for key, found in rates.items()))

    def _percentiles(self, name: str, percentiles: Sequence[str]) -> Content:
        shares = [_share(text) for text in percentiles]
        found = self._statistics.histogram(name)
        headers = [f"p{share * 100:g}" for share in shares]
        return table(headers, [[round(found.percentile(share) * 1e6) for share in shares]])

    # Streams.

    async def stream_list(self, _: argparse.Namespace) -> Content:
        return table(_STREAM, ([s.name, s.replication] for s in self._node.raw.streams()))

    async def stream_describe(self, options: argparse.Namespace) -> Content:
        state = self._node.raw.stream(options.name)
        return table(_STREAM, [[state.name, state.replication]])

    async def stream_create(self, options: argparse.Namespace) -> Content:
        await self._node.raw.create_stream(
            options.name,
            backlog=options.backlog_duration,
            shards=options.shards,
            replication=options.replication_factor,
        )
        return OK

    async def stream_delete(self, options: argparse.Namespace) -> Content:
        await self._node.store.delete_stream(options.name, force=options.force)
        return OK

    # Subscriptions.

    async def sub_list(self, _: argparse.Namespace) -> Content:
        headers = ["Subscription ID", "Stream Name", "CreatedTime"]
        return table(headers, (self._facts(feed) for feed in self._feeds()))

    async def sub_describe(self, options: argparse.Namespace) -> Content:
        feed = self._node.store._feeds.get(options.name)
        state = feed.state
        name, stream, created = self._facts(feed)
        begun = any(lsn > 1 for lsn in state.start.values())
        offset = state.origin.upper() or ("LATEST" if begun else "EARLIEST")
        return table(
            [
                "Subscription ID", "Stream Name", "Timeout", "Max Unacked", "CreatedTime",
                "Sub Offset",
            ],
            [[name, stream, round(state.ack_timeout), state.max_unacked, created, offset]],
        )  # fmt: skip

    async def sub_create(self, options: argparse.Namespace) -> Content:
        await self._node.raw.create_subscription(
            options.name,
            stream=options.stream,
            ack_timeout=options.ack_timeout,
            max_unacked=options.max_unacked_records,
            start=LATEST if options.offset == "latest" else EARLIEST,
            mode=self._node.config.delivery,
        )
        return OK

    async def sub_delete(self, options: argparse.Namespace) -> Content:
        await self._node.store.delete_subscription(options.name, force=options.force)
        return OK

    async def sub_deleteall(self, options: argparse.Namespace) -> Content:
        for feed in self._feeds():
            await self._node.store.delete_subscription(feed.state.name, force=options.force)
        return OK

    def _feeds(self) -> list[Feed]:
        return sorted(self._node.store._feeds.all(), key=lambda feed: feed.state.name)

    def _facts(self, feed: Feed) -> list[object]:
        catalog = self._node.store._engine.catalog
        return [feed.state.name, catalog.stream_name(feed.state.stream_id), feed.state.created_ms]

    # What this server does not have.

    async def unserved_list(self, options: argparse.Namespace) -> Content:
        return table([f"{options.kind.capitalize()} ID", "Status", "CreatedTime"], [])

    async def unserved(self, options: argparse.Namespace) -> Content:
        return failure(f"This server runs no {options.plural}.")


_STREAM: Final = ("Stream Name", "Replication Factor")
_CATEGORIES: Final[dict[str, tuple[frozenset[str], str]]] = {
    "stream_counter": (frozenset(STREAM_COUNTERS), "stream_name"),
    "stream": (frozenset(STREAM_SERIES), "stream_name"),
    "subscription_counter": (frozenset(SUBSCRIPTION_COUNTERS), "subscription_id"),
    "subscription": (frozenset(SUBSCRIPTION_SERIES), "subscription_id"),
    "handle": (frozenset(["queries"]), "handle_name"),
    "connector_counter": (
        frozenset(["delivered_in_records", "delivered_in_bytes", "is_alive"]),
        "task_name",
    ),
    "query_counter": (
        frozenset(["total_input_records", "total_output_records", "total_execute_errors"]),
        "query_name",
    ),
    "view_counter": (frozenset(["total_execute_queries"]), "view_name"),
    "server_histogram": (frozenset(HISTOGRAMS), ""),
}


def _counters(label: str, name: str, counters: dict[str, int]) -> Content:
    return table([label, name], counters.items())


def _interval_ms(text: str) -> int:
    found = _INTERVAL.fullmatch(text)
    ms = int(found[1]) * _UNITS[found[2]] if found else 0
    if not is_interval(ms):
        raise ValueError(f"interval must be 1ms to 10min, as 500ms, 4s or 1min, not {text!r}")
    return ms


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise ValueError(f"percentile must be 0 to 1, as 0.99, not {text!r}")
    return share


def _parser(run: Administration) -> argparse.ArgumentParser:
    root = _Parser(prog="", add_help=False)
    server = _group(_group(root).add_parser("server", add_help=False))
    for name in ("status", "init", "ready"):
        _command(server, name, getattr(run, name))
    _command(server, "reset-stats", run.reset_stats)
    stats = _command(server, "stats", run.stats)
    stats.add_argument("category", choices=list(_CATEGORIES))
    stats.add_argument("name")
    stats.add_argument("-i", "--interval", "--intervals", action="append")
    stats.add_argument("-p", "--percentile", "--percentiles", action="append")
    lookup = _command(server, "lookup", run.lookup)
    lookup.add_argument("type", choices=RESOURCES, type=str.lower)
    lookup.add_argument("id")
    _command(server, "sql", run.sql).add_argument("statement", nargs="+")
    _command(server, "meta", run.meta).add_argument("rest", nargs=argparse.REMAINDER)
    _stream_commands(_group(server.add_parser("stream", add_help=False)), run)
    _subscription_commands(_group(server.add_parser("sub", add_help=False)), run)
    for kind, plural in (("view", "views"), ("query", "queries"), ("connector", "connectors")):
        group = _group(server.add_parser(kind, add_help=False))
        _command(group, "list", run.unserved_list).set_defaults(kind=kind)
        for verb in ("create", "describe", "status", "pause", "resume", "terminate", "delete"):
            command = _command(group, verb, run.unserved)
            command.add_argument("rest", nargs=argparse.REMAINDER)
            command.set_defaults(plural=plural)
    return root


def _stream_commands(group: Any, run: Administration) -> None:
    _command(group, "list", run.stream_list)
    _command(group, "describe", run.stream_describe).add_argument("name")
    create = _command(group, "create", run.stream_create)
    create.add_argument("name")
    create.add_argument("-r", "--replication-factor", type=int, default=1)
    create.add_argument("-b", "--backlog-duration", type=int, default=0)
    create.add_argument("-s", "--shards", type=int, default=1)
    delete = _command(group, "delete", run.stream_delete)
    delete.add_argument("name")
    delete.add_argument("-f", "--force", action="store_true")


def _subscription_commands(group: Any, run: Administration) -> None:
    _command(group, "list", run.sub_list)
    _command(group, "describe", run.sub_describe).add_argument("name")
    create = _command(group, "create", run.sub_create)
    create.add_argument("name")
    create.add_argument("--stream", required=True)
    create.add_argument("--ack-timeout", type=int, default=60)
    create.add_argument("--max-unacked-records", type=int, default=10_000)
    create.add_argument(
        "--offset", choices=["earliest", "latest"], type=str.lower, default="earliest"
    )
    delete = _command(group, "delete", run.sub_delete)
    delete.add_argument("name")
    for command in (delete, _command(group, "deleteall", run.sub_deleteall)):
        command.add_argument("-f", "--force", action="store_true")


def _group(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)


def _command(group: Any, name: str, run: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, add_help=False)
    parser.set_defaults(run=run)
    return parser
