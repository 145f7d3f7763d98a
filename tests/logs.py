"""What was logged of what a test is about."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

import hstreamlite as hs

_WHENEVER_FOUND_OUT = (
    "Task was destroyed but it is pending",
    "Task exception was never retrieved",
)
_OURS = (f"{Path(hs.__file__).parent}/", f"{Path(__file__).parent}/")


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged, without what asyncio tells of other people's code, whenever it finds
    that out.

    All event loops of a process that use gRPC wait for its news at one socket, and each but the
    fastest fails to read it (grpc/grpc#25364); and gRPC leaves tasks behind, of calls of earlier
    tests, that are told of when they are collected.
    """
    return [record for record in caplog.records if not _is_of_others(record)]


def _is_of_others(record: logging.LogRecord) -> bool:
    """Tell by the places in the traceback, and in what the message says of a task."""
    error = record.exc_info[1] if record.exc_info else None
    text = record.getMessage()
    if record.name != "asyncio" or not (
        isinstance(error, BlockingIOError) or text.startswith(_WHENEVER_FOUND_OUT)
    ):
        return False
    text += "".join(traceback.format_exception(error))
    return not any(place in text for place in _OURS)
