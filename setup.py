"""The parts of the build that cannot be said in pyproject.toml."""

import os
import sysconfig

from setuptools import setup

options: dict[str, dict[str, str]] = {}
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    options["bdist_wheel"] = {"py_limited_api": "cp311"}
if os.environ.get("HSTREAMLITE_SANITIZE"):
    options["build"] = {"build_base": "build/sanitized"}

setup(cffi_modules=["hstreamlite/_native/build.py:ffibuilder"], options=options)
