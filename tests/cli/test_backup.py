"""`hstreamlite backup`: of a directory, and of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.cli.exits import Exit
from hstreamlite.net.server import Server
from tests.cli.person import Person
from tests.conformance.faces import server_loop
from tests.net.wire import config


@pytest.fixture
def filled(orders: Person) -> Person:
    orders.prints("stream", "append", "orders", given=b"a\nb\n")
    return orders


def payloads(path: Path) -> list[object]:
    with hs.open(path, read_only=True) as copy:
        return [record.payload for record in copy.stream("orders").read()]


def test_a_directory_is_copied(filled: Person, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert filled.json("backup", str(copy)) == {"path": str(copy)}
    assert payloads(copy) == filled.payloads()
    assert filled.prints("backup", "--no-json", f"{copy}2") == f"Backed up to {copy}2\n".encode()
    code, said = filled.fails("backup", str(copy))
    assert (code, said) == (
        Exit.REFUSED,
        f"hstreamlite backup: {copy}: the directory is not empty; choose another name",
    )
    assert filled.fails("backup", str(filled.path / "in"))[0] == Exit.USAGE
    assert filled.fails("backup", str(tmp_path / "no" / "where"))[0] == Exit.UNREACHABLE
    assert filled.fails("backup")[0] == Exit.USAGE
    with hs.open(filled.path):
        assert filled.fails("backup", f"{copy}3")[0] == Exit.UNREACHABLE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy2", "store"]


@pytest.fixture
def served(filled: Person, tmp_path: Path) -> Iterator[Person]:
    place = tmp_path / "backups"
    place.mkdir()
    server = Server(config(tmp_path, backup_dir=str(place)))
    server_loop().run(server.start)
    try:
        yield Person(filled.path, filled.out, f"hstream://{server.address}")
    finally:
        server_loop().run(server.stop)


@pytest.mark.unsanitized("gRPC's own core is no build of ours")
def test_a_server_copies_its_store(served: Person, tmp_path: Path) -> None:
    copy = tmp_path / "backups" / "monday"
    assert served.json("backup", "monday") == {"path": str(copy)}
    assert payloads(copy) == [b"a", b"b"]
    code, said = served.fails("backup", "monday")
    assert code == Exit.REFUSED
    assert said.endswith("monday is there; choose another name, or remove that.")
    assert served.fails("backup", "../monday")[0] == Exit.USAGE
    directly = Person(served.path, served.out)
    assert "--service-url unix:" in directly.fails("backup", str(tmp_path / "x"))[1]
