"""What was logged of what a test is about."""

from __future__ import annotations

import logging

import pytest

_OF_ANY_TEST = ("Task was destroyed but it is pending", "Task exception was never retrieved")


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged, without what asyncio tells whenever it finds it out.

    All event loops of a process that use gRPC wait for its news at one socket, and each but the
    fastest fails to read it (grpc/grpc#25364); a task that an earlier test left is told of when it
    is collected.
    """
    return [record for record in caplog.records if not _is_of_any_test(record)]


def _is_of_any_test(record: logging.LogRecord) -> bool:
    if record.name != "asyncio":
        return False
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, BlockingIOError) or record.getMessage().startswith(_OF_ANY_TEST)
