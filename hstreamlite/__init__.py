"""hstreamlite: a durable streaming store you import.

Streams are appended to and read; subscriptions share a stream among consumers, at least once. Start
with `open`. The asyncio face is `hstreamlite.aio`.

Importing this package loads nothing else: each public name brings its module when it is first used.
"""

TYPE_CHECKING = False  # typing itself costs a third of starting Python
if TYPE_CHECKING:
    from hstreamlite import aio, errors
    from hstreamlite.config import Compression, Durability, StoreConfig
    from hstreamlite.consumer import Consumer
    from hstreamlite.errors import (
        AppendTimeout,
        BackupRefused,
        BatchTooLarge,
        BufferFull,
        ConnectionFailed,
        ConnectionLost,
        ConnectorError,
        ConsumerClosed,
        ConsumerExists,
        CorruptionError,
        DuplicateAppend,
        Fenced,
        Forked,
        HStreamError,
        LeaseLost,
        LimitReached,
        LocalProtocolError,
        LostRecords,
        MalformedBatch,
        NotAStore,
        NotOwner,
        Outcome,
        PayloadMismatch,
        PermissionDenied,
        PlaceConflict,
        ProducerClosed,
        ReadOnly,
        RecordTooLarge,
        RecordTrimmed,
        RemoteError,
        RemoteProtocolError,
        ShardNotFound,
        SqlError,
        StorageFull,
        StorageUnavailable,
        StoreClosed,
        StoreError,
        StoreFailed,
        StoreLocked,
        StoreReplaced,
        StoreVersionUnsupported,
        StreamExists,
        StreamInUse,
        StreamNotFound,
        SubscriptionExists,
        SubscriptionInUse,
        SubscriptionNotFound,
        TransactionTooLarge,
        Unauthenticated,
        Unavailable,
        UnknownPlace,
        UnknownRecord,
    )
    from hstreamlite.feed import AckResult
    from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo
    from hstreamlite.log.reader import Batch
    from hstreamlite.log.recovery import RecoveryReport
    from hstreamlite.metrics.histogram import Distribution
    from hstreamlite.metrics.rates import Rates
    from hstreamlite.metrics.traffic import (
        StreamRates,
        StreamTraffic,
        SubscriptionRates,
        SubscriptionTraffic,
    )
    from hstreamlite.place import EARLIEST, LATEST, Place
    from hstreamlite.producer import Producer, Submitted
    from hstreamlite.records import Delivery, DeliveryBatch, Payload, Record, RecordId, RecordIds
    from hstreamlite.remote import connect
    from hstreamlite.signals import exit_on_sigterm
    from hstreamlite.store import (
        Store,
        Subscription,
        open,  # noqa: A004 - hstreamlite.open is how users say it
    )
    from hstreamlite.stream import BatchReader, Reader, Stream
    from hstreamlite.sub.effects import ConsumerStats, Damaged, Event, Gap, GroupStats, Lag, Sought
    from hstreamlite.sub.retry import Backoff
    from hstreamlite.transaction import Transaction

__version__ = "0.1.0"

