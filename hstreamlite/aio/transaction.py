"""The asyncio face of a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.records import RecordIds
from hstreamlite.transaction import Collected, Collects, TransactionBase


class Transaction(TransactionBase):
    """Collects appends, acks and catalog changes; commits at the end of the `async with` block.

    An exception in the block abandons it. Of a remote store: ConnectionLost with outcome "unknown"
    when the connection breaks at the commit, and it may have happened.
    """

    def __init__(
        self, collected: Collects, commit: Callable[[], Awaitable[Mapping[str, RecordIds]]]
    ) -> None:
        super().__init__(collected)
        self._commit = commit

    async def commit(self) -> None:
        """Commit now; on disk when this returns."""
        self.ids = dict(await self._commit())

    async def __aenter__(self) -> Self:
        self._collected.check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._collected.ended:
            await self.commit()
        self._collected.ended = True


async def commit(bell: Bell, collected: Collected) -> dict[str, RecordIds]:
    """Commit to a store that is open here, and return the ids of the appends when all is on
    disk."""
    pending = await in_thread(collected.commit)
    await bell.ticket(pending.ticket)
    ids: dict[str, RecordIds] = pending.value
    return ids
