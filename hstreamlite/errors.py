"""Every error that the library raises on its own account.

One tree under `HStreamError`; two attributes say what a caller needs to know without reading the
message:

``outcome``
    What the failed call did to the store: ``"none"`` (nothing happened, and nothing will) or
    ``"unknown"`` (it may have happened, or may still; only a read can tell).
``retryable``
    The same call, made again later, may succeed and cannot do its work twice. Never true together
    with an unknown outcome.

The facts of an error are its attributes; the message is one sentence made of them. A wrong
argument is a plain `ValueError` or `TypeError` and not in this tree, except where only the store
can know that it is wrong (`UnknownRecord`). All errors survive pickling, so they may cross to
another process.
"""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["none", "unknown"]


class HStreamError(Exception):
    """The root of all errors of this library."""

    retryable: bool = False
    outcome: Outcome = "none"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self._message = message
        self._facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self._message, self._facts), dict(vars(self))


def _restore(cls: type[HStreamError], message: str, facts: dict[str, object]) -> HStreamError:
    """Rebuild a pickled error without its class's own signature."""
    error = cls.__new__(cls)
    HStreamError.__init__(error, message, **facts)
    return error


def _of(kind: str, name: str) -> str:
    return f" of {kind} {name!r}" if name else ""


class StoreError(HStreamError):
    """A store as a whole cannot do what was asked.

    Nothing was changed, unless a subclass says so.
    """


class StoreClosed(StoreError):
    """The store was closed. Whatever had been acknowledged before is kept."""

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(f"The store at {path!r} is closed; open it again to go on.", path=path)


class StoreLocked(StoreError):
    """Another process (or another `open` in this one) owns the directory. It is left untouched.

    ``owner_pid`` is 0 where the owner could not be told.
    """

    retryable = True
    path: str
    owner_pid: int

    def __init__(
        self,
        path: str,
        owner_pid: int,
        *,
        advice: str = "",
    ) -> None:
        owner = f"process {owner_pid}" if owner_pid else "another process"
        shared = (
            f'if that is a server, reach it with `hs.connect("unix:{path}")`; else close it there, '
            "or share it between processes: end that one, and start `python -m hstreamlite server "
            f"--store {path}`"
        )
        super().__init__(
            f"The store at {path!r} is open for writing in {owner}; {advice or shared}.",
            path=path,
            owner_pid=owner_pid,
        )


class StoreVersionUnsupported(StoreError):
    """The files were written by a version this one cannot read. They are left untouched."""

    path: str
    found: int
    supported: int

    def __init__(self, path: str, found: int, supported: int) -> None:
        super().__init__(
            f"{path!r} has on-disk format version {found}, but this hstreamlite reads up to "
            f"version {supported}; upgrade the package to open it.",
            path=path,
            found=found,
            supported=supported,
        )


class StoreFailed(StoreError):
    """A write or a sync failed, and the store refuses all further work until it is reopened.

    What was acknowledged before is kept. What was under way may or may not be on disk: the next
    open finds out, which no retry inside this process could.
    """

    outcome: Outcome = "unknown"
    path: str
    cause: BaseException

    def __init__(self, path: str, cause: BaseException) -> None:
        super().__init__(
            f"The store at {path!r} stopped after a failed write or sync ({cause}); "
            "close it and open it again to learn what is on disk.",
            path=path,
            cause=cause,
        )


class NotAStore(StoreError):
    """The path holds something other than a store. It is left untouched."""

    path: str
    why: str

    def __init__(
        self, path: str, why: str, *, creating: bool = False, followed: bool = False
    ) -> None:
        wanted = "an empty or a new directory" if creating else "the directory of a store"
        if followed:
            wanted += ", or wait until the process that writes it has created it"
        super().__init__(
            f"{path!r} is not a store: {why}; give {wanted}.",
            path=path,
            why=why,
        )


