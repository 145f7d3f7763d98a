"""The connection of one remote store: calls, what becomes of them when it breaks, and its end.

A call that cannot do its work twice is made again until the time is over; any other only where it
is certain that the server did not get it. Connections are made anew with growing, jittered waits
between the attempts, and each begins with a greeting, so that what answers is known to be a store.

What begins with a call that nobody awaits, as readers and consumers do, is done before any call
that is made later: so their order is that of the program.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet, WeakValueDictionary

import grpc

import hstreamlite
from hstreamlite._native.files import real_env
from hstreamlite.aio.tasks import is_cancelled, look_at
from hstreamlite.config import check_seconds
from hstreamlite.env import Env
from hstreamlite.errors import (
    ConnectionFailed,
    ConnectionLost,
    Forked,
    RemoteError,
    RemoteProtocolError,
    StoreClosed,
    Unavailable,
)
from hstreamlite.net import forks, hstreamlite_pb2 as pb, hstreamlite_pb2_grpc as rpc
from hstreamlite.net.failures import error_of
from hstreamlite.remote.acks import Acks
from hstreamlite.remote.address import Address
from hstreamlite.remote.diagnosis import explained
from hstreamlite.remote.security import Calls, Security

log = logging.getLogger("hstreamlite")

T = TypeVar("T")
Status = grpc.StatusCode

_TIMEOUT_MAX: Final = 1e6
_GREETING_SECONDS: Final = 5.0
_WAIT_FIRST: Final = 0.02
_WAIT_MOST: Final = 2.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 300_000),
)
_BROKEN: Final = frozenset({Status.UNAVAILABLE, Status.CANCELLED, Status.UNKNOWN, Status.INTERNAL})
"""What a call ends with when its connection breaks under it."""


class Broken(Exception):
    """The connection broke. ``sent``: the server may have got the call."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class Connection:
    """One channel that has been greeted."""

    def __init__(self, channel: grpc.aio.Channel, stub: Any, dialled: ExitStack) -> None:
        self.stub = stub
        self.broken = False
        self._channel = channel
        self._dialled = dialled

    async def close(self) -> None:
        await self._channel.close()
        self._dialled.close()


class Member(Protocol):
    """What stays at the server until it is told otherwise."""

    async def leave(self) -> None:
        """Tell it, whoever opened this being gone."""

    def farewell(self) -> str:
        """Return what to warn of; nothing where there is no need."""


class Retries:
    """The attempts at one thing: they end after the store's timeout, or before, and grow rarer."""

    def __init__(self, link: Link, most: float = _TIMEOUT_MAX) -> None:
        self._link = link
        self.deadline = link.now() + min(link.timeout, most)
        self._wait = _WAIT_FIRST

    def left(self, most: float) -> float:
        """Return the seconds that are left, but at most so many."""
        return max(0.001, min(most, self.deadline - self._link.now()))

    async def wait(self, error: BaseException) -> None:
        """Wait for the next attempt; where that would be too late, raise why the last one failed:
        nothing came of it."""
        if self._link.now() + self._wait >= self.deadline:
            if isinstance(error, Unavailable):
                raise error
            why = error.why if isinstance(error, Broken) else "brought no answer in time"
            raise ConnectionLost(self._link.address, "none", why=why) from None
        await asyncio.sleep(self._wait * (0.5 + self._link.random() / 2))
        self._wait = min(_WAIT_MOST, self._wait * 2)


