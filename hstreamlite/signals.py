"""How a process may end, so that its stores are closed: by a signal, or by running out of code.

Ctrl-C needs nothing: Python raises KeyboardInterrupt in the main thread, and every wait of this
library lets it through. SIGTERM ends a process on the spot unless it is caught. A store that is not
closed loses nothing durable; closing also writes what is staged below that level, and the newest
acks, and spares the next open its scan.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
from collections.abc import Callable
from threading import Timer, get_ident
from types import FrameType

from hstreamlite.errors import HStreamError

log = logging.getLogger("hstreamlite")

_AGAIN_SECONDS = 0.01

_open: dict[Callable[[], None], None] = {}


def exit_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit(143) in the main thread, where this is called.

    So `with` blocks are left, and stores closed, as at any other exit. A further SIGTERM is
    ignored: it would interrupt just that. Where the signal strikes in a destructor, of which
    Python ignores what it raises, it strikes once more (`sys.unraisablehook` is set for that, and
    passes on all else).
    """
    signal.signal(signal.SIGTERM, _end)
    if sys.unraisablehook is not _Lost.hook:
        _Lost.others, sys.unraisablehook = sys.unraisablehook, _Lost.hook


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - given to every handler
    signal.signal(number, signal.SIG_IGN)
    raise _Exit(128 + number)


class _Exit(SystemExit):
    """One that is known again where it was lost."""


class _Lost:
    """Who hears of exceptions that nobody can catch."""

    others: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook

    @staticmethod
    def hook(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, _Exit):
            _Lost.others(lost)
            return
        signal.signal(signal.SIGTERM, _end)
        # Raised in here it would be lost again.
        again = Timer(_AGAIN_SECONDS, signal.pthread_kill, (get_ident(), signal.SIGTERM))
        again.daemon = True
        again.start()


def close_at_exit(close: Callable[[], None]) -> None:
    """Call this when the interpreter ends, the last one first, unless `closed` comes before.

    It keeps the store until then: its own threads go on, whoever may have forgotten it.
    """
    _open[close] = None


def closed(close: Callable[[], None]) -> None:
    _open.pop(close, None)


@atexit.register
def _close_all() -> None:
    for close in reversed(list(_open)):
        try:
            close()
        except HStreamError as error:
            log.warning("closing at exit: %s", error)
