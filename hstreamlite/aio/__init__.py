"""The asyncio face of a store: the same nouns, names and errors as the blocking one.

Nothing here blocks the loop. Appends are staged in place, and their futures resolve when the group
they are in is on disk: one wake-up a group, however many callers. What may have to wait for
the disk otherwise (opening, catalog changes, cold reads, a full stage) runs in a worker thread.

Cancelling a call loses nothing: an append that was staged goes to disk all the same, deliveries
that nobody is left to take go back to their subscription.
"""

from hstreamlite.aio.consumer import Consumer
from hstreamlite.aio.producer import Producer, Submitted
from hstreamlite.aio.signals import exit_on_sigterm
from hstreamlite.aio.store import (
    Store,
    Subscription,
    open,  # noqa: A004 - hstreamlite.aio.open is how users say it
)
from hstreamlite.aio.stream import BatchReader, Reader, Stream
from hstreamlite.aio.transaction import Transaction
from hstreamlite.remote import connect_asyncio as connect

__all__ = [
    "BatchReader",
    "Consumer",
    "Producer",
    "Reader",
    "Store",
    "Stream",
    "Submitted",
    "Subscription",
    "Transaction",
    "connect",
    "exit_on_sigterm",
    "open",
]
