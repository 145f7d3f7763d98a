"""Messages of the protocol as JSON, and from JSON, path and query of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hstreamlite.net.rest.answers import BadRequest
from hstreamlite.net.rest.rules import Rule, field_at, is_map

_SCALARS_AS_TEXT = frozenset(
    ["google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"]
)


def to_json(message: Message) -> bytes:
    """Return a message as JSON, with the fields that have their default, too."""
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return msgspec.json.encode(value)


def from_parts(
    rule: Rule, variables: Mapping[str, str], query: Iterable[tuple[str, str]], body: Any
) -> Message:
    """Return the request that path, query and body make together; 400 where they make none."""
    kind = rule.rpc.input_type
    tree: dict[str, Any] = {}
    if rule.body == "*":
        if not isinstance(body, dict):
            raise BadRequest(400, f"the body must be a JSON object: a {kind.name}")
        tree = body
    elif rule.body:
        tree = {field_at(kind, rule.body).json_name: body}
    try:
        for name, text in variables.items():
            _put(tree, kind, name, text)
        _put_query(tree, rule, query)
        return parsed(kind, tree)
    except ValueError as error:
        raise BadRequest(400, str(error)) from None


def parsed(kind: Descriptor, tree: dict[str, Any]) -> Message:
    """Return a message made of decoded JSON; ValueError saying what does not fit."""
    message = GetMessageClass(kind)()
    try:
        return json_format.ParseDict(tree, message)
    except (json_format.ParseError, UnicodeEncodeError) as error:
        raise ValueError(f"this is no {kind.name}: {error}") from None
    except RecursionError:
        raise ValueError(f"this is no {kind.name}: it is nested too deep") from None


def _put_query(tree: dict[str, Any], rule: Rule, query: Iterable[tuple[str, str]]) -> None:
    kind = rule.rpc.input_type
    taken = {name.split(".")[0] for name in (*rule.template.names, rule.body)}
    seen = set()
    for name, text in query:
        if rule.body == "*":
            raise ValueError(f"there is no parameter {name!r}: all but the path is in the body")
        field = field_at(kind, name)
        if name.split(".")[0] in taken:
            raise ValueError(f"{name!r} is given elsewhere in the request")
        if name in seen and not field.is_repeated:
            raise ValueError(f"{name!r} is given twice")
        seen.add(name)
        _put(tree, kind, name, text)


def _put(tree: dict[str, Any], kind: Descriptor, path: str, text: str) -> None:
    """Put the value of a field, as the text of a path or a query has it, into the JSON."""
    field = field_at(kind, path)
    if is_map(field) or (
        field.message_type is not None and field.message_type.full_name not in _SCALARS_AS_TEXT
    ):
        raise ValueError(f"{path!r} is no single value; give its fields, as {path}.field")
    for name in path.split(".")[:-1]:
        above = field_at(kind, name)
        tree = tree.setdefault(above.json_name, {})
        assert above.message_type is not None
        kind = above.message_type
        if not isinstance(tree, dict):
            raise ValueError(f"{path!r} is given twice")  # noqa: TRY004 - by a client
    if field.is_repeated:
        tree.setdefault(field.json_name, []).append(_value(field, text))
    else:
        tree[field.json_name] = _value(field, text)


def _value(field: FieldDescriptor, text: str) -> object:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in {"true", "false"}:
            raise ValueError(f"{field.name!r} must be true or false, not {text!r}")
        return text == "true"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and text.isdecimal():
        return int(text[:12])
    return text