class StoreReplaced(StoreError):
    """The directory that was opened is gone, or another store lies in its place.

    Removed, renamed, or made anew: what was read before was true. Nothing was changed.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The store that was opened at {path!r} is not there any more: its directory was "
            "removed, renamed or made anew; close this one and open what is there now.",
            path=path,
        )


class Forked(StoreError):
    """The store was opened before a fork and is used in the child. The parent's is unharmed.

    So it is for who connects in a child of a process that was connected, or had a server.
    """

    path: str
    owner_pid: int

    def __init__(self, path: str, owner_pid: int, *, connecting: bool = False) -> None:
        super().__init__(
            f"{path!r} cannot be reached in this process: process {owner_pid}, which forked it, "
            "has used gRPC, and that works on one side of a fork only; connect after the fork "
            'alone, or start processes anew, as multiprocessing does with "spawn".'
            if connecting
            else f"The store at {path!r} belongs to process {owner_pid}, which forked this one; "
            "open stores after the fork.",
            path=path,
            owner_pid=owner_pid,
        )


class ReadOnly(StoreError):
    """A change was asked of a store opened with ``read_only=True``. Nothing was changed.

    ``what`` is what was asked. Consumers change a store too: they ack, through its one writer.
    """

    path: str
    what: str

    def __init__(self, path: str, what: str = "write") -> None:
        super().__init__(
            f"The store at {path!r} is open read-only and cannot {what}; do that in the process "
            "that writes it, or open it without read_only=True.",
            path=path,
            what=what,
        )


@dataclass(frozen=True, slots=True)
class LostRecords:
    """A range of records that cannot be read, by their numbers in a shard."""

    shard: int
    """Id of the shard."""
    first: int
    """Number of the first one; 0 where it cannot be told which they are."""
    last: int | None
    """Number of the last one. None: any number from the first on."""
    stream: str = ""
    """Name of the stream; empty where it is not known there, or one of the store's own logs."""

    def __str__(self) -> str:
        upto = f"-{self.last}" if self.last is not None else "- (any number of records)"
        records = f" {self.first}{upto}" if self.first else ""
        of = f"shard {self.shard}{records}"
        return f"{of} of stream {self.stream!r}" if self.stream else of


class CorruptionError(HStreamError):
    """Stored bytes do not carry the checksum or the shape they were written with.

    The files are left as found. ``offset`` and ``length`` are bytes of the file at ``path``;
    ``lost`` names what cannot be read, as far as the rest of the file tells.
    """

    path: str
    offset: int
    length: int
    expected: str
    found: str
    lost: tuple[LostRecords, ...]

    def __init__(
        self,
        path: str,
        offset: int,
        length: int,
        expected: object,
        found: object,
        lost: tuple[LostRecords, ...] = (),
        *,
        advice: str = (
            "restore the file from a backup, read what is left with open(path, read_only=True, "
            "accept_damage=True), or see `hstreamlite check` and `hstreamlite salvage`"
        ),
    ) -> None:
        losing = f", losing {', '.join(map(str, lost))}" if lost else ""
        where = f" in {length} bytes at offset {offset}" if length else ""
        super().__init__(
            f"{path!r} is damaged{where}: expected {expected}, found {found}{losing}; {advice}.",
            path=path,
            offset=offset,
            length=length,
            expected=str(expected),
            found=str(found),
            lost=lost,
        )


class StorageFull(HStreamError, OSError):
    """The device has no room for the write. Nothing was written, and the store goes on working.

    Reads, acks, trims and deletes still work, so that room can be made. ``needed`` is in bytes, 0
    where unknown. Also an `OSError` with ``errno.ENOSPC``.
    """

    retryable = True
    path: str
    needed: int

    def __init__(
        self,
        path: str,
        needed: int = 0,
        *,
        advice: str = "free space on the device or trim streams",
    ) -> None:
        room = f"for {needed} more bytes" if needed else "for more"
        message = f"No room {room} at {path!r}; {advice}."
        super().__init__(
            message,
            path=path,
            needed=needed,
            errno=_errno.ENOSPC,
            strerror=message,
            filename=path,
        )


