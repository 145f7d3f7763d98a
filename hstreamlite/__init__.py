"""hstreamlite: a durable streaming store you import.

Streams are appended to and read; subscriptions share a stream among consumers, at least once. Start
with `open`. The asyncio face is `hstreamlite.aio`.

Importing this package loads nothing else: each public name brings its module when it is first used.
"""

TYPE_CHECKING = False  # typing itself costs a third of starting Python
if TYPE_CHECKING:
    from hstreamlite import aio, errors
    from hstreamlite.config import (
        Compression as Compression,
    )
    from hstreamlite.config import (
        Durability as Durability,
    )
    from hstreamlite.config import (
        StoreConfig as StoreConfig,
    )
    from hstreamlite.consumer import (
        Consumer as Consumer,
    )
    from hstreamlite.engine import (
        EARLIEST as EARLIEST,
    )
    from hstreamlite.engine import (
        LATEST as LATEST,
    )
    from hstreamlite.engine import (
        Place as Place,
    )
    from hstreamlite.errors import (
        AppendTimeout as AppendTimeout,
    )
    from hstreamlite.errors import (
        BatchTooLarge as BatchTooLarge,
    )
    from hstreamlite.errors import (
        BufferFull as BufferFull,
    )
    from hstreamlite.errors import (
        ConnectionLost as ConnectionLost,
    )
    from hstreamlite.errors import (
        ConnectorError as ConnectorError,
    )
    from hstreamlite.errors import (
        ConsumerClosed as ConsumerClosed,
    )
    from hstreamlite.errors import (
        ConsumerExists as ConsumerExists,
    )
    from hstreamlite.errors import (
        CorruptionError as CorruptionError,
    )
    from hstreamlite.errors import (
        DuplicateAppend as DuplicateAppend,
    )
    from hstreamlite.errors import (
        Fenced as Fenced,
    )
    from hstreamlite.errors import (
        Forked as Forked,
    )
    from hstreamlite.errors import (
        HStreamError as HStreamError,
    )
    from hstreamlite.errors import (
        LeaseLost as LeaseLost,
    )
    from hstreamlite.errors import (
        LocalProtocolError as LocalProtocolError,
    )
    from hstreamlite.errors import (
        NotAStore as NotAStore,
    )
    from hstreamlite.errors import (
        NotOwner as NotOwner,
    )
    from hstreamlite.errors import (
        Outcome as Outcome,
    )
    from hstreamlite.errors import (
        ProducerClosed as ProducerClosed,
    )
    from hstreamlite.errors import (
        ReadOnly as ReadOnly,
    )
    from hstreamlite.errors import (
        RecordTooLarge as RecordTooLarge,
    )
    from hstreamlite.errors import (
        RecordTrimmed as RecordTrimmed,
    )
    from hstreamlite.errors import (
        RemoteError as RemoteError,
    )
    from hstreamlite.errors import (
        RemoteProtocolError as RemoteProtocolError,
    )
    from hstreamlite.errors import (
        SqlError as SqlError,
    )
    from hstreamlite.errors import (
        StorageFull as StorageFull,
    )
    from hstreamlite.errors import (
        StoreClosed as StoreClosed,
    )
    from hstreamlite.errors import (
        StoreError as StoreError,
    )
    from hstreamlite.errors import (
        StoreFailed as StoreFailed,
    )
    from hstreamlite.errors import (
        StoreLocked as StoreLocked,
    )
    from hstreamlite.errors import (
        StoreVersionUnsupported as StoreVersionUnsupported,
    )
    from hstreamlite.errors import (
        StreamExists as StreamExists,
    )
    from hstreamlite.errors import (
        StreamInUse as StreamInUse,
    )
    from hstreamlite.errors import (
        StreamNotFound as StreamNotFound,
    )
    from hstreamlite.errors import (
        SubscriptionExists as SubscriptionExists,
    )
    from hstreamlite.errors import (
        SubscriptionInUse as SubscriptionInUse,
    )
    from hstreamlite.errors import (
        SubscriptionNotFound as SubscriptionNotFound,
    )
    from hstreamlite.errors import (
        TransactionTooLarge as TransactionTooLarge,
    )
    from hstreamlite.errors import (
        Unavailable as Unavailable,
    )
    from hstreamlite.errors import (
        UnknownRecord as UnknownRecord,
    )
    from hstreamlite.feed import (
        AckResult as AckResult,
    )
    from hstreamlite.feed import (
        DeliveryBatch as DeliveryBatch,
    )
    from hstreamlite.info import (
        StoreStats as StoreStats,
    )
    from hstreamlite.info import (
        StreamInfo as StreamInfo,
    )
    from hstreamlite.info import (
        SubscriptionInfo as SubscriptionInfo,
    )
    from hstreamlite.log.reader import (
        Batch as Batch,
    )
    from hstreamlite.log.recovery import (
        RecoveryReport as RecoveryReport,
    )
    from hstreamlite.producer import (
        Producer as Producer,
    )
    from hstreamlite.producer import (
        Submitted as Submitted,
    )
    from hstreamlite.records import (
        Delivery as Delivery,
    )
    from hstreamlite.records import (
        Payload as Payload,
    )
    from hstreamlite.records import (
        Record as Record,
    )
    from hstreamlite.records import (
        RecordId as RecordId,
    )
    from hstreamlite.records import (
        RecordIds as RecordIds,
    )
    from hstreamlite.signals import (
        exit_on_sigterm as exit_on_sigterm,
    )
    from hstreamlite.store import (
        Store as Store,
    )
    from hstreamlite.store import (
        Subscription as Subscription,
    )
    from hstreamlite.store import (
        open as open,  # noqa: A004 - hstreamlite.open is how users say it
    )
    from hstreamlite.stream import (
        BatchReader as BatchReader,
    )
    from hstreamlite.stream import (
        Reader as Reader,
    )
    from hstreamlite.stream import (
        Stream as Stream,
    )
    from hstreamlite.sub.effects import (
        Gap as Gap,
    )
    from hstreamlite.sub.effects import (
        GroupStats as GroupStats,
    )
    from hstreamlite.sub.effects import (
        Lag as Lag,
    )
    from hstreamlite.transaction import (
        Transaction as Transaction,
    )