_NAMES = {
    "hstreamlite.config": (
        "Compression",
        "Durability",
        "StoreConfig",
    ),
    "hstreamlite.consumer": ("Consumer",),
    "hstreamlite.place": (
        "EARLIEST",
        "LATEST",
        "Place",
    ),
    "hstreamlite.errors": (
        "AppendTimeout",
        "BackupRefused",
        "BatchTooLarge",
        "BufferFull",
        "ConnectionFailed",
        "ConnectionLost",
        "ConnectorError",
        "ConsumerClosed",
        "ConsumerExists",
        "CorruptionError",
        "DuplicateAppend",
        "Fenced",
        "Forked",
        "HStreamError",
        "LeaseLost",
        "LimitReached",
        "LocalProtocolError",
        "LostRecords",
        "MalformedBatch",
        "NotAStore",
        "NotOwner",
        "Outcome",
        "PayloadMismatch",
        "PlaceConflict",
        "PermissionDenied",
        "ProducerClosed",
        "ReadOnly",
        "RecordTooLarge",
        "RecordTrimmed",
        "RemoteError",
        "RemoteProtocolError",
        "ShardNotFound",
        "SqlError",
        "StorageFull",
        "StorageUnavailable",
        "StoreClosed",
        "StoreError",
        "StoreFailed",
        "StoreReplaced",
        "StoreLocked",
        "StoreVersionUnsupported",
        "StreamExists",
        "StreamInUse",
        "StreamNotFound",
        "SubscriptionExists",
        "SubscriptionInUse",
        "SubscriptionNotFound",
        "TransactionTooLarge",
        "Unauthenticated",
        "Unavailable",
        "UnknownPlace",
        "UnknownRecord",
    ),
    "hstreamlite.feed": ("AckResult",),
    "hstreamlite.info": (
        "StoreStats",
        "StreamInfo",
        "SubscriptionInfo",
    ),
    "hstreamlite.log.reader": ("Batch",),
    "hstreamlite.log.recovery": ("RecoveryReport",),
    "hstreamlite.metrics.histogram": ("Distribution",),
    "hstreamlite.metrics.rates": ("Rates",),
    "hstreamlite.metrics.traffic": (
        "StreamRates",
        "StreamTraffic",
        "SubscriptionRates",
        "SubscriptionTraffic",
    ),
    "hstreamlite.producer": (
        "Producer",
        "Submitted",
    ),
    "hstreamlite.records": (
        "Delivery",
        "DeliveryBatch",
        "Payload",
        "Record",
        "RecordId",
        "RecordIds",
    ),
    "hstreamlite.remote": ("connect",),
    "hstreamlite.signals": ("exit_on_sigterm",),
    "hstreamlite.store": (
        "Store",
        "Subscription",
        "open",
    ),
    "hstreamlite.stream": (
        "BatchReader",
        "Reader",
        "Stream",
    ),
    "hstreamlite.sub.effects": (
        "ConsumerStats",
        "Damaged",
        "Event",
        "Gap",
        "GroupStats",
        "Lag",
        "Sought",
    ),
    "hstreamlite.sub.retry": ("Backoff",),
    "hstreamlite.transaction": ("Transaction",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "EARLIEST",
    "LATEST",
    "AckResult",
    "AppendTimeout",
    "Backoff",
    "BackupRefused",
    "Batch",
    "BatchReader",
    "BatchTooLarge",
    "BufferFull",
    "Compression",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectorError",
    "Consumer",
    "ConsumerClosed",
    "ConsumerExists",
    "ConsumerStats",
    "CorruptionError",
    "Damaged",
    "Delivery",
    "DeliveryBatch",
    "Distribution",
    "DuplicateAppend",
    "Durability",
    "Event",
    "Fenced",
    "Forked",
    "Gap",
    "GroupStats",
    "HStreamError",
    "Lag",
    "LeaseLost",
    "LimitReached",
    "LocalProtocolError",
    "LostRecords",
    "MalformedBatch",
    "NotAStore",
    "NotOwner",
    "Outcome",
    "Payload",
    "PayloadMismatch",
    "PermissionDenied",
    "Place",
    "PlaceConflict",
    "Producer",
    "ProducerClosed",
    "Rates",
    "ReadOnly",
    "Reader",
    "Record",
    "RecordId",
    "RecordIds",
    "RecordTooLarge",
    "RecordTrimmed",
    "RecoveryReport",
    "RemoteError",
    "RemoteProtocolError",
    "ShardNotFound",
    "Sought",
    "SqlError",
    "StorageFull",
    "StorageUnavailable",
    "Store",
    "StoreClosed",
    "StoreConfig",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreReplaced",
    "StoreStats",
    "StoreVersionUnsupported",
    "Stream",
    "StreamExists",
    "StreamInUse",
    "StreamInfo",
    "StreamNotFound",
    "StreamRates",
    "StreamTraffic",
    "Submitted",
    "Subscription",
    "SubscriptionExists",
    "SubscriptionInUse",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "SubscriptionRates",
    "SubscriptionTraffic",
    "Transaction",
    "TransactionTooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownPlace",
    "UnknownRecord",
    "aio",
    "connect",
    "errors",
    "exit_on_sigterm",
    "open",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    from importlib import import_module

    if name in ("aio", "errors"):
        return import_module(f"hstreamlite.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'hstreamlite' has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
