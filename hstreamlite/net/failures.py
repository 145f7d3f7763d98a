"""Errors as hstreamlite's own clients are told them: whole, so that they raise the same.

A failure is a JSON object: the class by its name, the message, the facts, and what its class does
not say of ``retryable`` and ``outcome``. A class that the reader does not know, be it of a newer
version, comes out as `RemoteError` with all of that. Facts are texts, numbers, record ids, lost
ranges, and tuples of these.
"""

from __future__ import annotations

import builtins
import json
from dataclasses import astuple
from typing import Any, Final

from hstreamlite import errors
from hstreamlite.errors import HStreamError, LostRecords, RemoteError, Unavailable
from hstreamlite.net.asked import failed_here
from hstreamlite.records import RecordId

_ARGUMENTS: Final = ("ValueError", "TypeError", "LookupError", "KeyError")
"""What a wrong argument raises, which is no error of the library's own."""
_TEXT_MAX: Final = 1000
"""Characters of a text: a failure may travel in the headers of HTTP/2."""
_FACT_MAX: Final = 255
_LIST_MAX: Final = 10


def facts_of(error: BaseException) -> dict[str, Any]:
    """Return the JSON object of an error; of one that nobody foresaw only that there was one."""
    if isinstance(error, errors.StoreClosed | errors.Forked):
        error = Unavailable("", "it is closing its store")
    if isinstance(error, HStreamError):
        facts = {name: _plain(value) for name, value in error._facts.items()}
        told: dict[str, Any] = {
            "type": type(error).__name__,
            "message": str(error)[:_TEXT_MAX],
            "facts": facts,
            "retryable": error.retryable,
            "outcome": error.outcome,
        }
        return told
    for name in _ARGUMENTS:
        if isinstance(error, getattr(builtins, name)):
            return {"type": name, "message": str(error)[:_TEXT_MAX]}
    return {"type": "RemoteError", "message": failed_here(),
            "facts": {}, "retryable": False, "outcome": "unknown"}  # fmt: skip


def failure_of(error: BaseException) -> str:
    """Return the text of an error."""
    return json.dumps(facts_of(error))


def error_of(failure: str | dict[str, Any], address: str) -> Exception:
    """Rebuild the error of a failure that the server at an address told."""
    try:
        told = json.loads(failure) if isinstance(failure, str) else failure
        name, message = str(told["type"]), str(told["message"])
        if name in _ARGUMENTS:
            argument: Exception = getattr(builtins, name)(message)
            return argument
        facts: Any = {str(fact): _rich(value) for fact, value in told["facts"].items()}
        retryable, outcome = bool(told["retryable"]), told["outcome"]
        if name == "RecordTooLarge":  # what it advised is for who has the store open
            return errors.RecordTooLarge(facts["size"], facts["limit"], at_server=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        return errors.RemoteProtocolError(f"The server at {address} told of an error: {failure!s}")
    if name == "Unavailable":
        return Unavailable(address, str(facts.get("why", message)))
    kind = getattr(errors, name, RemoteError)
    if not (isinstance(kind, type) and issubclass(kind, HStreamError)):
        kind = RemoteError
    error = errors._restore(kind, message, facts)
    if (error.retryable, error.outcome) != (retryable, outcome):
        error.retryable = retryable
        error.outcome = "none" if outcome == "none" else "unknown"
    return error


def _plain(value: object) -> object:
    if isinstance(value, RecordId):
        return {"record": str(value)}
    if isinstance(value, LostRecords):
        return {"lost": astuple(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value[:_LIST_MAX]]
    if isinstance(value, str):
        return value[:_FACT_MAX]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _rich(value: object) -> object:
    if isinstance(value, dict):
        return LostRecords(*value["lost"]) if "lost" in value else RecordId.parse(value["record"])
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return value
