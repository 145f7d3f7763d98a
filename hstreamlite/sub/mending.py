"""Calls that are struck midway, by an exception of a signal's handler or for want of memory.

They leave tables that do not agree with each other. The next call makes them agree again.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from hstreamlite.errors import HStreamError


class Mendable(Protocol):
    """What has such calls."""

    struck: bool

    def mend(self) -> None:
        """Let the tables agree, whatever call was struck, and wherever."""


Owner = TypeVar("Owner", bound=Mendable)
Params = ParamSpec("Params")
Answer = TypeVar("Answer")


def mended(
    call: Callable[Concatenate[Owner, Params], Answer],
) -> Callable[Concatenate[Owner, Params], Answer]:
    """Have a call begin with what the one before it should have left, and tell if it was struck."""

    @wraps(call)
    def calling(owner: Owner, /, *args: Params.args, **options: Params.kwargs) -> Answer:
        if owner.struck:
            owner.mend()
        try:
            return call(owner, *args, **options)
        except (HStreamError, ValueError):  # refused, with nothing done
            raise
        except BaseException:
            owner.struck = True
            raise

    return calling
