"""Errors of calls as hstreamlite's own clients are told them."""

from __future__ import annotations

import grpc

from hstreamlite import errors
from hstreamlite.net.errors import Refused, Told, told as wire_told
from hstreamlite.net.failures import facts_of

Status = grpc.StatusCode

_STATUSES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (errors.StoreClosed, Status.UNAVAILABLE),
    (errors.StreamNotFound, Status.NOT_FOUND),
    (errors.SubscriptionNotFound, Status.NOT_FOUND),
    (errors.StreamExists, Status.ALREADY_EXISTS),
    (errors.SubscriptionExists, Status.ALREADY_EXISTS),
    (errors.ConsumerExists, Status.ALREADY_EXISTS),
    (errors.RecordTrimmed, Status.OUT_OF_RANGE),
    (errors.StorageFull, Status.RESOURCE_EXHAUSTED),
    (errors.CorruptionError, Status.DATA_LOSS),
    (errors.StoreFailed, Status.INTERNAL),
    (errors.Unauthenticated, Status.UNAUTHENTICATED),
    (errors.PermissionDenied, Status.PERMISSION_DENIED),
    (errors.LimitReached, Status.RESOURCE_EXHAUSTED),
    (errors.HStreamError, Status.FAILED_PRECONDITION),
    (ValueError, Status.INVALID_ARGUMENT),
    (TypeError, Status.INVALID_ARGUMENT),
    (LookupError, Status.INVALID_ARGUMENT),
)
"""The first that fits. Clients go by the detail; the status is for what stands in between."""


def told(error: BaseException) -> Told:
    """Return status and detail of an error that a servicer raised."""
    if isinstance(error, Refused):
        return wire_told(error)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return Told(status, 0, str(error), facts_of(error))
    return Told(Status.INTERNAL, 0, str(facts_of(error)["message"]), facts_of(error), True)
