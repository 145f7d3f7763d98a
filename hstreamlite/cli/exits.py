"""Exit codes, and every error as one line for a person: what, and what to do."""

from __future__ import annotations

from enum import IntEnum
from traceback import format_exception

from hstreamlite import errors


class Exit(IntEnum):
    """How a command ended; `check` and `salvage` say with 1 that they found damage."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused, not found, or found to be wrong: the message says what",
    Exit.USAGE: "wrong usage: nothing was done",
    Exit.UNREACHABLE: "cannot open, reach, read or write the store",
    Exit.INTERRUPTED: "interrupted",
}
"""What each code means, of every command."""

_UNREACHABLE = (
    errors.StoreError,
    errors.RemoteError,
    errors.CorruptionError,
    errors.StorageFull,
    errors.StorageUnavailable,
    errors.Fenced,
    OSError,
    MemoryError,
)
"""Not the fault of what was asked for."""


class Refusal(Exception):
    """A command that cannot be done as asked; the text says why and what to do."""

    def __init__(self, text: str, code: Exit = Exit.REFUSED) -> None:
        super().__init__(text)
        self.code = code


def code_of(error: Exception) -> Exit:
    """Return the exit code that goes with an error."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, errors.Unauthenticated | errors.PermissionDenied):
        return Exit.REFUSED
    if isinstance(error, _UNREACHABLE):
        return Exit.UNREACHABLE
    if isinstance(error, errors.HStreamError):
        return Exit.REFUSED
    if isinstance(error, ValueError | TypeError):
        return Exit.USAGE
    return Exit.UNREACHABLE


def told(error: Exception) -> str:
    """Return what to tell a person: one line, save for a bug of the program itself."""
    if isinstance(error, errors.HStreamError):
        return _advised(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, ValueError):
        return " ".join(str(error).split())
    return "".join(format_exception(error)).rstrip()


def _advised(error: errors.HStreamError) -> str:
    """Return the message, with the advice in words of the command line where it is one for code."""
    match error:
        case errors.StreamNotFound():
            return (
                f"There is no stream {error.stream!r}; `hstreamlite stream list` shows those there "
                "are."
            )
        case errors.SubscriptionNotFound():
            return (
                f"There is no subscription {error.subscription!r}; `hstreamlite subscription list` "
                "shows those there are."
            )
        case errors.StreamExists():
            return f"Stream {error.stream!r} exists; --exists-ok leaves it as it is."
        case errors.SubscriptionExists():
            return f"Subscription {error.subscription!r} exists; --exists-ok leaves it as it is."
        case errors.StreamInUse() | errors.SubscriptionInUse():
            return str(error).replace("pass force=True", "pass --force")
        case errors.RecordTooLarge():
            return (
                f"A record of {error.size} bytes is over the limit of {error.limit} bytes; "
                "split it."
            )
        case errors.ReadOnly():
            return f"The store at {error.path!r} is open read-only and cannot {error.what}."
    return " ".join(str(error).split())
