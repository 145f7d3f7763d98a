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
def building(env: Env, target: str, store: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give the path to build at, and what to call when all in it is written and synced.

    ValueError where that is not apart from the store it is made of; FileExistsError where the
    target is anything but an empty directory, or where something lies in the place it is built at;
    FileNotFoundError where its parent is missing; StoreLocked while another builds there;
    StorageFull where the device is full. Whatever is raised inside leaves nothing.
    """
    check_target(env, target, store)
    files, partial = env.files, f"{target}.partial"
    _must_not_be_there(env, partial)
    lock, ours, done = None, True, False

    def finish() -> None:
        nonlocal done
        files.sync_dir(partial)
        files.rename(partial, target)
        done = True
        files.sync_dir(parent(target))

    # All in one `try`, for an interrupt may come behind any call that made something.
    try:
        try:
            files.mkdir(partial)
            lock = files.lock(f"{partial}/LOCK")
        except FileExistsError:
            ours = False
            raise
        except LockHeld as error:
            ours = False
            raise StoreLocked(partial, error.owner_pid) from None
        files.mkdir(f"{partial}/segments")
        yield partial, finish
    except OSError as error:
        if error.errno == errno.ENOSPC and not isinstance(error, StorageFull):
            raise StorageFull(target) from error
        raise
    finally:
        if ours and not done:
            with suppress(OSError):
                _clear(env, partial)
                files.unlink(partial)
        if lock is not None:
            files.close(lock)


def _must_not_be_there(env: Env, path: str) -> None:
    if not env.files.exists(path):
        return
    owner = None
    with suppress(NotADirectoryError):
        owner = env.files.lock_holder(f"{path}/LOCK")
    if owner is not None:
        raise StoreLocked(path, owner)
    text = "something is there, perhaps of a build that was killed; remove it and try again"
    raise FileExistsError(errno.EEXIST, text, path)


def parent(path: str) -> str:
    head, _, _ = path.rstrip("/").rpartition("/")
    return head or ("/" if path.startswith("/") else ".")


def check_target(env: Env, target: str, store: str) -> None:
    """Refuse a target, as `building` does, before any work is done for it."""
    check_apart(env, target, store)
    _must_be_free(env, target)


def check_apart(env: Env, target: str, store: str) -> None:
    """Raise ValueError where the target, or what it is built as, would share files with the store.

    Links lead where they lead: what counts is the place.
    """
    place, of_store = _place(env, target), f"{env.files.resolve(store).rstrip('/')}/"
    if f"{place}/".startswith(of_store):
        raise ValueError(f"{target!r} lies inside the store at {store!r}; give a place outside")
    if of_store.startswith(f"{place}.partial/"):
        raise ValueError(
            f"{target!r} would be built at {place}.partial, where the store itself is; "
            "give another name"
        )


def _place(env: Env, target: str) -> str:
    """Return the target without links on the way to it; its own name may be one."""
    return f"{env.files.resolve(parent(target)).rstrip('/')}/{target.rpartition('/')[2]}"


def _must_be_free(env: Env, target: str) -> None:
    files = env.files
    if not files.exists(parent(target)):
        text = "there is no such directory to make the new one in; make it first"
        raise FileNotFoundError(errno.ENOENT, text, parent(target))
    if files.resolve(target) != _place(env, target):
        text = "it is a link; name the directory that it leads to, or another"
        raise FileExistsError(errno.EEXIST, text, target)
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
