"""Types of JSON payloads: dataclasses, and structs of msgspec, to and from what JSON holds.

What JSON has no word for is text: datetimes, dates and times in ISO 8601, and members of enums are
their values. An abstract collection is read as the plain one of its kind. Where a type is a union
the first member that fits is taken. A struct is msgspec's affair, whose rules then hold for all
within it; msgspec is never imported here, for whoever has such a type has imported it.

The core calls `to_object` for a payload that is neither bytes nor a dict, and `read` for
``record.payload_as``.
"""

from __future__ import annotations

import sys
from collections.abc import (
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set as AbstractSet,
)
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from functools import lru_cache
from inspect import isabstract
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from hstreamlite._native._lib import Record
from hstreamlite.errors import PayloadMismatch

_TIMES: Final = (datetime, date, time)
_PLAIN: Final = (str, int, float, bool, NoneType)
_BYTES: Final = (bytes, bytearray, memoryview)
_MADE: Final[Mapping[Any, Any]] = {
    Iterable: list,
    Collection: list,
    Sequence: list,
    MutableSequence: list,
    AbstractSet: frozenset,
    MutableSet: set,
    Mapping: dict,
    MutableMapping: dict,
}
"""What an abstract collection is read as."""
_FOUND_CHARACTERS = 60


def to_object(value: object) -> dict[str, Any]:
    """Return the JSON object of a dataclass or a struct; TypeError for what JSON cannot hold."""
    found = _to_json(value, type(value).__name__)
    if not isinstance(found, dict):
        raise TypeError(f"a payload must be a JSON object, and {type(value).__name__} is none")
    return found


