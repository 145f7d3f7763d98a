"""Settings of a server from a file, the environment and flags, all three made of `ServerConfig`.

A setting is a field, and a field of a field: ``rest.heartbeat`` stands in the file under
``[rest]``, in the environment as ``HSTREAMLITE_REST_HEARTBEAT``, among the flags as
``--rest-heartbeat``. Flags go before the environment, that before the file, that before the
defaults. What is wrong is told with the place where it stands.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hstreamlite.net import needs
from hstreamlite.net.config import ServerConfig

try:
    import msgspec
except ModuleNotFoundError as error:
    raise needs("server", error) from error

PREFIX = "HSTREAMLITE_"
OTHERS = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("CONFIG", "COMPLETE", "SERVICE_URL", "TOKEN", "SERVICE_URL", "TOKEN"),
        *("BUILD", "COVERAGE", "LONG", "PORTABLE", "REQUIRE_ROOT", "SANITIZE"),
    )
)
"""Variables of this name that mean something else: to other commands, and to the tests."""
FILE_BYTES_MAX = 1 << 20


class BadSetting(ValueError):
    """A setting is unknown, or has a value that it cannot have."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: where it belongs, what it may be, what it means."""

    path: tuple[str, ...]
    type: Any
    default: object
    text: str

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return PREFIX + "_".join(self.path).upper()

    @property
    def flag(self) -> str:
        return "--" + "-".join(self.path).replace("_", "-")


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and where it comes from."""

    value: object
    origin: str


@cache
def settings() -> Mapping[str, Setting]:
    """Return every setting by its key, in the order of the fields."""
    return {setting.key: setting for setting in _settings(ServerConfig, ())}


def _settings(cls: type, above: tuple[str, ...]) -> Iterator[Setting]:
    types, texts = _types(cls), _texts(cls)
    for field in fields(cls):
        path = (*above, field.name)
        inner = _table(types[field.name])
        if inner is not None:
            yield from _settings(inner, path)
        else:
            yield Setting(path, types[field.name], _default(field), texts.get(field.name, ""))


@cache
def _types(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


def _table(kind: Any) -> type | None:
    """Return the dataclass that a field holds one of, None for any other kind of field."""
    if is_dataclass(kind):
        return kind if isinstance(kind, type) else None
    if get_origin(kind) in {Union, UnionType}:
        inner = [each for each in get_args(kind) if is_dataclass(each)]
        return inner[0] if inner and isinstance(inner[0], type) else None
    return None


def _default(field: Field[Any]) -> object:
    return None if field.default is MISSING else field.default


def _texts(cls: type) -> dict[str, str]:
    """Return what stands below each field."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def load(
    file: str | None, environment: Mapping[str, str], flags: Mapping[str, Given]
) -> tuple[ServerConfig, Mapping[str, Given], list[str]]:
    """Return the configuration, what was given for it, and what to tell the user about it.

    ``flags`` are by key. BadSetting if something is wrong.
    """
    file = file or environment.get(f"{PREFIX}CONFIG") or None
    given: dict[str, Given] = {}
    if file is not None:
        given |= _from_file(file)
    found, notes = _from_environment(environment)
    given |= found
    given |= flags
    typed = {key: Given(_typed(settings()[key], each), each.origin) for key, each in given.items()}
    if "store" not in typed:
        raise BadSetting(
            f"no store is named: give --store PATH, {PREFIX}STORE, or store in the file of --config"
        )
    return _made(typed), typed, notes


def _from_file(path: str) -> dict[str, Given]:
    try:
        raw = Path(path).read_bytes()[:FILE_BYTES_MAX]
        text = raw.decode()
        tables = tomllib.loads(text)
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadSetting(f"{path} is no TOML: byte {error.start} is no UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{path} is no TOML: {error}") from None
    found: dict[str, Given] = {}
    for keys, value in _leaves(tables, ()):
        key, line = ".".join(keys), _line(text, keys)
        origin = f"{path}, line {line}" if line else path
        if key not in settings():
            raise BadSetting(f"{origin}: there is no setting {key!r}{_meant(key, settings())}")
        found[key] = Given(value, origin)
    return found


