"""Answers that are made as bytes, for calls whose messages have an entry for each record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message


class Encoded:
    """A message in its serialized form, and how to read it."""

    __slots__ = ("kind", "raw")

    def __init__(self, kind: type[Message], raw: bytes) -> None:
        self.kind = kind
        self.raw = raw

    def message(self) -> Message:
        return self.kind.FromString(self.raw)


def encoder(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Return what serializes answers of a call, be they messages or serialized."""
    if encode is None:
        return None

    def encoded(answer: Any) -> bytes:
        return answer.raw if type(answer) is Encoded else encode(answer)

    return encoded


def message_of(answer: Any) -> Any:
    """Return an answer as a message."""
    return answer.message() if type(answer) is Encoded else answer
