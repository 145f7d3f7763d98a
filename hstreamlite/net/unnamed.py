"""Producers without a name: what their clients call them, and when what is known may be forgotten.

A client that lost its connection may come back, and send again what was not answered. It does so
within `RETURN_SECONDS`, or not at all; so what is older than that is of no use to anybody.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

RETURN_SECONDS: Final = 240.0
KEEP_SECONDS: Final = 3600.0
LEAST_SECONDS: Final = 300.0
"""How long they are kept where there are more than `KEEP_MAX`."""
KEEP_MAX: Final = 1000

_NAME: Final = re.compile(r"~[0-9a-f]{16}")

Key = tuple[int, str]
"""Stream and name."""


def name_of(number: bytes) -> str:
    """Return the name that eight bytes, which nobody else has, give a producer."""
    return f"~{number.hex()}"


def is_unnamed(key: Key) -> bool:
    """Tell whether a producer's client made its name up, for itself alone."""
    return _NAME.fullmatch(key[1]) is not None


class Idle:
    """Those that no call is of, in the order in which they became so."""

    def __init__(self, keys: Iterable[Key], now: float) -> None:
        self._since = dict.fromkeys(keys, now)
        self._calls: Counter[Key] = Counter()

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, key: Key) -> None:
        """Note a call of a producer."""
        self._calls[key] += 1
        self._since.pop(key, None)

    def end(self, key: Key, now: float) -> None:
        """Note the end of a call; another one of the same producer may have begun."""
        self._calls[key] -= 1
        if not self._calls[key]:
            del self._calls[key]
            self._since[key] = now

    def forget(self, key: Key) -> None:
        """Note that a producer has left for good."""
        self._since.pop(key, None)

    def over(self, now: float) -> Iterator[Key]:
        """Yield what may be forgotten; that is done."""
        for key, since in list(self._since.items()):
            most = LEAST_SECONDS if len(self._since) > KEEP_MAX else KEEP_SECONDS
            if now - since < most:
                return
            del self._since[key]
            yield key
