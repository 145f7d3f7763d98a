"""Errors as the wire has them: a status, and a detail text that is one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from hstreamlite import errors
from hstreamlite.net.asked import failed_here
from hstreamlite.net.hstream_pb2 import ErrorCode

Status = grpc.StatusCode
TEXT_MAX = 1000
"""Characters of a text in a detail: with its escapes it has to fit into HTTP/2 headers."""


class Refused(Exception):
    """A call that the server refuses, with what the wire has to say about it."""

    plain = False
    """Whether the detail is the message alone, where HStreamDB's is no JSON either."""
    http: int | None = None
    """The status over HTTP, where it is not the one that goes with that of gRPC."""

    def __init__(
        self, status: grpc.StatusCode, code: int, message: str, extra: object = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra


class Stopping(Refused):
    """The server stops; the same call may succeed on another node, or on this one later."""

    def __init__(self) -> None:
        super().__init__(Status.UNAVAILABLE, 0, "The server is stopping; try again later.")


@dataclass(frozen=True, slots=True)
class Told:
    """What the wire says about an error. ``unexpected``: nobody foresaw it, so it is logged."""

    status: grpc.StatusCode
    code: int
    message: str
    extra: object = None
    unexpected: bool = False
    plain: bool = False

    def detail(self) -> str:
        if self.plain:
            return self.message[:TEXT_MAX]
        extra = self.extra[:TEXT_MAX] if isinstance(self.extra, str) else self.extra
        return json.dumps({"error": self.code, "message": self.message[:TEXT_MAX], "extra": extra})


Teller = Callable[[BaseException], Told]


def told(error: BaseException) -> Told:
    """Return what a client is told about an error that a servicer raised."""
    if isinstance(error, Refused):
        return Told(error.status, error.code, error.message, error.extra, plain=error.plain)
    if isinstance(error, errors.HStreamError):
        for kind, status, code, extra in _KNOWN:
            if isinstance(error, kind):
                return Told(status, code, str(error), getattr(error, extra) if extra else None)
        if isinstance(error, ValueError):  # only the store could know that it is wrong
            return Told(Status.INVALID_ARGUMENT, 0, str(error))
        status = Status.UNAVAILABLE if error.retryable else Status.INTERNAL
        return Told(status, 0, str(error), unexpected=not error.retryable)
    if isinstance(error, ValueError):
        return Told(Status.INVALID_ARGUMENT, 0, str(error))
    return Told(Status.INTERNAL, 0, failed_here(), unexpected=True)


# First match wins, so subclasses stand before their bases. The last column names the attribute
# that becomes `extra`.
_KNOWN: tuple[tuple[type[errors.HStreamError], grpc.StatusCode, int, str], ...] = (
    (errors.StreamNotFound, Status.NOT_FOUND, ErrorCode.StreamNotFound, "stream"),
    (errors.ShardNotFound, Status.NOT_FOUND, 0, "shard"),
    (errors.UnknownPlace, Status.INVALID_ARGUMENT, ErrorCode.StreamInvalidRecordId, ""),
    (errors.PlaceConflict, Status.INVALID_ARGUMENT, ErrorCode.ShardReaderConflictOffset, ""),
    (errors.StreamExists, Status.ALREADY_EXISTS, ErrorCode.StreamExists, "stream"),
    (errors.StreamInUse, Status.FAILED_PRECONDITION, ErrorCode.StreamFoundSubscription, "stream"),
    (errors.BatchTooLarge, Status.INVALID_ARGUMENT, ErrorCode.StreamInvalidRecordSize, "size"),
    (errors.RecordTooLarge, Status.INVALID_ARGUMENT, ErrorCode.StreamInvalidRecordSize, "size"),
    (
        errors.SubscriptionNotFound,
        Status.NOT_FOUND,
        ErrorCode.SubscriptionNotFound,
        "subscription",
    ),
    (
        errors.SubscriptionExists,
        Status.ALREADY_EXISTS,
        ErrorCode.SubscriptionExists,
        "subscription",
    ),
    (
        errors.SubscriptionInUse,
        Status.FAILED_PRECONDITION,
        ErrorCode.SubscriptionFoundActiveConsumers,
        "subscription",
    ),
    (errors.ConsumerExists, Status.ALREADY_EXISTS, 0, "consumer"),
    (errors.StorageFull, Status.RESOURCE_EXHAUSTED, 0, ""),
    (errors.StorageUnavailable, Status.UNAVAILABLE, 0, ""),
    (errors.StoreClosed, Status.UNAVAILABLE, 0, ""),
    (errors.StoreFailed, Status.UNAVAILABLE, 0, ""),
    (errors.CorruptionError, Status.DATA_LOSS, ErrorCode.ShardReaderDataLossGap, ""),
    (errors.RecordTrimmed, Status.OUT_OF_RANGE, 0, ""),
    (errors.ConsumerClosed, Status.ABORTED, 0, "consumer"),
    (errors.ReadOnly, Status.FAILED_PRECONDITION, 0, ""),
    (errors.Unauthenticated, Status.UNAUTHENTICATED, 0, ""),
    (errors.PermissionDenied, Status.PERMISSION_DENIED, 0, "name"),
    (errors.LimitReached, Status.RESOURCE_EXHAUSTED, 0, "limit"),
    (errors.NotOwner, Status.FAILED_PRECONDITION, ErrorCode.WrongServer, "owner"),
)
