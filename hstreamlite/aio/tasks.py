"""Consumers with tasks: `aio.Consumer.run`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

from hstreamlite.errors import HStreamError
from hstreamlite.handling import Handled, Handling, Holder, OnError, inside
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.sub.turns import Turn


class Receiving(Holder, Protocol):
    """What is known here of a consumer."""

    async def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch: ...


class Tasks:
    """One run of a consumer."""

    def __init__(
        self,
        consumer: Receiving,
        handling: Handling,
        handle: Callable[[Delivery], object],
        on_error: OnError | None,
    ) -> None:
        self.handling = handling
        self._consumer = consumer
        self._handle = handle
        self._awaits = _is_coroutine_function(handle)
        self._on_error = on_error
        self._tasks: list[asyncio.Task[None]] = []
        self._abandoned = False

    async def run(self) -> None:
        """Handle deliveries until stopped, and raise what stopped it."""
        handling = self.handling
        self._tasks += [asyncio.ensure_future(self._work()) for _ in range(handling.width)]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await self.join()
        except BaseException:
            handling.stop()
            await self.join()
            raise
        finally:
            self._abandon()
        handling.outcome()

    async def join(self) -> None:
        """Wait for handlers that run, as long as the run grants them, and cancel what is left;
        not for the one that this is called from."""
        if self.is_here():
            return
        _, late = await asyncio.wait(self._tasks, timeout=self.handling.drain_ns / 1e9)
        if late:
            self.handling.late()
            self._abandon()
            await asyncio.wait(late)

    def _abandon(self) -> None:
        self._abandoned = True
        for task in self._tasks:
            task.cancel()

    def is_here(self) -> bool:
        """Tell whether the caller is one of its handlers."""
        return inside.get() is self

    async def _work(self) -> None:
        inside.set(self)
        try:
            while True:
                bell = asyncio.Event()
                step = self.handling.next(bell.set)
                if step is None:
                    return
                if isinstance(step, Turn):
                    await self._do(step)
                elif step:
                    await self._take(step)
                else:
                    await bell.wait()
        except asyncio.CancelledError:
            self.handling.stop()
            raise
        except BaseException as error:  # noqa: BLE001 - whoever awaits run gets it
            self.handling.stop(error)

    async def _take(self, room: int) -> None:
        try:
            await self._consumer._poll(self.handling.take, room, None)
        except HStreamError as error:
            self.handling.taken(error)
        except BaseException as error:
            self.handling.taken(error)
            raise
        else:
            self.handling.taken()

    async def _do(self, turn: Handled) -> None:
        try:
            if self._awaits:
                await _settled(self._handle(turn.item))
            else:
                await self._in_thread(turn.item)
        except Exception as error:  # noqa: BLE001 - it is told, and the record comes again
            await self._failed(turn, error)
        except asyncio.CancelledError as error:
            if not is_cancelled():
                await self._failed(turn, error)  # the handler waited for what was cancelled
                return
            self.handling.failed(turn, error)
            raise
        except BaseException as error:
            self.handling.failed(turn, error)
            raise
        else:
            self.handling.succeeded(turn)

    async def _in_thread(self, delivery: Delivery) -> None:
        """Handle in a thread, which nothing can cancel: so it is waited for all the same, also
        where an event loop that ends cancels everything."""
        run = partial(copy_context().run, self._handle, delivery)
        future = asyncio.get_running_loop().run_in_executor(None, run)
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                self.handling.stop()
                if self._abandoned:
                    raise
        await _settled(future.result())

    async def _failed(self, turn: Handled, error: BaseException) -> None:
        self.handling.tell(turn, error)
        try:
            if self._on_error is not None:
                await _settled(self._on_error(turn.item, error))
        finally:
            self.handling.failed(turn, error)


async def _settled(result: object) -> None:
    if inspect.isawaitable(result):
        await result


def is_cancelled() -> bool:
    """Tell whether the task that runs is to end: if not, what raises is what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_coroutine_function(handle: object) -> bool:
    return inspect.iscoroutinefunction(handle) or inspect.iscoroutinefunction(
        getattr(handle, "__call__", None)  # noqa: B004 - whether that is one, not whether it is
    )


def look_at(task: asyncio.Future[Any]) -> None:
    """Take note of a failure: those who waited for it may be gone."""
    if not task.cancelled():
        task.exception()
