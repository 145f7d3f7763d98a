"""Who takes part: hstreamlite, then every installed rival."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from benchmarks import rivals
from benchmarks.rivals import Opener
from benchmarks.subject import NAME, HStreamLog


def contenders() -> tuple[dict[str, Opener], dict[str, str]]:
    """Return the openers by name, ours first, and the versions of the packages."""
    openers, versions = rivals.openers()
    return {NAME: HStreamLog, **openers}, {NAME: version(), **versions}


def version() -> str:
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "source tree"


def chosen(openers: Mapping[str, Opener], names: str | None) -> dict[str, Opener]:
    """Return ours and those of a comma-separated list of rivals; ValueError for an unknown one."""
    if names is None:
        return dict(openers)
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in openers:
            raise ValueError(f"no rival {name!r}; there are {', '.join(list(openers)[1:])}")
    return {name: openers[name] for name in openers if name == NAME or name in wanted}