class Sessions:
    """Those of consumers that left without being able to say so, as long as they count as there.

    Who attaches under the name of one takes its place, and has to wait for nothing.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._kept: dict[tuple[str, str], tuple[bytes, float]] = {}

    def keep(self, place: tuple[str, str], session: bytes, seconds: float) -> None:
        """Keep the session of a consumer, that is of a subscription and a name."""
        now = self._link.now()
        over = [known for known, (_, end) in self._kept.items() if end <= now]
        for known in over:
            del self._kept[known]
        self._kept[place] = session, now + seconds

    def take(self, place: tuple[str, str]) -> bytes | None:
        """Return the session that has the name, for one consumer that attaches now."""
        return self._kept.pop(place, (None, 0))[0]


class Link:
    """The way to one server. Belongs to one event loop."""

    def __init__(
        self,
        address: Address,
        timeout: float | None,
        env: Env | None = None,
        security: Security | None = None,
    ) -> None:
        security = security or Security()
        security.check(address)
        self.address = address.text
        self._address = address
        self._metadata = security.metadata
        self._credentials = security.credentials() if address.secure else None
        self.timeout = (
            _TIMEOUT_MAX
            if timeout is None
            else check_seconds("timeout", timeout, 0.001, _TIMEOUT_MAX)
        )
        self.env = env or real_env()
        forks.grpc.begin(self.env, address.text)
        self._pid = self.env.pid()
        self._rng = self.env.rng.fork("reconnect")
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self.forked = False
        """Whether this is a child of the process that connected."""
        self.env.after_fork_in_child(self._in_forked_child)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._why = "nothing was tried"
        self._waiting = 0
        self._begun: set[asyncio.Future[Any]] = set()
        self._ending: asyncio.Future[None] = self.loop.create_future()
        self._closing: asyncio.Task[None] | None = None
        self.ends = False
        """Whether the store is being closed."""
        self.consumers: WeakSet[Any] = WeakSet()
        self.sessions = Sessions(self)
        self.acks: WeakValueDictionary[str, Acks] = WeakValueDictionary()
        """By subscription, as long as it has consumers."""
        self._lost: deque[Member] = deque()
        self.members: dict[object, Callable[[], Coroutine[Any, Any, None]]] = {}
        """How to end what is open of the store, in the order in which it was opened."""
        self.hello = pb.HelloReply()

    # State.

    @property
    def path(self) -> str:
        return self.hello.path or self.address

    def _in_forked_child(self) -> None:
        self.forked = True

    def check(self) -> None:
        """Raise StoreClosed, or Forked in a child of the process that connected."""
        if self.forked:
            raise Forked(self.path, self._pid)
        if self.closed:
            raise StoreClosed(self.path)

    def now(self) -> float:
        return self.loop.time()

    def random(self) -> float:
        """Return a number from 0 to 1."""
        return self._rng.u64() / 2**64

    def random_bytes(self, count: int) -> bytes:
        return self.env.rng.bytes(count)

    def deadline(self) -> float:
        """Return when a call that is made now gives up."""
        return self.loop.time() + self.timeout

    # What begins before it is awaited.

    def begin(self, opening: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Start what has to be done before any later call. Its failure is told to who awaits it."""
        self._mind_lost()
        earlier = list(self._begun)

        async def run() -> T:
            if earlier:
                await asyncio.wait(earlier)
            return await opening()

        task = self.loop.create_task(run())
        self._begun.add(task)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Future[Any]) -> None:
        self._begun.discard(task)
        look_at(task)

    def hold(self, answer: asyncio.Future[Any]) -> None:
        """Let later calls wait for what was asked for, and maybe nobody awaits."""
        self._begun.add(answer)
        answer.add_done_callback(self._settle)

    async def begun(self) -> None:
        """Return when all that was begun before is done, or has taken as long as a call may."""
        self._mind_lost()
        if self._begun:
            await asyncio.wait(list(self._begun), timeout=self.timeout)

    # What is dropped without being closed.

    def note_lost(self, member: Member) -> None:
        """Have a member leave that nobody can close any more.

        Takes no lock: it is the collector of garbage that calls, at any moment and in any thread.
        """
        if not self.closed and not self.forked:
            self._lost.append(member)
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self.loop.call_soon_threadsafe(self._mind_lost)

    def _mind_lost(self) -> None:
        while self._lost:
            member = self._lost.popleft()
            if warning := "" if self.ends else member.farewell():
                log.warning(warning)
            self.begin(member.leave)

    # Connecting.

    @property
    def current(self) -> Connection | None:
        """The connection that is in use, if any."""
        return self._connection

    async def connection(self, deadline: float) -> Connection:
        """Return a connection that stands; ConnectionFailed when there is none in time."""
        while True:
            self.check()
            found = self._connection
            if found is not None and not found.broken:
                return found
            if self._connecting is None or self._connecting.done():
                self._connecting = self.loop.create_task(self._connect())
                self._connecting.add_done_callback(look_at)
            self._waiting += 1
            try:
                left = deadline - self.now()
                waits: list[asyncio.Future[Any]] = [self._connecting, self._ending]
                await asyncio.wait(waits, timeout=left, return_when="FIRST_COMPLETED")
            finally:
                self._waiting -= 1
            self.check()
            if self._connecting.done():
                self._connection = self._connecting.result()
            elif self.now() >= deadline:
                raise ConnectionFailed(self.address, self.timeout, self._why)

    async def _connect(self) -> Connection:
        """Try until it succeeds, or nobody waits for it."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        wait = _WAIT_FIRST
        while True:
            connection = self._dial()
            try:
                self.hello = await self._greet(connection.stub)
            except BaseException as error:
                await connection.close()
                if not isinstance(error, Broken):
                    raise
                self._why = error.why
            else:
                return connection
            if not self._waiting:
                raise ConnectionFailed(self.address, self.timeout, self._why)
            await asyncio.sleep(wait * (0.5 + self.random() / 2))
            wait = min(_WAIT_MOST, wait * 2)

    def _dial(self) -> Connection:
        dialled = ExitStack()
        target = dialled.enter_context(self._address.dialled())
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(target, self._credentials, options=_OPTIONS)
        stub = Calls(rpc.HStreamLiteStub(channel), self._metadata)
        return Connection(channel, stub, dialled)

    async def _greet(self, stub: Any) -> pb.HelloReply:
        request = pb.HelloRequest(version=hstreamlite.__version__)
        try:
            hello: pb.HelloReply = await stub.Hello(
                request, timeout=min(_GREETING_SECONDS, self.timeout)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is Status.DEADLINE_EXCEEDED:
                raise Broken("no answer", sent=False) from None
            failure = self.failure_of(error)
            if isinstance(failure, Broken):
                socket = self._address.socket if self._address.path else ""
                secure = self._credentials is not None
                why = explained(failure.why, secure=secure, socket=socket)
                raise Broken(why, sent=failure.sent) from None
            if isinstance(failure, Unavailable):
                raise Broken(failure.why, sent=False) from None
            raise failure from None
        return hello

    def lost(self, connection: Connection) -> None:
        """Use a connection no more: it broke."""
        connection.broken = True

    # Calls.

    def failure_of(self, error: grpc.aio.AioRpcError) -> Exception:
        """Return what a failed call means: an error of the server's, or Broken."""
        details = error.details() or ""
        try:
            told = json.loads(details)
            extra, message = told["extra"], str(told["message"])
        except (ValueError, TypeError, KeyError):
            return self._unexplained(error.code(), details)
        if isinstance(extra, dict):
            return error_of(extra, self.address)
        if error.code() is Status.UNAVAILABLE:
            return Unavailable(self.address, message.rstrip("."))
        return RemoteError(message, retryable=False)

    def _unexplained(self, code: grpc.StatusCode, details: str) -> Exception:
        if code is Status.UNIMPLEMENTED:
            return RemoteProtocolError(
                f"What answers at {self.address} is no server of hstreamlite, or an older one "
                f"({details}); look at the address."
            )
        if code is Status.DEADLINE_EXCEEDED:
            return Broken(f"brought no answer within {self.timeout:g} s", sent=True)
        if code in _BROKEN:
            return Broken(details or str(code), sent=not details.startswith("failed to connect"))
        return RemoteError(f"The server at {self.address} refused: {details} ({code.name}).")

    async def call(self, method: str, request: Any, *, again: bool, ordered: bool = True) -> Any:
        """Make a call and return its answer. A request in parts is a function that gives them.

        again: it may be made twice. ConnectionFailed, Unavailable: nothing happened; ConnectionLost
        with outcome "unknown": that cannot be told.
        """
        self.check()
        retries = Retries(self)
        if ordered:
            await self.begun()
        while True:
            connection = await self.connection(retries.deadline)
            left = retries.left(self.timeout)
            try:
                asked = request() if callable(request) else request
                return await self._answer(getattr(connection.stub, method)(asked, timeout=left))
            except Broken as error:
                self.check()
                self.lost(connection)
                if error.sent and not again:
                    why = error.why if self.now() >= retries.deadline else "broke"
                    raise ConnectionLost(self.address, "unknown", why=why) from None
                await retries.wait(error)
            except Unavailable as error:
                self.lost(connection)  # it stops; another may stand in its place by then
                await retries.wait(error)

    async def _answer(self, call: Any) -> Any:
        """Await a call; when the store is closed meanwhile, that is what ends it."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self.failure_of(error) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            self.check()
            raise Broken("was given up", sent=True) from None

    async def read(self, call: Any) -> Any:
        """Return what a call brings next; the EOF of gRPC at its end."""
        try:
            return await call.read()
        except grpc.aio.AioRpcError as error:
            raise self.failure_of(error) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # Another call broke, and with it the connection was given up.
            raise Broken("was given up", sent=True) from None

    async def close(self) -> None:
        """End what is open of the store, and all calls with StoreClosed."""
        if self._closing is None:
            self._closing = self.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.ends = True
        for end in list(self.members.values()):
            await end()
        self.closed = True
        if not self._ending.done():
            self._ending.set_result(None)
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @property
    def ending(self) -> asyncio.Future[None]:
        """Done when the store is closed."""
        return self._ending
