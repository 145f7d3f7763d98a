"""The request that is being served, by the id that its client gave it or that it got here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Final

REQUEST_ID: Final = "x-request-id"
"""The header, and the metadata of gRPC, that an id comes and goes back in."""
_USABLE: Final = re.compile(r"[!-~]{1,128}")

Headers = Callable[[], "Iterable[tuple[str, str | bytes]] | None"]


class Asked:
    """A request. Its id is looked for when it is first wanted."""

    __slots__ = ("_headers", "_id")

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._id: str | None = None

    @property
    def id(self) -> str:
        """The id in the headers, or a new one where they hold none that fits into a log's line."""
        if self._id is None:
            given = next((v for name, v in self._headers() or () if name == REQUEST_ID), "")
            usable = isinstance(given, str) and _USABLE.fullmatch(given)
            self._id = str(given) if usable else uuid.uuid4().hex
        return self._id


ASKED: ContextVar[Asked] = ContextVar("hstreamlite_asked")


def failed_here() -> str:
    """Return what a client is told about an error that nobody foresaw."""
    asked = ASKED.get(None)
    named = "" if asked is None else f" as request {asked.id}"
    return f"The server failed in a way that it logged{named}."
