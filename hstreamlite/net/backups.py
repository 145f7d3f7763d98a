"""Copies of a server's store: one at a time, each whole or not there, below one directory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from hstreamlite.aio import Store
from hstreamlite.aio.bell import in_thread
from hstreamlite.aio.tasks import look_at
from hstreamlite.errors import BackupRefused, HStreamError, StorageUnavailable, StoreClosed
from hstreamlite.store import real_path
from hstreamlite.tools.target import check_apart

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_UNFINISHED = ".partial"
_TOLD_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Step:
    """How far a backup has come, in bytes; each is written and read again. ``path``: at its end,
    where it is."""

    done: int = 0
    total: int = 0
    path: str = ""


class _GivenUp(Exception):
    """Nobody waits for the backup any more."""


class _Making:
    """The backup that is being made."""

    def __init__(self, name: str, target: str, store: Store) -> None:
        self.name = name
        self.given_up = False
        self.step = Step()
        self.task = asyncio.ensure_future(self._make(target, store))

    async def _make(self, target: str, store: Store) -> None:
        if await in_thread(store._engine.env.files.exists, target):
            why = f"{target} is there; choose another name, or remove that"
            raise BackupRefused(self.name, why)
        await store.backup(target, progress=self._told)

    def _told(self, done: int, total: int) -> None:
        if self.given_up:
            raise _GivenUp
        self.step = Step(done, total)

    async def end(self) -> None:
        """Give it up, and return when nothing of it is left. One that is whole stays."""
        self.given_up = True
        await asyncio.wait([self.task])


class Backups:
    """Makes them for the clients of one server. Belongs to its loop."""

    def __init__(self, directory: str | None, store: Store) -> None:
        """ValueError where copies would lie in the store."""
        self._store = store
        self._directory = None if directory is None else real_path(directory)
        self._making: _Making | None = None
        if self._directory is not None:
            check_apart(store._engine.env, f"{self._directory}/copy", store.path)

    async def make(self, name: str) -> AsyncGenerator[Step, None]:
        """Copy the store, yielding how far that is; the last step has the path of the copy.

        Who closes this gives the backup up, and nothing is left of it. ValueError, BackupRefused,
        CorruptionError, StorageFull and StorageUnavailable leave nothing either.
        """
        target = self._target(name)
        if self._making is not None:
            why = f"{self._making.name!r} is being made; try again when that is done"
            raise BackupRefused(name, why, retryable=True)
        making = self._making = _Making(name, target, self._store)
        making.task.add_done_callback(self._ended)
        try:
            while not await self._is_done(making):
                yield making.step
            self._check(making, target)
            yield replace(making.step, done=making.step.total, path=target)
        finally:
            await making.end()

    async def _is_done(self, making: _Making) -> bool:
        """Wait for the end a while: what is refused is so before any step is told."""
        done, _ = await asyncio.wait([making.task], timeout=_TOLD_SECONDS)
        return bool(done)

    def _target(self, name: str) -> str:
        if not _NAME.fullmatch(name) or name.endswith(_UNFINISHED):
            raise ValueError(
                "the name of a backup must be 1 to 200 letters, digits, '.', '-' and '_', begin "
                f"with a letter or a digit, and not end in {_UNFINISHED}, not {name!r}"
            )
        if self._directory is None:
            why = "its setting backup_dir says no place; set it, and start the server again"
            raise BackupRefused(name, why)
        return f"{self._directory}/{name}"

    def _check(self, making: _Making, target: str) -> None:
        """Raise what the backup failed with, as a client can be told it."""
        error = making.task.exception()
        if isinstance(error, _GivenUp):
            raise StoreClosed(self._store.path) from None
        if isinstance(error, FileExistsError):
            why = f"{error.filename}: {error.strerror}; choose another name, or remove that"
            raise BackupRefused(making.name, why) from error
        if isinstance(error, OSError) and not isinstance(error, HStreamError):
            raise StorageUnavailable(target, error) from error
        if error is not None:
            raise error

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._making = None
        look_at(task)

    async def end(self) -> None:
        """Return when no backup is being made: the store may be closed."""
        if self._making is not None:
            await self._making.end()