class StorageUnavailable(HStreamError, OSError):
    """A file of the store could not be opened, reserved or read. Nothing was changed.

    The store goes on working as far as its device does. Retryable where files were too many. Also
    an `OSError` with the ``errno`` of the call that failed, which ``strerror`` names.
    """

    path: str

    def __init__(self, path: str, cause: OSError) -> None:
        what = cause.strerror or "input/output error"
        too_many = cause.errno in (_errno.EMFILE, _errno.ENFILE)
        advice = "look at the device and at permissions"
        if too_many:
            advice = "close files or raise the limit of open files (ulimit -n), then try again"
        elif cause.errno == _errno.EFBIG:
            advice = "raise the limit of file sizes (ulimit -f), or use smaller segments"
        super().__init__(
            f"A file of the store at {path!r} could not be used (error {cause.errno}: {what}); "
            f"{advice}.",
            retryable=too_many,
            path=path,
            errno=cause.errno,
            strerror=what,
            filename=path,
        )


def _absent(kind: str, name: str, *, followed: bool) -> str:
    if followed:
        return (
            f"There is no durable {kind} {name!r}; the process that writes the store creates it, "
            "and it is seen here once it is on disk: ask again then, or correct the name."
        )
    return f"There is no {kind} {name!r}; create it with create_{kind}."


class StreamNotFound(HStreamError, LookupError):
    """No stream has this name. Nothing was changed."""

    stream: str

    def __init__(self, stream: str, *, followed: bool = False, damaged: bool = False) -> None:
        what = _absent("stream", stream, followed=followed)
        if damaged:
            what = (
                f"There is no stream {stream!r} in what is left of the store; streams() returns "
                "those there are, and what was in one whose name is lost is in 'salvaged-' and the "
                "id of its shard."
            )
        super().__init__(what, stream=stream)


class ShardNotFound(HStreamError, LookupError):
    """No shard has this id, or it is not one of the stream. Nothing was changed."""

    shard: int
    stream: str

    def __init__(self, shard: int, stream: str = "") -> None:
        super().__init__(
            f"There is no shard {shard}{_of('stream', stream)}; take ids from the list of shards.",
            shard=shard,
            stream=stream,
        )


class SubscriptionNotFound(HStreamError, LookupError):
    """No subscription has this name. Nothing was changed."""

    subscription: str

    def __init__(self, subscription: str, *, followed: bool = False) -> None:
        super().__init__(
            _absent("subscription", subscription, followed=followed), subscription=subscription
        )


class StreamExists(HStreamError):
    """A stream of this name exists. It is left as it was."""

    stream: str

    def __init__(self, stream: str) -> None:
        super().__init__(f"Stream {stream!r} exists; pass exists_ok=True to use it.", stream=stream)


class SubscriptionExists(HStreamError):
    """A subscription of this name exists. It is left as it was."""

    subscription: str

    def __init__(self, subscription: str) -> None:
        super().__init__(
            f"Subscription {subscription!r} exists; pass exists_ok=True to use it.",
            subscription=subscription,
        )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + more


class StreamInUse(HStreamError):
    """A stream that subscriptions read, or send dead letters to, was to be deleted. It is left as
    it was."""

    stream: str
    subscriptions: tuple[str, ...]
    dead_letters_of: tuple[str, ...]

    def __init__(
        self,
        stream: str,
        subscriptions: tuple[str, ...],
        dead_letters_of: tuple[str, ...] = (),
    ) -> None:
        uses = [f"has subscriptions ({_some(subscriptions)})"] if subscriptions else []
        if dead_letters_of:
            uses.append(f"takes the dead letters of subscriptions ({_some(dead_letters_of)})")
        super().__init__(
            f"Stream {stream!r} {' and '.join(uses)}; delete them first, or pass force=True.",
            stream=stream,
            subscriptions=subscriptions,
            dead_letters_of=dead_letters_of,
        )


class SubscriptionInUse(HStreamError):
    """A subscription with consumers was to be deleted. It is left as it was."""

    subscription: str
    consumers: tuple[str, ...]

    def __init__(self, subscription: str, consumers: tuple[str, ...]) -> None:
        names = ", ".join(repr(name) for name in consumers[:5])
        more = f" and {len(consumers) - 5} more" if len(consumers) > 5 else ""
        super().__init__(
            f"Subscription {subscription!r} has consumers ({names}{more}); "
            "close them first, or pass force=True.",
            subscription=subscription,
            consumers=consumers,
        )


