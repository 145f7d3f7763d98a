"""Command lines that a server runs, sent over a channel of their own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from hstreamlite._native.files import real_env
from hstreamlite.errors import (
    ConnectionFailed,
    PermissionDenied,
    RemoteError,
    Unauthenticated,
    _restore,
)
from hstreamlite.net import forks
from hstreamlite.remote.address import Address
from hstreamlite.remote.diagnosis import explained
from hstreamlite.remote.security import Security

METHOD: Final = "/hstream.server.HStreamApi/SendAdminCommand"
_TIMEOUT: Final = 30.0
_REFUSALS: Final[Mapping[grpc.StatusCode, type[RemoteError]]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def run(address: Address, security: Security, *words: str) -> dict[str, Any]:
    """Run a command at a server and return its answer: an object with `type` and `content`.

    ConnectionFailed where there is no server; Unauthenticated, PermissionDenied or RemoteError
    where it refuses.
    """
    # Its request and its answer are one text in field 1 each, as this message is; that of the
    # protocol would get in the way of other clients of HStreamDB in the same process.
    line = StringValue(value=" ".join(["server", *map(shlex.quote, words)]))
    security.check(address)
    forks.grpc.begin(real_env(), address.text)
    with address.dialled() as target, _channel(address, target, security) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        try:
            answer: dict[str, Any] = json.loads(
                call(line, timeout=_TIMEOUT, metadata=security.metadata).value
            )
        except grpc.RpcError as error:
            raise _refusal(address, error) from None
    return answer


def _channel(address: Address, target: str, security: Security) -> grpc.Channel:
    if address.secure:
        return grpc.secure_channel(target, security.credentials())
    return grpc.insecure_channel(target)


def _refusal(address: Address, error: Any) -> RemoteError:
    said = error.details() or str(error.code())
    with suppress(ValueError, KeyError, TypeError):
        said = str(json.loads(said)["message"])
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        socket = address.socket if address.path else ""
        why = explained(said, secure=address.secure, socket=socket)
        return ConnectionFailed(address.text, _TIMEOUT, why)
    kind = _REFUSALS.get(error.code(), RemoteError)
    return cast("RemoteError", _restore(kind, said, {}))
