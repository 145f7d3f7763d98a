"""The parts of the build that cannot be said in pyproject.toml."""

import os
import sysconfig

from setuptools import setup

options: dict[str, dict[str, str]] = {}
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    options["bdist_wheel"] = {"py_limited_api": "cp311"}
if os.environ.get("HSTREAMLITE_BUILD"):
    options["build"] = {"build_base": os.environ["HSTREAMLITE_BUILD"]}

setup(cffi_modules=["hstreamlite/_native/build.py:ffibuilder"], options=options)
