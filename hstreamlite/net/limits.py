"""Limits of what clients may hold of a server: connections, calls, time.

Who meets one is told so by `LimitReached`, and that is counted. gRPC alone sees a connection before
its first call: it closes those that shake hands too slowly or have no calls for too long, and those
beyond a number, and tells nobody of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from grpc.aio import EOF

from hstreamlite.config import check_int, check_seconds
from hstreamlite.errors import LimitReached

_WRITING = 16
"""Writes that wait at a time before messages are kept small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """How much clients may hold. Times in seconds. A value outside its range raises ValueError."""

    connections_max: int = 1024
    """Connections that have calls under way, and connections of HTTP; a further one gets
    LimitReached. A listener has at most twice as many connections, used or not: one more is closed
    as it comes. 1 to 1,000,000."""
    calls_max: int = 4096
    """Calls under way at all listeners together; further ones get LimitReached. A consumer is one
    call as long as it is attached. 1 to 1,000,000."""
    calls_per_connection_max: int = 1024
    """Calls under way of one connection; further ones get LimitReached. 1 to 1,000,000."""
    handshake_timeout: float = 10.0
    """A new connection has so long for TLS and its first words, else it is closed. 0.1 to 3600."""
    idle_timeout: float = 300.0
    """A connection without calls for so long is closed; clients open another by themselves. 1 to
    86400."""
    request_timeout: float = 30.0
    """A call over gRPC whose first request is not there after so long gets LimitReached. 0.1 to
    3600. Too low: large batches over slow lines are refused."""
    stall_timeout: float = 300.0
    """A call whose client takes nothing for so long of what it is sent gets LimitReached, and what
    it had not acked goes to other consumers. 1 to 86400. Too low: a consumer that works long on
    what it has is cut off."""

    def __post_init__(self) -> None:
        for name in ("connections_max", "calls_max", "calls_per_connection_max"):
            check_int(name, getattr(self, name), 1, 1_000_000)
        check_seconds("handshake_timeout", self.handshake_timeout, 0.1, 3600)
        check_seconds("request_timeout", self.request_timeout, 0.1, 3600)
        check_seconds("idle_timeout", self.idle_timeout, 1, 86_400)
        check_seconds("stall_timeout", self.stall_timeout, 1, 86_400)

    def options(self) -> Sequence[tuple[str, int]]:
        """Return what gRPC is told of them."""
        return (
            ("grpc.max_allowed_incoming_connections", 2 * self.connections_max),
            # Who heeds no error is held back here.
            ("grpc.max_concurrent_streams", 2 * self.calls_per_connection_max),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_timeout * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_timeout * 1000)),
        )


NEVER_CAME = "no_request"
"""Among what was refused: calls whose request never came, as if given up by their client. gRPC
refuses a request above twice the limit in this way, too, and tells its client alone why."""


_UNTOLD = frozenset(["unix:"])
"""What gRPC calls every client of a Unix socket. They are the owner's own, so they go uncounted."""


