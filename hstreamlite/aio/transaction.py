"""The asyncio face of a transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.records import Payload, Record, RecordIds
from hstreamlite.transaction import Collected, item_list, record_of


class Transaction:
    """Collects appends, acks and catalog changes; commits at the end of the `async with` block."""

    def __init__(self, bell: Bell, collected: Collected) -> None:
        self._bell = bell
        self._collected = collected
        self.ids: dict[str, RecordIds] = {}

    def append(
        self,
        stream: str,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Append a record to a stream at the commit; its id is then in `ids[stream]`."""
        self._collected.append(stream, record_of(payload, key, attributes))

    def append_many(
        self, stream: str, records: Iterable[Payload | Record], *, key: str | None = None
    ) -> None:
        for record in item_list(records):
            self._collected.append(
                stream, record if isinstance(record, Record) else record_of(record, key, None)
            )

    def ack(self, deliveries: object) -> None:
        """Ack deliveries at the commit: LeaseLost then, and nothing done, if one is not held."""
        self._collected.ack(deliveries)

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
    ) -> None:
        """Create a stream at the commit; options as `Store.create_stream`."""
        self._collected.create_stream(
            name, {"backlog": backlog, "max_bytes": max_bytes, "protect": protect}
        )

    def delete_stream(self, name: str) -> None:
        self._collected.delete_stream(name)

    async def commit(self) -> None:
        """Commit now; on disk when this returns."""
        pending = await in_thread(self._collected.commit)
        await self._bell.ticket(pending.ticket)
        self.ids = pending.value

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

    def __repr__(self) -> str:
        return f"<aio.Transaction {'ended' if self._collected.ended else 'open'}>"
