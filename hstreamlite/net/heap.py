"""How the process of a server keeps its memory: what one message took, the next one takes.

glibc gives what large messages took back to the system as soon as they are freed, and each page of
the next one has to be had, cleared, from there again: a quarter of the work of a server that sends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The options of mallopt."""
KEPT_BYTES: Final = 16 << 20
"""Free memory that is kept."""
LARGE_BYTES: Final = 4 << 20
"""What takes more than this has its memory to itself, and gives it back."""
_SETTINGS: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_memory(environment: Mapping[str, str] = os.environ) -> None:
    """Keep what messages take, for the whole process; nothing where the environment says how, or
    where the C library has no such options."""
    tunables = environment.get("GLIBC_TUNABLES", "")
    if "malloc" in tunables or any(name in environment for name in _SETTINGS):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
