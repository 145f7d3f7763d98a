"""The document over HTTP, and a page that shows it and makes calls. The page needs nothing from
elsewhere, and its policy lets it load nothing from there."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import JSON
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.rules import Template


class Viewer:
    """The endpoints of the document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = msgspec.json.encode(document)
        self._page = files(__package__).joinpath("docs.html").read_text(encoding="utf-8")
        inline = [
            _hash(text) for text in re.findall("<script>(.*?)</script>", self._page, re.DOTALL)
        ]
        styles = [_hash(text) for text in re.findall("<style>(.*?)</style>", self._page, re.DOTALL)]
        self._policy = (
            f"default-src 'none'; script-src {' '.join(inline)}; style-src {' '.join(styles)}; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def endpoints(self) -> Iterator[Endpoint]:
        document = Template.parse("/v1/openapi.json")
        told = described.DOCUMENT
        yield Endpoint("GET", document, self.document, told, takes_body=False, is_open=True)
        page = Template.parse("/docs")
        yield Endpoint("GET", page, self.page, takes_body=False, is_open=True)
        top = Template.parse("/")
        yield Endpoint("GET", top, self.top, takes_body=False, is_open=True)

    async def document(self, _request: Request, _variables: Mapping[str, str]) -> ASGIApp:
        return Response(self._document, media_type=JSON)

    async def top(self, _request: Request, _variables: Mapping[str, str]) -> ASGIApp:
        return RedirectResponse("/docs")

    async def page(self, _request: Request, _variables: Mapping[str, str]) -> ASGIApp:
        headers = {"Content-Security-Policy": self._policy, "X-Content-Type-Options": "nosniff"}
        return Response(self._page, headers=headers, media_type="text/html")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
