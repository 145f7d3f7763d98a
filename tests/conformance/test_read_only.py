"""A store opened read-only answers what reads, and refuses with ReadOnly whatever would change it.

The methods of both faces are found by looking, so that a new one has to say what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio

pytestmark = pytest.mark.asyncio

Call = Callable[[Any, Path], Any]

CHANGES: dict[str, Call] = {
    "Store.backup": lambda store, path: store.backup(path / "copy"),
    "Store.compact": lambda store, _: store.compact(),
    "Store.create_stream": lambda store, _: store.create_stream("new"),
    "Store.create_stream there is": lambda store, _: store.create_stream("a", exists_ok=True),
    "Store.create_subscription": lambda store, _: store.create_subscription("new", stream="a"),
    "Store.delete_stream": lambda store, _: store.delete_stream("a", force=True),
    "Store.delete_stream there is not": lambda store, _: store.delete_stream("nothing"),
    "Store.delete_subscription": lambda store, _: store.delete_subscription("s", force=True),
    "Store.transaction": lambda store, _: store.transaction(),
    "Stream.append": lambda store, _: store.stream("a").append(b"x", key="k", durability="memory"),
    "Stream.append_many": lambda store, _: store.stream("a").append_many([b"x"]),
    "Stream.producer": lambda store, _: store.stream("a").producer(),
    "Stream.producer with a name": lambda store, _: store.stream("a").producer(name="p"),
    "Stream.trim": lambda store, _: store.stream("a").trim(before=hs.LATEST),
    "Subscription.consumer": lambda store, _: store.subscription("s").consumer("c"),
    "Subscription.redrive": lambda store, _: store.subscription("s").redrive(),
    "Subscription.skip_damaged": lambda store, _: store.subscription("s").skip_damaged(),
    "Subscription.pause": lambda store, _: store.subscription("s").pause(),
    "Subscription.resume": lambda store, _: store.subscription("s").resume(),
    "Subscription.seek": lambda store, _: store.subscription("s").seek(hs.LATEST),
}
READS: dict[str, Call] = {
    "Store.stats": lambda store, _: store.stats(),
    "Store.stream": lambda store, _: store.stream("a"),
    "Store.streams": lambda store, _: store.streams(),
    "Store.subscription": lambda store, _: store.subscription("s"),
    "Store.subscriptions": lambda store, _: store.subscriptions(),
    "Store.sync": lambda store, _: store.sync(),
    "Stream.info": lambda store, _: store.stream("a").info(),
    "Stream.read": lambda store, _: store.stream("a").read(),
    "Stream.read_batches": lambda store, _: store.stream("a").read_batches(),
    "Stream.tail": lambda store, _: store.stream("a").tail(),
    "Subscription.info": lambda store, _: store.subscription("s").info(),
    "Subscription.lag": lambda store, _: store.subscription("s").lag(),
}
OF_THE_HANDLE = {"Store.close", "Store.tick"}
FACES: dict[str, Any] = {"blocking": hs, "asyncio": aio}


async def answer(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with hs.open(tmp_path / "store") as store:
        store.create_stream("a").append_many([b"1", b"2"])
        store.create_subscription("s", stream="a")
    return tmp_path / "store"


@pytest_asyncio.fixture(params=FACES)
async def store(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Any]:
    opened = await answer(FACES[request.param].open(path, read_only=True))
    yield opened
    await answer(opened.close())


@pytest.mark.parametrize("name", CHANGES)
async def test_whatever_changes_a_store_is_refused(name: str, store: Any, path: Path) -> None:
    before = contents(path.parent)
    with pytest.raises(hs.ReadOnly, match="is open read-only and cannot") as refused:
        await answer(CHANGES[name](store, path.parent))
    assert refused.value.path == store.path
    assert (refused.value.outcome, refused.value.retryable) == ("none", False)
    assert contents(path.parent) == before


@pytest.mark.parametrize("name", READS)
async def test_whatever_reads_is_answered(name: str, store: Any, path: Path) -> None:
    before = contents(path.parent)
    await answer(READS[name](store, path.parent))
    assert contents(path.parent) == before


@pytest.mark.parametrize("name", CHANGES)
async def test_a_closed_store_says_that_it_is_closed(name: str, store: Any, path: Path) -> None:
    await answer(store.close())
    with pytest.raises(hs.StoreClosed):
        await answer(CHANGES[name](store, path.parent))


@pytest.mark.parametrize("face", FACES)
async def test_every_method_is_known_to_change_or_to_read(face: str) -> None:
    module = FACES[face]
    methods = {
        f"{noun}.{name}"
        for noun in ("Store", "Stream", "Subscription")
        for name, member in inspect.getmembers(getattr(module, noun), inspect.isfunction)
        if not name.startswith("_")
    }
    tried = {name.split()[0] for name in [*CHANGES, *READS]} | OF_THE_HANDLE
    assert methods <= tried


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", ["create", "read_only", "accept_damage"])
@pytest.mark.parametrize("value", ["yes", "", 1, 0, [True]])
async def test_what_is_no_bool_opens_nothing(
    face: str, name: str, value: object, path: Path
) -> None:
    before = contents(path.parent)
    with pytest.raises(TypeError, match=f"{name} must be a bool, not {type(value).__name__}"):
        await answer(FACES[face].open(path, **{name: value}))
    assert contents(path.parent) == before


@pytest.mark.parametrize("face", FACES)
async def test_a_reader_that_is_to_create_is_refused(face: str, path: Path, tmp_path: Path) -> None:
    for target in (path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="create=True and read_only=True exclude each other"):
            await answer(FACES[face].open(target, read_only=True, create=True))
    assert not (tmp_path / "absent").exists()
    with pytest.raises(hs.NotAStore, match="does not exist"):
        await answer(FACES[face].open(tmp_path / "absent", read_only=True, create=False))
    assert not (tmp_path / "absent").exists()
