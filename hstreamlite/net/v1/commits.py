"""Transactions: collected by the client, and done here in one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hstreamlite.aio.transaction import commit
from hstreamlite.errors import TransactionTooLarge
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.v1.base import Base, Context
from hstreamlite.net.wire import ids_to, items_from, spans_from
from hstreamlite.transaction import Collected


class Commits(Base):
    """The call of a transaction."""

    async def Commit(
        self, requests: AsyncIterator[pb.TransactionPart], context: Context
    ) -> pb.TransactionReply:
        collected = Collected(self.engine)
        size, limit = 0, self.engine.config.transaction_bytes_max
        whole = False
        refusal: Exception | None = None
        async for part in requests:
            whole = whole or part.last
            if refusal is None:
                try:
                    size += part.append.body.decoded_bytes
                    if size > limit:
                        raise TransactionTooLarge(size, limit)
                    self._collect(collected, part)
                except Exception as error:  # noqa: BLE001 - raised when all has come
                    refusal = error
        if refusal is not None:
            raise refusal
        if not whole:
            raise ValueError("a transaction came without its last part, and is not done")
        ids = await commit(self.store._bell, collected)
        return pb.TransactionReply(ids={stream: ids_to(of) for stream, of in ids.items()})

    def _collect(self, collected: Collected, part: pb.TransactionPart) -> None:
        which = part.WhichOneof("part")
        if which == "create":
            create = part.create
            collected.create_stream(
                create.name,
                {
                    "backlog": create.backlog_s,
                    "max_bytes": create.max_bytes,
                    "protect": list(create.protect),
                },
            )
        elif which == "delete":
            collected.delete_stream(part.delete)
        elif which == "append":
            for record in items_from(part.append.body, self.engine.config.transaction_bytes_max):
                collected.append(part.append.stream, record)
        elif which == "acks":
            feed = self.store._feeds.get(part.acks.subscription)
            collected.ack_spans(feed, part.acks.consumer, spans_from(part.acks.spans))