class ConsumerExists(HStreamError):
    """A consumer of this name is attached to the subscription. It goes on undisturbed."""

    subscription: str
    consumer: str

    def __init__(self, subscription: str, consumer: str) -> None:
        super().__init__(
            f"Subscription {subscription!r} has a consumer {consumer!r}; "
            "close that one or choose another name.",
            subscription=subscription,
            consumer=consumer,
        )


class RecordTooLarge(HStreamError):
    """One record is larger than a block may be. Nothing was appended. Sizes are bytes."""

    size: int
    limit: int

    def __init__(self, size: int, limit: int, *, at_server: bool = False) -> None:
        other = (
            "start the server with a larger `store_config.batch_bytes_max` "
            "(--store-config-batch-bytes-max)"
            if at_server
            else "open the store with a larger `batch_bytes_max`"
        )
        super().__init__(
            f"A record of {size} bytes is over the limit of {limit} bytes; "
            f"split its payload, or {other}.",
            size=size,
            limit=limit,
        )


class BatchTooLarge(HStreamError):
    """One batch is larger than allowed. Nothing was appended. Sizes are bytes."""

    size: int
    limit: int

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"A batch of {size} bytes is over the limit of {limit} bytes; "
            "append it in smaller batches.",
            size=size,
            limit=limit,
        )


class MalformedBatch(HStreamError, ValueError):
    """A batch that somebody else encoded is no batch of so many records. The store is sound.

    ``records`` is how many it was said to hold. Its bytes are kept as they came, and
    `Stream.read_batches` returns them. It is met once: reading goes on behind it, and the
    subscription whose consumer met it counts it as acked.
    """

    shard_id: int
    batch_id: int
    records: int

    def __init__(self, shard_id: int, batch_id: int, records: int) -> None:
        super().__init__(
            f"Batch {shard_id}-{batch_id} cannot be decoded: its bytes are no batch of {records} "
            "records, and were stored as a client sent them; look at its payload with "
            "read_batches.",
            shard_id=shard_id,
            batch_id=batch_id,
            records=records,
        )


class TransactionTooLarge(HStreamError):
    """One transaction is larger than a frame may be. Nothing of it happened. Sizes are bytes."""

    size: int
    limit: int

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"A transaction of {size} bytes is over the limit of {limit} bytes; "
            "split it into smaller ones.",
            size=size,
            limit=limit,
        )


class RecordTrimmed(HStreamError):
    """The position lies before the first kept record: trimmed or expired. Nothing was changed."""

    requested: object
    first_kept: object
    stream: str

    def __init__(self, requested: object, first_kept: object, stream: str = "") -> None:
        super().__init__(
            f"Record {requested}{_of('stream', stream)} is no longer kept; "
            f"the first kept one is {first_kept}; read from there (a reader that has begun goes on "
            "there when it is asked again).",
            requested=requested,
            first_kept=first_kept,
            stream=stream,
        )


class UnknownPlace(HStreamError, ValueError):
    """A record id names nothing in its shard yet. Nothing was changed."""

    record: object
    tail: int

    def __init__(self, record: object, tail: int) -> None:
        super().__init__(
            f"Record {record} lies behind the last batch of its shard, which is {tail}; use an id "
            "that an append returned.",
            record=record,
            tail=tail,
        )


class PlaceConflict(HStreamError, ValueError):
    """Two ends of a read do not go together, or an end is not one of the shard read."""

    place: object
    why: str

    def __init__(self, place: object, why: str) -> None:
        super().__init__(
            f"Place {place} {why}; give a start that is not behind the end, in the same shard.",
            place=place,
            why=why,
        )


class BufferFull(HStreamError):
    """A producer's buffer has no room for the record. It was not taken in. Sizes are bytes."""

    retryable = True
    size: int
    limit: int
    stream: str

    def __init__(self, size: int, limit: int, stream: str = "") -> None:
        super().__init__(
            f"A record of {size} bytes does not fit into what is free of the producer's buffer"
            f"{_of('stream', stream)}, {limit} bytes in all; wait for earlier records, or raise "
            "buffer_bytes.",
            size=size,
            limit=limit,
            stream=stream,
        )


