"""Who types commands, about one store."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite import cli

Capture = pytest.CaptureFixture[bytes]


class Person:
    """Runs commands in this process."""

    def __init__(self, path: Path, out: Capture, url: str = "") -> None:
        self.path = path
        self.url = url
        self.out = out
        self.said = ""

    def types(self, *words: str, given: bytes = b"") -> tuple[int, bytes]:
        """Return exit code and what was printed; what was said on standard error is kept."""
        where = ["--service-url", self.url] if self.url else ["--store", str(self.path)]
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(given))
        try:
            code = cli.main([*where, *words])
        finally:
            sys.stdin = before
        printed, said = self.out.readouterr()
        self.said = said.decode().strip()
        return code, printed

    def prints(self, *words: str, given: bytes = b"") -> bytes:
        code, printed = self.types(*words, given=given)
        assert code == 0, self.said
        return printed

    def json(self, *words: str, given: bytes = b"") -> Any:
        return json.loads(self.prints(*words, given=given))

    def lines(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.prints(*words).splitlines()]

    def fails(self, *words: str, given: bytes = b"") -> tuple[int, str]:
        """Return exit code and the one line that says why; nothing was printed beside it."""
        code, printed = self.types(*words, given=given)
        assert code != 0, printed
        assert printed == b""
        assert self.said.startswith("hstreamlite"), self.said
        assert len(self.said.splitlines()) == 1, self.said
        return code, self.said

    def records(self, stream: str = "orders") -> list[hs.Record]:
        with hs.open(self.path, read_only=True) as store:
            return list(store.stream(stream).read())

    def payloads(self, stream: str = "orders") -> list[object]:
        return [record.payload for record in self.records(stream)]