def _leaves(
    table: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        path = (*above, name)
        if isinstance(value, dict) and ".".join(path) not in settings():
            yield from _leaves(value, path)
            if not value and not any(key.startswith(f"{name}.") for key in settings()):
                yield path, value
        else:
            yield path, value


def _line(text: str, path: tuple[str, ...]) -> int:
    """Return the number of the line that sets a key, 0 where that cannot be told."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([\w.\"' -]+?)\s*\]\]?", line):
            table = tuple(part.strip(" \"'") for part in header[1].split("."))
            if table == path:
                return number
        elif setting := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            key = (*table, *(part.strip(" \"'") for part in setting[1].split(".")))
            if key == path or key == path[: len(key)]:
                return number
    return 0


def _meant(word: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(word, known, 1)
    return f"; {close[0]!r} may be meant" if close else "; see `hstreamlite server --help`"


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """Return what is set there, and what looks like a setting but is none."""
    known = {setting.variable: setting for setting in settings().values()}
    found: dict[str, Given] = {}
    notes = []
    for name, text in environment.items():
        setting = known.get(name)
        if setting is not None:
            origin = f"environment variable {name}"
            found[setting.key] = Given(parsed(setting, text, origin), origin)
        elif name.startswith(PREFIX) and name not in OTHERS:
            notes.append(f"the variable {name} is no setting{_meant(name, known)}")
    return found, notes


def parsed(setting: Setting, text: str, origin: str) -> object:
    """Return the value that a text stands for: itself where texts are wanted, else TOML."""
    if setting.type is str or setting.type == (str | None) or _is_choice(setting.type):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise BadSetting(f"{origin}: {_shown(setting, text)} is no {_wanted(setting)}") from None


def _is_choice(kind: Any) -> bool:
    return bool(get_args(kind)) and all(isinstance(each, str) for each in get_args(kind))


def _wanted(setting: Setting) -> str:
    if get_origin(setting.type) is tuple:
        return "list as TOML writes it"
    kinds = [each.__name__ for each in get_args(setting.type) or (setting.type,) if each]
    names = {"int": "whole number", "float": "number", "bool": "true or false"}
    return " or ".join(names.get(kind, kind) for kind in kinds if kind != "NoneType")


def _shown(setting: Setting, value: object) -> str:
    """Return a value as a message may hold it: none that a secret may be part of."""
    return (
        f"{setting.key} {value!r:.80}" if setting.path[0] != "tokens" else f"what {setting.key} is"
    )


def _typed(setting: Setting, given: Given) -> object:
    kind = setting.type
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
        _check_keys(setting, given, get_args(kind)[0])
    try:
        return msgspec.convert(given.value, kind)
    except msgspec.ValidationError as error:
        told = re.sub(r" - at `\$(.*)`$", lambda match: f" at {setting.key}{match[1]}", str(error))
        shown = told if setting.key in told else f"{setting.key}: {told}"
        raise BadSetting(f"{given.origin}: {shown}") from None


def _check_keys(setting: Setting, given: Given, cls: type) -> None:
    known = {field.name: field for field in fields(cls)}
    entries = given.value if isinstance(given.value, list | tuple) else ()
    for entry in entries:
        for name in entry if isinstance(entry, dict) else ():
            if name not in known:
                raise BadSetting(
                    f"{given.origin}: {setting.key} have no {name!r}{_meant(name, known)}"
                )


def _made(given: Mapping[str, Given]) -> ServerConfig:
    try:
        config: ServerConfig = _built(ServerConfig, (), given)
    except (ValueError, TypeError) as error:
        named = [
            each.origin
            for key, each in given.items()
            if re.search(rf"\b{re.escape(settings()[key].path[-1])}\b", str(error))
        ]
        # Several: which of them is wrong only their reader can tell.
        where = " and ".join(dict.fromkeys(named))
        raise BadSetting(f"{where}: {error}" if where else str(error)) from None
    return config


def _built(cls: type, above: tuple[str, ...], given: Mapping[str, Given]) -> Any:
    types, values = _types(cls), {}
    for field in fields(cls):
        path = (*above, field.name)
        key = ".".join(path)
        inner = _table(types[field.name])
        if inner is None:
            if key in given:
                values[field.name] = given[key].value
        elif any(each.startswith(f"{key}.") for each in given):
            values[field.name] = _built(inner, path, given)
    missing = [
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    ]
    for name in missing:
        if name not in values:
            wanted = ".".join((*above, name))
            raise ValueError(f"{wanted} is missing beside {', '.join(values)}")
    return cls(**values)


def as_toml(config: ServerConfig, given: Mapping[str, Given]) -> Iterator[str]:
    """Yield the lines of a file that says the same, with where each value comes from.

    Hashes of tokens are left out.
    """
    table: tuple[str, ...] = ()
    later: list[tuple[Setting, Any]] = []
    for setting in sorted(settings().values(), key=lambda each: each.path[:-1]):
        value = _value(config, setting.path)
        if value and isinstance(value, tuple) and is_dataclass(value[0]):
            later.append((setting, value))
            continue
        if setting.path[:-1] != table:
            table = setting.path[:-1]
            yield f"\n[{'.'.join(table)}]"
        origin = given[setting.key].origin if setting.key in given else "default"
        name = setting.path[-1]
        yield f"# {name} is not set" if value is None else f"{name} = {_toml(value)}  # {origin}"
    for setting, entries in later:
        for entry in entries:
            yield f"\n[[{setting.key}]]  # {given[setting.key].origin}"
            for field in fields(entry):
                each = getattr(entry, field.name)
                if not field.repr:
                    yield f"# {field.name} is not shown"
                elif each is not None:
                    yield f"{field.name} = {_toml(each)}"


def _value(config: object, path: tuple[str, ...]) -> Any:
    for name in path:
        config = None if config is None else getattr(config, name)
    return config


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return json.dumps(value)