__version__ = "0.1.0"

_NAMES = {
    "hstreamlite.config": (
        "Compression",
        "Durability",
        "StoreConfig",
    ),
    "hstreamlite.consumer": ("Consumer",),
    "hstreamlite.engine": (
        "EARLIEST",
        "LATEST",
        "Place",
    ),
    "hstreamlite.errors": (
        "AppendTimeout",
        "BatchTooLarge",
        "BufferFull",
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
        "LocalProtocolError",
        "NotAStore",
        "NotOwner",
        "Outcome",
        "ProducerClosed",
        "ReadOnly",
        "RecordTooLarge",
        "RecordTrimmed",
        "RemoteError",
        "RemoteProtocolError",
        "SqlError",
        "StorageFull",
        "StoreClosed",
        "StoreError",
        "StoreFailed",
        "StoreLocked",
        "StoreVersionUnsupported",
        "StreamExists",
        "StreamInUse",
        "StreamNotFound",
        "SubscriptionExists",
        "SubscriptionInUse",
        "SubscriptionNotFound",
        "TransactionTooLarge",
        "Unavailable",
        "UnknownRecord",
    ),
    "hstreamlite.feed": (
        "AckResult",
        "DeliveryBatch",
    ),
    "hstreamlite.info": (
        "StoreStats",
        "StreamInfo",
        "SubscriptionInfo",
    ),
    "hstreamlite.log.reader": ("Batch",),
    "hstreamlite.log.recovery": ("RecoveryReport",),
    "hstreamlite.producer": (
        "Producer",
        "Submitted",
    ),
    "hstreamlite.records": (
        "Delivery",
        "Payload",
        "Record",
        "RecordId",
        "RecordIds",
    ),
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
        "Gap",
        "GroupStats",
        "Lag",
    ),
    "hstreamlite.transaction": ("Transaction",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "EARLIEST",
    "LATEST",
    "AckResult",
    "AppendTimeout",
    "Batch",
    "BatchReader",
    "BatchTooLarge",
    "BufferFull",
    "Compression",
    "ConnectionLost",
    "ConnectorError",
    "Consumer",
    "ConsumerClosed",
    "ConsumerExists",
    "CorruptionError",
    "Delivery",
    "DeliveryBatch",
    "DuplicateAppend",
    "Durability",
    "Fenced",
    "Forked",
    "Gap",
    "GroupStats",
    "HStreamError",
    "Lag",
    "LeaseLost",
    "LocalProtocolError",
    "NotAStore",
    "NotOwner",
    "Outcome",
    "Payload",
    "Place",
    "Producer",
    "ProducerClosed",
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
    "SqlError",
    "StorageFull",
    "Store",
    "StoreClosed",
    "StoreConfig",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreStats",
    "StoreVersionUnsupported",
    "Stream",
    "StreamExists",
    "StreamInUse",
    "StreamInfo",
    "StreamNotFound",
    "Submitted",
    "Subscription",
    "SubscriptionExists",
    "SubscriptionInUse",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "Transaction",
    "TransactionTooLarge",
    "Unavailable",
    "UnknownRecord",
    "aio",
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