class AppendTimeout(HStreamError):
    """An append was not durable in time. It goes on: the records may yet become durable."""

    outcome: Outcome = "unknown"
    timeout: float
    stream: str

    def __init__(self, timeout: float, stream: str = "") -> None:
        super().__init__(
            f"An append{' to stream ' + repr(stream) if stream else ''} was not durable within "
            f"{timeout:g} s; read the stream, or use a named producer, before appending again.",
            timeout=timeout,
            stream=stream,
        )


class ConsumerClosed(HStreamError):
    """The consumer was closed; what it had not acked went back to the subscription at once."""

    subscription: str
    consumer: str

    def __init__(self, subscription: str, consumer: str) -> None:
        super().__init__(
            f"Consumer {consumer!r} of subscription {subscription!r} is closed; attach a new one.",
            subscription=subscription,
            consumer=consumer,
        )


class ProducerClosed(HStreamError):
    """The producer was closed. The record was not taken in; earlier ones were flushed."""

    stream: str

    def __init__(self, stream: str, *, why: str = "is closed") -> None:
        super().__init__(f"The producer of stream {stream!r} {why}; make a new one.", stream=stream)


class LeaseLost(HStreamError):
    """A delivery is no longer held: its timeout passed, or key order took it back.

    Nothing of the call happened; the record comes again, to this consumer or another.
    """

    subscription: str
    records: tuple[object, ...]

    def __init__(self, subscription: str, records: tuple[object, ...]) -> None:
        names = ", ".join(str(record) for record in records[:5])
        more = f" and {len(records) - 5} more" if len(records) > 5 else ""
        super().__init__(
            f"Deliveries of subscription {subscription!r} are no longer held here ({names}{more}); "
            "drop their results, the records come again.",
            subscription=subscription,
            records=records,
        )


class PayloadMismatch(HStreamError, ValueError):
    """The payload of a record does not hold what `payload_as` was asked for. The record stays.

    ``field`` is the path of what does not fit, empty for the payload as a whole.
    """

    record: str
    type: str
    field: str
    expected: str
    found: str

    def __init__(self, record: str, type_: str, field: str, expected: str, found: str) -> None:
        what = f"field {field!r}" if field else "its payload"
        super().__init__(
            f"{f'Record {record}' if record else 'The record'} is no {type_}: {what} must be "
            f"{expected}, not {found}.",
            record=record,
            type=type_,
            field=field,
            expected=expected,
            found=found,
        )


class UnknownRecord(HStreamError, ValueError):
    """A record was acked, released or extended that this subscription never delivered.

    Nothing of the call happened.
    """

    subscription: str
    record: object
    why: str

    def __init__(self, subscription: str, record: object, why: str = "never delivered") -> None:
        super().__init__(
            f"Record {record} is not one of subscription {subscription!r} ({why}); "
            "pass ids of its own deliveries.",
            subscription=subscription,
            record=record,
            why=why,
        )


class DuplicateAppend(HStreamError):
    """A named producer's sequence number was stored before, too long ago to know its record id.

    Nothing was written by this call; the record is in the stream once.
    """

    producer: str
    sequence: int

    def __init__(self, producer: str, sequence: int) -> None:
        super().__init__(
            f"Sequence {sequence} of producer {producer!r} is already stored and its record id no "
            "longer remembered; take it as appended.",
            producer=producer,
            sequence=sequence,
        )


class Fenced(HStreamError):
    """A newer owner took the store over; this one may write no more.

    What was acknowledged before is kept, what was under way may have reached the new owner.
    """

    outcome: Outcome = "unknown"
    held_epoch: int
    current_epoch: int

    def __init__(self, held_epoch: int, current_epoch: int) -> None:
        super().__init__(
            f"Ownership epoch {held_epoch} was superseded by epoch {current_epoch}; "
            "look the new owner up.",
            held_epoch=held_epoch,
            current_epoch=current_epoch,
        )


class NotOwner(HStreamError):
    """The node asked does not own what was asked for. Nothing was changed.

    ``owner`` is the address of the node that does, empty where it is not known.
    """

    retryable = True
    owner: str

    def __init__(self, owner: str = "") -> None:
        where = f"ask {owner}" if owner else "look its owner up and ask there"
        super().__init__(f"This node does not own what was asked for; {where}.", owner=owner)


class RemoteError(HStreamError):
    """A store reached over the network could not be asked, or did not answer as it should."""


