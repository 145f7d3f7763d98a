"""The native core: loads the extension module and installs its fast functions."""

from . import _lib
from ._lib import ffi, lib

if lib.hsl_module_install(ffi.cast("void *", id(_lib))) != 0:  # not reached: lacks memory
    raise ImportError("hstreamlite: the native core could not be initialised")

fast = _lib

__all__ = ["fast", "ffi", "lib"]
