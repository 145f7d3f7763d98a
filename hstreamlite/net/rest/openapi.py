"""The OpenAPI document: made of the descriptors whose rules are served, and of what the other
endpoints say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from hstreamlite import __version__
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import EVENTS, JSON, LINES
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.rules import Rule, field_at, is_map

Schema = dict[str, Any]

_F = FieldDescriptor
_UNSIGNED_64 = {_F.TYPE_UINT64, _F.TYPE_FIXED64}
_SIGNED_64 = {_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64}
_SIGNED_32 = {_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32}
_UNSIGNED_32 = {_F.TYPE_UINT32, _F.TYPE_FIXED32}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Empty": {"type": "object"},
}
_QUERY_DEPTH = 4
"""Messages within messages whose fields a query is told to take."""
_ERROR: Schema = {
    "type": "object",
    "required": ["error", "message", "extra"],
    "properties": {
        "error": {"type": "integer", "description": "Number of an ErrorCode, 0 where none fits."},
        "message": {"type": "string"},
        "extra": {"description": "What it is about, as a name or a size; or null."},
    },
}


class Document:
    """A document in the making."""

    def __init__(self) -> None:
        self._schemas: dict[str, Any] = {**described.SCHEMAS, "Error": _ERROR}
        self._paths: dict[str, dict[str, Any]] = {}

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            names = [_parameter(name, {"type": "string"}) for name in endpoint.template.names]
            operation = dict(endpoint.operation)
            operation["parameters"] = [*names, *operation.get("parameters", ())]
            self._put(endpoint.template.text, endpoint.method, operation)

    def add_rule(self, rule: Rule, name: str) -> None:
        """Add a call of the protocol by one of its rules; ``name`` is that of the operation."""
        kind = rule.rpc.input_type
        parameters = [
            _parameter(each, self._field(field_at(kind, each))) for each in rule.template.names
        ]
        parameters += self._queried(rule.parameters)
        operation: dict[str, Any] = {
            "tags": [_tag(rule.template.text)],
            "operationId": name,
            "summary": rule.rpc.name,
            "description": f"The call {rule.rpc.full_name} of the protocol.",
            "parameters": parameters,
            "responses": {
                "200": {"description": "Done.", "content": self._answer(rule)},
                "default": {"$ref": "#/components/responses/Error"},
            },
        }
        if rule.body:
            schema = (
                self._whole(rule) if rule.body == "*" else self._field(field_at(kind, rule.body))
            )
            content = LINES if rule.rpc.client_streaming else JSON
            operation["requestBody"] = {"content": {content: {"schema": schema}}}
        self._put(rule.template.text, rule.method, operation)

    def finished(self) -> dict[str, Any]:
        tags = sorted(
            {tag for path in self._paths.values() for op in path.values() for tag in op["tags"]}
        )
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "hstreamlite",
                "version": __version__,
                "description": "Streams of durable records. Numbers of 64 bits are texts.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{}, {"token": []}],
            "tags": [{"name": tag} for tag in tags],
            "paths": dict(sorted(self._paths.items())),
            "components": {
                "schemas": dict(sorted(self._schemas.items())),
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
                "responses": {
                    "Error": {
                        "description": "Nothing was done, unless the message says otherwise.",
                        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
                    }
                },
            },
        }

    def _put(self, path: str, method: str, operation: dict[str, Any]) -> None:
        self._paths.setdefault(path, {})[method.lower()] = operation

    def _answer(self, rule: Rule) -> dict[str, Any]:
        schema = self._message(rule.rpc.output_type)
        if not rule.rpc.server_streaming:
            return {JSON: {"schema": schema}}
        return {LINES: {"schema": schema}, EVENTS: {"schema": {"type": "string"}}}

    def _queried(self, fields: Iterable[FieldDescriptor], above: str = "") -> list[Schema]:
        """Return parameters for fields, and for the fields of messages among them."""
        found = []
        for field in fields:
            name = above + field.json_name
            kind = field.message_type
            if is_map(field) or (kind is not None and field.is_repeated):
                continue
            if kind is not None and kind.full_name not in _WELL_KNOWN:
                if above.count(".") < _QUERY_DEPTH:
                    found += self._queried(kind.fields, f"{name}.")
                continue
            found.append({"name": name, "in": "query", "schema": self._field(field)})
        return found

    def _whole(self, rule: Rule) -> Schema:
        """Return the schema of a body that is the request, but for what is in the path."""
        kind = rule.rpc.input_type
        if not rule.template.names:
            return self._message(kind)
        left = [field for field in kind.fields if field.name not in rule.template.names]
        properties = {field.json_name: self._field(field) for field in left}
        return {"type": "object", "properties": properties}

    def _message(self, kind: Descriptor) -> Schema:
        known = _WELL_KNOWN.get(kind.full_name)
        if known is not None:
            return dict(known)
        name = _name(kind)
        if name not in self._schemas:
            self._schemas[name] = schema = {"type": "object"}
            properties = {field.json_name: self._field(field) for field in kind.fields}
            if properties:
                schema |= {"properties": properties}  # type: ignore[dict-item]
            several = [group for group in kind.oneofs if len(group.fields) > 1]
            if several:
                limits = [_at_most_one(group.fields) for group in several]
                schema |= {"allOf": limits}  # type: ignore[dict-item]
        return {"$ref": f"#/components/schemas/{name}"}

    def _enum(self, kind: EnumDescriptor) -> Schema:
        name = _name(kind)
        self._schemas.setdefault(name, {"enum": [value.name for value in kind.values]})
        return {"$ref": f"#/components/schemas/{name}"}

    def _field(self, field: FieldDescriptor) -> Schema:
        if is_map(field):
            assert field.message_type is not None
            values = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._single(values)}
        if field.is_repeated:
            return {"type": "array", "items": self._single(field)}
        return self._single(field)

    def _single(self, field: FieldDescriptor) -> Schema:
        kind = field.type
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if kind == _F.TYPE_BOOL:
            return {"type": "boolean"}
        if kind == _F.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64", "format": "byte"}
        if kind in _UNSIGNED_64:
            return {"type": "string", "pattern": "^[0-9]{1,20}$"}
        if kind in _SIGNED_64:
            return {"type": "string", "pattern": "^-?[0-9]{1,19}$"}
        if kind in _SIGNED_32:
            return {
                "type": "integer",
                "format": "int32",
                "minimum": -(1 << 31),
                "maximum": (1 << 31) - 1,
            }
        if kind in _UNSIGNED_32:
            return {"type": "integer", "format": "int64", "minimum": 0, "maximum": (1 << 32) - 1}
        if kind in {_F.TYPE_DOUBLE, _F.TYPE_FLOAT}:
            return {"type": "number"}
        return {"type": "string"}


def _at_most_one(fields: Iterable[FieldDescriptor]) -> Schema:
    names = [field.json_name for field in fields]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {"not": {"anyOf": [{"required": list(pair)} for pair in pairs]}}


def _name(kind: Descriptor | EnumDescriptor) -> str:
    """Return the name of a schema: nested ones behind what they are in, other packages' in full."""
    package = f"{kind.file.package}."
    if package == "hstream.server.":
        return kind.full_name.removeprefix(package)
    return kind.full_name


def _parameter(name: str, schema: Mapping[str, Any]) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": dict(schema)}


def _tag(path: str) -> str:
    """Return what a path is about: its first segment below the version."""
    return path.split("/")[2].split(":", maxsplit=1)[0].capitalize()