def _to_json(value: Any, path: str) -> Any:
    if isinstance(value, Enum):
        return _to_json(value.value, path)
    if isinstance(value, _PLAIN):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _to_json(getattr(value, field.name), f"{path}.{field.name}")
            for field in fields(value)
        }
    if hasattr(type(value), "__struct_fields__"):
        return sys.modules["msgspec"].to_builtins(value, str_keys=True)
    if isinstance(value, Mapping):
        return {key: _to_json(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, _BYTES):
        return [_to_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, _TIMES):
        return value.isoformat()
    raise TypeError(f"{path} must be something that JSON can hold, not {type(value).__name__}")


def read(record: Record, kind: Any) -> Any:
    """Return the payload of a record as a value of a type."""
    try:
        return _read(record.payload, kind, "")
    except _Mismatch as found:
        name = str(record.id) if record.id is not None else ""
        raise PayloadMismatch(
            name, _name(kind), found.path.removeprefix("."), found.expected, found.found
        ) from None


class _Mismatch(Exception):
    def __init__(self, path: str, expected: str, value: object) -> None:
        super().__init__()
        self.path = path
        self.expected = expected
        self.found = "nothing" if value is MISSING else _told(value)


def _told(value: object) -> str:
    text = repr(value)
    if len(text) > _FOUND_CHARACTERS:
        text = text[:_FOUND_CHARACTERS] + "..."
    return f"{type(value).__name__} {text}"


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def _read(value: Any, kind: Any, path: str) -> Any:
    """Return a value as one of a type."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _read(value, get_args(kind)[0], path)
    if origin in {Union, UnionType}:
        return _read_union(value, kind, path)
    if origin is Literal:
        return _read_one_of(value, [(option, option) for option in get_args(kind)], kind, path)
    if kind in {Any, object}:
        return value
    if kind is None or kind is NoneType:
        return _checked(value, NoneType, "None", path)
    if hasattr(kind, "__supertype__"):
        return _read(value, kind.__supertype__, path)
    if origin is not None or isinstance(kind, type):
        return _read_class(value, kind, origin or kind, path)
    raise _refused(kind)


def _refused(kind: Any) -> TypeError:
    return TypeError(f"payload_as takes dataclasses and what JSON holds; {kind!r} is neither")


def _read_class(value: Any, kind: Any, base: Any, path: str) -> Any:
    if is_dataclass(base):
        return _read_dataclass(value, base, path)
    if hasattr(base, "__struct_fields__"):
        return _read_struct(value, kind, path)
    if issubclass(base, Enum):
        return _read_one_of(value, [(_to_json(m, str(m)), m) for m in base], kind, path)
    if base in _TIMES:
        return _read_time(value, base, path)
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if base in {*_PLAIN, bytes}:
        return _checked(value, base, base.__name__, path)
    if issubclass(base, tuple) and hasattr(base, "_fields"):
        hints = get_type_hints(base)
        kinds = [hints.get(name, Any) for name in base._fields]
        return base(*_read_tuple(value, kinds, kind, path))
    if issubclass(base, tuple) and get_args(kind)[1:] != (...,) and get_args(kind):
        return _read_tuple(value, get_args(kind), kind, path)
    made = _MADE.get(base, base)
    if issubclass(base, Iterable) and not isabstract(made):
        return _read_collection(value, kind, made, path)
    raise _refused(kind)


def _read_collection(value: Any, kind: Any, made: Any, path: str) -> Any:
    if issubclass(made, Mapping):
        items = _checked(value, dict, _name(kind), path)
        of = (*get_args(kind), Any, Any)[1]
        read = {key: _read(item, of, f"{path}[{key!r}]") for key, item in items.items()}
        return read if made is dict else made(read)
    of = (*get_args(kind), Any)[0]
    found = [
        _read(item, of, f"{path}[{index}]")
        for index, item in enumerate(_checked(value, list, _name(kind), path))
    ]
    return found if made is list else made(found)


def _checked(value: Any, base: type, expected: str, path: str) -> Any:
    if not isinstance(value, base) or (isinstance(value, bool) and base is not bool):
        raise _Mismatch(path, expected, value)
    return value


def _read_union(value: Any, kind: Any, path: str) -> Any:
    options = [option for option in get_args(kind) if option is not NoneType]
    if value is None and len(options) < len(get_args(kind)):
        return None
    if len(options) == 1:
        return _read(value, options[0], path)
    for option in options:
        try:
            return _read(value, option, path)
        except _Mismatch:
            continue
    raise _Mismatch(path, " or ".join(_name(option) for option in get_args(kind)), value)


def _read_one_of(value: Any, options: list[tuple[Any, Any]], kind: Any, path: str) -> Any:
    """Return what is meant by a value, given (value, what it means) of each."""
    for option, meant in options:
        if option == value and isinstance(option, bool) == isinstance(value, bool):
            return meant
    listed = "" if get_origin(kind) else f" ({', '.join(repr(option) for option, _ in options)})"
    raise _Mismatch(path, _name(kind) + listed, value)


def _read_time(value: Any, base: Any, path: str) -> Any:
    expected = f"{base.__name__} in ISO 8601"
    try:
        return base.fromisoformat(_checked(value, str, expected, path))
    except ValueError:
        raise _Mismatch(path, expected, value) from None


def _read_tuple(value: Any, kinds: Sequence[Any], kind: Any, path: str) -> tuple[Any, ...]:
    items = _checked(value, list, _name(kind), path)
    if len(items) != len(kinds):
        raise _Mismatch(path, f"{_name(kind)}, of {len(kinds)} items", value)
    return tuple(
        _read(item, of, f"{path}[{index}]")
        for index, (item, of) in enumerate(zip(items, kinds, strict=True))
    )


def _read_dataclass(value: Any, base: Any, path: str) -> Any:
    """Make one; keys that are no fields are left out, so that those may be added before they are
    read."""
    found = _checked(value, dict, f"a JSON object for {base.__name__}", path)
    arguments = {}
    for field, kind in _fields(base):
        if field.name in found:
            arguments[field.name] = _read(found[field.name], kind, f"{path}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _Mismatch(f"{path}.{field.name}", _name(kind), MISSING)
    return base(**arguments)


@lru_cache(maxsize=1024)
def _fields(base: type) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(base)
    return [(field, hints[field.name]) for field in fields(base) if field.init]


def _read_struct(value: Any, kind: Any, path: str) -> Any:
    msgspec = sys.modules["msgspec"]
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # It ends in the path, as "- at `$.items[0].qty`" does.
        said, _, place = str(error).partition(" - at `$")
        raise _Mismatch(path + place.rstrip("`"), f"{_name(kind)} ({said})", value) from None