class ConnectionFailed(RemoteError, ConnectionError):
    """No server could be reached in time. Nothing was sent. Also a `ConnectionError`."""

    retryable = True
    address: str
    timeout: float
    why: str

    def __init__(self, address: str, timeout: float, why: str) -> None:
        super().__init__(
            f"There was no connection to {address} within {timeout:g} s ({why}); start a server "
            "there with `python -m hstreamlite server --store PATH`, or look at the address.",
            address=address,
            timeout=timeout,
            why=why,
        )


class ConnectionLost(RemoteError):
    """The connection broke, or no answer came in time.

    ``outcome`` is "none" if the request had not left yet.
    """

    address: str
    why: str

    def __init__(self, address: str, outcome: Outcome = "unknown", *, why: str = "broke") -> None:
        told = "the request was not sent" if outcome == "none" else "the request may have arrived"
        what = "make it again" if outcome == "none" else "look what is there before making it again"
        super().__init__(
            f"The connection to {address} {why} and {told}; {what}.",
            address=address,
            why=why,
            outcome=outcome,
            retryable=outcome == "none",
        )


class LocalProtocolError(RemoteError):
    """This side was about to break the protocol. Nothing was sent."""


class RemoteProtocolError(RemoteError):
    """The other side broke the protocol; what it did with the request cannot be told."""

    outcome: Outcome = "unknown"


class Unavailable(RemoteError):
    """The server refused the request for the time being. Nothing was changed."""

    retryable = True
    address: str
    why: str

    def __init__(self, address: str, why: str) -> None:
        super().__init__(
            f"The server at {address} is unavailable: {why}; try again later.",
            address=address,
            why=why,
        )


class Unauthenticated(RemoteError):
    """The server does not know who asks. Nothing was changed."""

    why: str

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The server does not know who makes this call: {why}; "
            "give the token or the certificate that its operator made for you.",
            why=why,
        )


class PermissionDenied(RemoteError):
    """The server knows who asks, and nothing it granted allows this. Nothing was changed.

    ``kind`` is "stream", "subscription", "server" or "method", ``name`` empty where there is none.
    """

    role: str
    action: str
    kind: str
    name: str

    def __init__(self, role: str, action: str, kind: str, name: str = "") -> None:
        what = f"{kind} {name!r}" if name else f"the {kind}"
        super().__init__(
            f"Role {role!r} was not granted {action!r} for {what}; "
            "grants are made in the settings of the server.",
            role=role,
            action=action,
            kind=kind,
            name=name,
        )


class LimitReached(RemoteError):
    """A limit of the server stands against the call for now. Nothing was changed.

    ``limit`` is the name of its setting.
    """

    retryable = True
    limit: str
    most: int

    def __init__(self, limit: str, most: int) -> None:
        super().__init__(
            f"The server's limit {limit} of {most} is reached; "
            "try again later, ask for less at a time, or raise it.",
            limit=limit,
            most=most,
        )


class BackupRefused(HStreamError):
    """A server makes no backup of this name. Nothing was written.

    ``retryable`` if that is because another one is being made.
    """

    name: str
    why: str

    def __init__(self, name: str, why: str, *, retryable: bool = False) -> None:
        super().__init__(
            f"The server makes no backup {name!r}: {why}.", name=name, why=why, retryable=retryable
        )


class SqlError(HStreamError):
    """A statement cannot be run as written. Nothing of it happened.

    ``position`` counts characters of the statement from 0.
    """

    position: int
    why: str

    def __init__(self, why: str, position: int) -> None:
        super().__init__(
            f"The statement is wrong at character {position}: {why}.", why=why, position=position
        )


class ConnectorError(HStreamError):
    """A connector stopped. What it had checkpointed is kept, and a restart goes on from there."""

    outcome: Outcome = "unknown"
    connector: str
    why: str

    def __init__(self, connector: str, why: str) -> None:
        super().__init__(f"Connector {connector!r} stopped: {why}.", connector=connector, why=why)


__all__ = [
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
    "MalformedBatch",
    "NotAStore",
    "NotOwner",
    "Outcome",
    "PayloadMismatch",
    "PermissionDenied",
    "PlaceConflict",
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
    "StoreLocked",
    "StoreReplaced",
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
]
