"""HTTP rules: which method and path stands for which call, read from a service's descriptor.

A rule is a `google.api.http` option. Of its templates we have what ours need: literal segments,
`{field}` for one segment, and a verb behind a colon at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A path with variables, matched against the path as it was sent: a variable may hold any
    text, with its slashes escaped."""

    text: str
    names: tuple[str, ...]
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Template:
        parts = _VARIABLE.split(text)
        if not text.startswith("/") or any(set(part) & set("{}*=") for part in parts[::2]):
            raise ValueError(f"{text!r} is no path whose variables are single segments")
        names = tuple(parts[1::2])
        pattern = "".join(
            "([^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
        )
        return cls(text, names, re.compile(pattern))

    def match(self, path: str) -> dict[str, str] | None:
        """Return the variables of an escaped path; ValueError where one is no UTF-8."""
        found = self.pattern.fullmatch(path)
        if found is None:
            return None
        try:
            values = [unquote(value, errors="strict") for value in found.groups()]
        except UnicodeDecodeError:
            raise ValueError(f"the path {path!r} holds an escape that is no UTF-8") from None
        return dict(zip(self.names, values, strict=True))

    @property
    def rank(self) -> tuple[bool, int, int]:
        """What is more exact comes first: verbs, then literal segments."""
        verb = ":" in self.text.rsplit("/", 1)[1]
        return (not verb, len(self.names), -len(self.text))


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to make a call: ``body`` is "*" for the whole request, the name of a field of it,
    or empty."""

    rpc: MethodDescriptor
    method: str
    template: Template
    body: str

    @property
    def parameters(self) -> list[FieldDescriptor]:
        """What comes with the query: the fields of the request that are nowhere else."""
        if self.body == "*":
            return []
        taken = {*self.template.names, self.body}
        return [field for field in self.rpc.input_type.fields if field.name not in taken]


def rules_of(service: ServiceDescriptor) -> Iterator[Rule]:
    """Yield the rules of a service's methods, each method's first one first."""
    for rpc in service.methods:
        options = rpc.GetOptions()
        if options.HasExtension(annotations_pb2.http):
            option = options.Extensions[annotations_pb2.http]
            for each in (option, *option.additional_bindings):
                yield _rule(rpc, each)


def _rule(rpc: MethodDescriptor, option: http_pb2.HttpRule) -> Rule:
    verb = option.WhichOneof("pattern")
    if verb not in {"get", "put", "post", "delete", "patch"}:
        raise ValueError(f"{rpc.full_name} has an HTTP rule without a method")
    template = Template.parse(getattr(option, verb))
    for name in template.names:
        field_at(rpc.input_type, name)
    if option.body not in {"", "*"}:
        field_at(rpc.input_type, option.body)
    return Rule(rpc, verb.upper(), template, option.body)


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    """Return the field at a dotted path; ValueError where there is none."""
    *above, last = path.split(".")
    for name in above:
        field = _field(message, name, path)
        if field.message_type is None or field.is_repeated or is_map(field):
            raise ValueError(f"{path!r} leads through {name!r}, which is no single message")
        message = field.message_type
    return _field(message, last, path)


def _field(message: Descriptor, name: str, path: str) -> FieldDescriptor:
    field = message.fields_by_name.get(name) or message.fields_by_camelcase_name.get(name)
    if field is None:
        known = ", ".join(each.name for each in message.fields) or "none"
        raise ValueError(f"there is no {path!r} in {message.name}; its fields are: {known}")
    return field


def is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
