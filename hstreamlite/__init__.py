"""hstreamlite: a durable streaming store you import.

Streams are appended to and read; subscriptions share a stream among consumers, at least once. Start
with `open`. The asyncio face is `hstreamlite.aio`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hstreamlite import errors
from hstreamlite.config import Compression, Durability, StoreConfig
from hstreamlite.consumer import Consumer
from hstreamlite.engine import EARLIEST, LATEST, Place
from hstreamlite.errors import *  # noqa: F403 - every error is part of the public face
from hstreamlite.feed import AckResult, DeliveryBatch
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo
from hstreamlite.log.reader import Batch
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.records import Delivery, Payload, Record, RecordId, RecordIds
from hstreamlite.signals import exit_on_sigterm
from hstreamlite.store import (
    Producer,
    Reader,
    Store,
    Stream,
    Submitted,
    Subscription,
    Transaction,
    open,  # noqa: A004 - hstreamlite.open is how users say it
)
from hstreamlite.sub.effects import Gap, GroupStats, Lag

if TYPE_CHECKING:
    from hstreamlite import aio

__version__ = "0.1.0"

__all__ = [
    "EARLIEST",
    "LATEST",
    "AckResult",
    "Batch",
    "Compression",
    "Consumer",
    "Delivery",
    "DeliveryBatch",
    "Durability",
    "Gap",
    "GroupStats",
    "Lag",
    "Payload",
    "Place",
    "Producer",
    "Reader",
    "Record",
    "RecordId",
    "RecordIds",
    "RecoveryReport",
    "Store",
    "StoreConfig",
    "StoreStats",
    "Stream",
    "StreamInfo",
    "Submitted",
    "Subscription",
    "SubscriptionInfo",
    "Transaction",
    "aio",
    "errors",
    "exit_on_sigterm",
    "open",
]
__all__ += errors.__all__

logging.getLogger("hstreamlite").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Load the asyncio face when it is first asked for: it costs as much again as the rest."""
    if name == "aio":
        import importlib

        return importlib.import_module("hstreamlite.aio")
    raise AttributeError(f"module 'hstreamlite' has no attribute {name!r}")
