"""Calls struck by what a signal's handler raises.

A profile function raises where CPython runs such handlers: when a function begins, and when one of
C returned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


class Struck(BaseException):
    """What the handler raises."""


def struck(at: int, work: Callable[[], Any], files: Collection[str]) -> bool:
    """Do the work with an interrupt at the n-th call in these; whether there were so many."""
    left = at

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in {"call", "c_return"} and frame.f_code.co_filename in files:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Struck

    sys.setprofile(profile)
    try:
        work()
    except Struck:
        return True
    finally:
        sys.setprofile(None)
    return not left
