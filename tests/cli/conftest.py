from pathlib import Path

import pytest

from tests.cli.person import Person


@pytest.fixture
def person(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Person:
    return Person(tmp_path / "store", capfdbinary)


@pytest.fixture
def orders(person: Person) -> Person:
    person.json("stream", "create", "orders")
    return person