class Limits:
    """The calls under way, and how often a limit stood against one."""

    def __init__(self, config: LimitsConfig, receive_bytes_max: int) -> None:
        self.config = config
        self.receive_bytes_max = receive_bytes_max
        self.refused: Counter[str] = Counter()
        """How often each limit was met, by the name of its setting."""
        self.calls = 0
        """Calls under way."""
        self.last_call = 0.0
        """When the last one began, on the monotonic clock."""
        self._by_peer: Counter[str] = Counter()
        self._writing = 0
        self._arriving: dict[asyncio.Task[Any], float] = {}
        """Who waits for a first request, since when, the first come first."""
        self._ended: dict[asyncio.Task[Any], Exception] = {}
        self._timer: asyncio.TimerHandle | None = None

    def batches(self, sent: int) -> int:
        """Return how many batches to read for a stream's next message, of which so many were taken.

        All of a message is held until its client takes it. So a stream begins with one batch and
        has more when its client keeps up; and only one while many clients do not.
        """
        return 1 if self._writing > _WRITING else 1 << min(max(sent - 4, 0), 16)

    def reached(self, limit: str) -> LimitReached:
        """Count, and return the error that says it."""
        self.refused[limit] += 1
        if limit == "receive_bytes_max":
            return LimitReached(limit, self.receive_bytes_max)
        return LimitReached(limit, round(getattr(self.config, limit)))

    @property
    def connections(self) -> int:
        """Connections that have calls under way."""
        return len(self._by_peer)

    def begin(self, task: asyncio.Task[Any] | None) -> bool:
        """Count a call until its task ends; False if there are too many."""
        if self.calls >= self.config.calls_max:
            self.refused["calls_max"] += 1
            return False
        self.calls += 1
        self.last_call = monotonic()
        assert task is not None, "gRPC serves a call in a task of its own"
        task.add_done_callback(self._end)
        return True

    def _end(self, _task: asyncio.Task[Any]) -> None:
        self.calls -= 1

    async def first(self, context: Any) -> Any:
        """Return the first request of a call. LimitReached if it does not come for too long."""
        task = asyncio.current_task()
        assert task is not None, "gRPC serves a call in a task of its own"
        self._arriving[task] = now = monotonic()
        if self._timer is None:  # one for all: most requests are there, and a timer takes time
            self._look_at(now)
        try:
            return await context.read()
        except asyncio.CancelledError:
            error = self._ended.get(task)
            if error is not None and task.uncancel() == 0:
                raise error from None
            raise
        finally:
            del self._arriving[task]
            self._ended.pop(task, None)

    def _look_at(self, since: float) -> None:
        after = max(0.0, since + self.config.request_timeout - monotonic())
        self._timer = asyncio.get_running_loop().call_later(after, self._look)

    def _look(self) -> None:
        """End the waits that take too long, and look again when the next may."""
        self._timer = None
        overdue = monotonic() - self.config.request_timeout
        for task, since in self._arriving.items():
            if since > overdue:
                self._look_at(since)
                return
            if task not in self._ended:
                self._end_arrival(task, self.reached("request_timeout"))

    def _end_arrival(self, task: asyncio.Task[Any], error: Exception) -> None:
        self._ended[task] = error
        task.cancel()

    def end_arrivals(self, error: Exception) -> None:
        """End the waits for first requests."""
        for task in self._arriving:
            if task not in self._ended:
                self._end_arrival(task, error)

    def enter(self, peer: str) -> None:
        """Count a call of a connection; LimitReached if that has too many, or is one too many."""
        if peer in _UNTOLD:
            return
        calls = self._by_peer.get(peer, 0)
        if not calls and len(self._by_peer) >= self.config.connections_max:
            raise self.reached("connections_max")
        if calls >= self.config.calls_per_connection_max:
            raise self.reached("calls_per_connection_max")
        self._by_peer[peer] = calls + 1

    def leave(self, peer: str) -> None:
        if peer in _UNTOLD:
            return
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


class Attended:
    """The context of a call whose client has to ask in time, and to take what it is sent. One
    write at a time."""

    def __init__(
        self,
        context: Any,
        limits: Limits,
        check: Callable[[Any], Any],
    ) -> None:
        self._context = context
        self._check = check
        self._limits = limits
        self._timeout = limits.config.stall_timeout
        self._asked = False
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._stalled = False
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Return the next request. LimitReached if the first does not come for too long."""
        if self._asked:
            return self._check(await self._context.read())
        request = await self._limits.first(self._context)
        self._asked = True
        return self._check(request)

    async def request(self) -> Any:
        """Return the one request. As `read`, and ValueError if there is none."""
        request = await self.read()
        if request is EOF:
            self._limits.refused[NEVER_CAME] += 1
            raise ValueError("the call ended before its request came")
        return request

    async def requests(self) -> AsyncIterator[Any]:
        """Yield all requests."""
        while (request := await self.read()) is not EOF:
            yield request

    async def write(self, message: Any) -> None:
        """Return when gRPC has room for more. LimitReached if it has none for too long."""
        limits = self._limits
        limits._writing += 1
        self._since = self._loop.time()
        self._writer = asyncio.current_task()
        if self._timer is None:  # one for all writes: most take no time, and a timer does
            self._timer = self._loop.call_at(self._since + self._timeout, self._look)
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if self._stalled and self._writer is not None and self._writer.uncancel() == 0:
                raise limits.reached("stall_timeout") from None
            raise
        finally:
            self._since = None
            limits._writing -= 1

    def _look(self) -> None:
        """End a write that takes too long; look again when the one under way may."""
        self._timer = None
        if self._since is None or self._writer is None:
            return
        end = self._since + self._timeout
        if self._loop.time() < end:
            self._timer = self._loop.call_at(end, self._look)
            return
        self._stalled = True
        self._writer.cancel()

    def end(self) -> None:
        """Look no more: the call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
