"""The build backend: setuptools, plus a C compiler where the machine has none.

The native core is the only implementation of the engine, so a build cannot go on without a
compiler. Where none is found, the build asks for ``ziglang``, a C compiler that pip can install,
and builds with that. Everything else is passed on to setuptools.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

Settings = dict[str, Any] | None

USUAL_COMPILERS = ("cc", "gcc", "clang")


def _found(command: str) -> bool:
    words = shlex.split(command)
    return bool(words) and shutil.which(words[0]) is not None


def _compiler() -> str | None:
    """Return the command of the machine's C compiler, or None."""
    asked = os.environ.get("CC")
    if asked:
        return asked
    candidates = (sysconfig.get_config_var("CC") or "", *USUAL_COMPILERS)
    return next((command for command in candidates if _found(command)), None)


def _requires(given: list[str]) -> list[str]:
    return given if _compiler() else [*given, "ziglang>=0.13"]


def _prepare() -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if os.name == "posix" and not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SystemExit(
            f"hstreamlite: the headers of Python {version} are missing ({header}); "
            f"install them (Debian and Ubuntu: apt install python{version}-dev)."
        )
    command = _compiler()
    if command is None:
        command = f"{shlex.quote(sys.executable)} -m ziglang cc -mcpu=baseline"
        os.environ["LDSHARED"] = f"{command} -shared"
    elif command == sysconfig.get_config_var("CC"):
        return
    os.environ["CC"] = command


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return _requires(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return _requires(build_meta.get_requires_for_build_editable(config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    _prepare()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    _prepare()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
