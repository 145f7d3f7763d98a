"""Appends that are made once, however often they are asked for.

Two ways. A client that numbers its records names itself and the number of the first: that is an
idempotent producer of the store, without end. A client that does not gives each request a key: it
is kept as an attribute of the records, so a server that was restarted finds it there. Keys are
remembered while their records are among the newest of their shard.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from hstreamlite.aio import Producer, Store, Submitted
from hstreamlite.errors import (
    DuplicateAppend,
    HStreamError,
    ProducerClosed,
    RecordTrimmed,
)
from hstreamlite.records import Record, RecordId

ATTRIBUTE = "idempotency-key"
KEYS_MAX = 10_000
"""Keys that are remembered of a stream, and records of a shard that are searched for them."""
_PRODUCERS_MAX = 1_000
_BATCH_BYTES = 1 << 20


class Numbered:
    """Producers that name themselves and number their records."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[tuple[int, str], tuple[Producer, asyncio.Lock]] = OrderedDict()

    async def append(
        self, stream: str, name: str, first: int, records: Sequence[Record]
    ) -> list[RecordId | None]:
        """Append records of these numbers; None for one that was stored too long ago to know
        where. ValueError where a number before them is missing."""
        for _ in range(2):
            with suppress(ProducerClosed):  # of a stream that was there before, or overtaken
                return await self._append(stream, name, first, records)
        return await self._append(stream, name, first, records)

    async def _append(
        self, stream: str, name: str, first: int, records: Sequence[Record]
    ) -> list[RecordId | None]:
        pair = self._store._engine.stream(stream).id, name
        producer, lock = self._producer(stream, pair)
        try:
            async with lock:
                submitted: list[Submitted | None] = []
                for number, record in enumerate(records, first):
                    try:
                        submitted.append(await producer.submit(record, sequence=number))
                    except DuplicateAppend:
                        submitted.append(None)
            return [None if each is None else await each for each in submitted]
        except HStreamError:
            self._open.pop(pair, None)
            raise

    def _producer(self, stream: str, pair: tuple[int, str]) -> tuple[Producer, asyncio.Lock]:
        found = self._open.get(pair)
        if found is None:
            producer = self._store.stream(stream).producer(name=pair[1], batch_bytes=_BATCH_BYTES)
            found = self._open[pair] = (producer, asyncio.Lock())
            if len(self._open) > _PRODUCERS_MAX:
                for other, (_, lock) in self._open.items():
                    if not lock.locked() and other != pair:
                        del self._open[other]
                        break
        self._open.move_to_end(pair)
        return found


class Keyed:
    """Requests that carry a key."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._windows: dict[str, tuple[int, OrderedDict[str, asyncio.Future[list[str]]]]] = {}
        self._loading = asyncio.Lock()

    async def append(
        self, stream: str, key: str, append: Callable[[], Awaitable[list[str]]]
    ) -> tuple[list[str], bool]:
        """Return the ids of the first request with this key, and whether it was an earlier one.

        A client that goes does not stop what was begun.
        """
        window = await self._window(stream)
        known = window.get(key)
        if known is not None:
            return await asyncio.shield(known), True
        appending = window[key] = asyncio.ensure_future(append())
        appending.add_done_callback(lambda done: _settle(window, key, done))
        while len(window) > KEYS_MAX:
            window.popitem(last=False)
        return await asyncio.shield(appending), False

    async def _window(self, name: str) -> OrderedDict[str, asyncio.Future[list[str]]]:
        async with self._loading:
            state = self._store._engine.stream(name)
            found = self._windows.get(name)
            if found is not None and found[0] == state.id:
                return found[1]
            ids: dict[str, list[str]] = {}
            for shard in state.shard_ids:
                await self._search(name, shard, ids)
            window: OrderedDict[str, asyncio.Future[list[str]]] = OrderedDict()
            for key, those in ids.items():
                window[key] = asyncio.get_running_loop().create_future()
                window[key].set_result(those)
            self._windows[name] = (state.id, window)
            return window

    async def _search(self, stream: str, shard: int, ids: dict[str, list[str]]) -> None:
        first, following, _ = self._store._engine.journal.bounds(shard)
        start = max(first, following - KEYS_MAX)
        if start >= following:
            return
        place = RecordId(shard, start, 0)
        with suppress(RecordTrimmed):  # meanwhile: so is what is asked for
            async for record in self._store.stream(stream).read(start=place, shard=shard):
                key = record.attributes.get(ATTRIBUTE)
                if key is not None:
                    ids.setdefault(key, []).append(str(record.id))


def _settle(
    window: OrderedDict[str, asyncio.Future[list[str]]],
    key: str,
    done: asyncio.Future[list[str]],
) -> None:
    if done.cancelled() or done.exception() is not None:
        window.pop(key, None)
