"""The native core: loads the extension module and installs its fast functions."""

try:
    from . import _lib
except ImportError as error:
    raise ImportError(
        f"hstreamlite: there is no working core in {__path__[0]!r}; in a clone, run "
        "`pip install -e .`, or start Python in another directory to use an installed package"
    ) from error
from ._lib import ffi, lib

if lib.hsl_module_install(ffi.cast("void *", id(_lib))) != 0:  # not reached: lacks memory
    raise ImportError("hstreamlite: the native core could not be initialised")

fast = _lib

__all__ = ["fast", "ffi", "lib"]
