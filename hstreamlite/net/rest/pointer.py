"""JSON pointers (RFC 6901): what they lead to in a decoded value."""

from __future__ import annotations

import re

import msgspec

from hstreamlite.net.rest.answers import BadRequest

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def found_at(value: object, pointer: str) -> object:
    """Return what a pointer leads to, None for nothing.

    >>> found_at({"a": [{"b/c": 1}]}, "/a/0/b~1c")
    1
    """
    if pointer and not pointer.startswith("/"):
        raise BadRequest(400, f"a JSON pointer begins with a slash, as /device/id: not {pointer!r}")
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def text_at(value: object, pointer: str) -> str | None:
    """Return that as text: a text as it is, anything else as JSON."""
    found = found_at(value, pointer)
    if found is None or isinstance(found, str):
        return found
    return msgspec.json.encode(found).decode()
