"""A directory that appears under its name only when it is whole.

It is built beside its place as `<name>.partial`, locked against a second builder, synced, and
renamed. What a killed process left there stays, and is named to the next one that builds: nobody
can tell it from what a user keeps under that name.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hstreamlite.env import Env, LockHeld
from hstreamlite.errors import StorageFull, StoreLocked


@contextmanager
def building(env: Env, target: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give the path to build at, and what to call when all in it is written and synced.

    FileExistsError where the target is anything but an empty directory, or where something lies in
    the place it is built at; StoreLocked while another builds there; StorageFull where the device
    is full. Whatever is raised inside leaves nothing.
    """
    _must_be_free(env, target)
    try:
        with _locked(env, f"{target}.partial") as partial:
            done = False

            def finish() -> None:
                nonlocal done
                env.files.sync_dir(partial)
                env.files.rename(partial, target)
                done = True
                env.files.sync_dir(parent(target))

            try:
                env.files.mkdir(f"{partial}/segments")
                yield partial, finish
            finally:
                if not done:
                    with suppress(OSError):
                        _clear(env, partial)
                        env.files.unlink(partial)
    except OSError as error:
        if error.errno == errno.ENOSPC and not isinstance(error, StorageFull):
            raise StorageFull(target) from error
        raise


@contextmanager
def _locked(env: Env, path: str) -> Iterator[str]:
    if env.files.exists(path):
        owner = env.files.lock_holder(f"{path}/LOCK")
        if owner is not None:
            raise StoreLocked(path, owner)
        text = "something is there, perhaps of a build that was killed; remove it and try again"
        raise FileExistsError(errno.EEXIST, text, path)
    env.files.mkdir(path)
    try:
        lock = env.files.lock(f"{path}/LOCK")
    except LockHeld as error:
        raise StoreLocked(path, error.owner_pid) from None
    except OSError:
        with suppress(OSError):
            _clear(env, path)
            env.files.unlink(path)
        raise
    try:
        yield path
    finally:
        env.files.close(lock)


def parent(path: str) -> str:
    head, _, _ = path.rstrip("/").rpartition("/")
    return head or ("/" if path.startswith("/") else ".")


def _must_be_free(env: Env, target: str) -> None:
    try:
        names = env.files.listdir(target)
    except FileNotFoundError:
        return
    if names:
        raise FileExistsError(errno.EEXIST, "the directory is not empty", target)


def _clear(env: Env, path: str) -> None:
    """Remove what this process wrote there."""
    files = env.files
    for name in files.listdir(path):
        if name == "segments":
            for segment in files.listdir(f"{path}/segments"):
                files.unlink(f"{path}/segments/{segment}")
        files.unlink(f"{path}/{name}")
