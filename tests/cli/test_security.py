"""Commands at servers that ask who is there: TLS, certificates and tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hstreamlite.net.access.config import ACTIONS, GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.server import Server
from tests.cli.person import Person
from tests.cli.test_server import BENCH, RECORDS
from tests.net.access.certificates import Certificates

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")


@pytest.mark.asyncio
async def test_certificates_and_tokens_are_shown(tmp_path: Path, person: Person) -> None:
    certificates = Certificates(tmp_path)
    token, _ = new_token()
    config = ServerConfig(
        store=str(tmp_path / "store"),
        port=0,
        tls=certificates.config(mutual=True),
        tokens=(TokenConfig(role="boss", hash=hash_of(token)),),
        grants=(GrantConfig(role="boss", actions=ACTIONS, streams=("",)),),
    )
    certificate, key = certificates.issue("x.example", name="nobody", common_name="nobody")
    shown = ("--tls-ca", str(tmp_path / "authority.pem"), "--tls-cert", str(certificate))
    shown += ("--tls-key", str(key), "--retry-timeout", "60s")
    async with Server(config) as server:
        person.url = f"hstreams://{server.address}"

        async def fails(*words: str) -> int:
            code, printed = await asyncio.to_thread(person.types, *words)
            assert printed == b""
            # In a process where gRPC runs already, its core says something of its own before.
            assert person.said.splitlines()[-1].startswith("hstreamlite ")
            assert token not in person.said
            return code

        found = await asyncio.to_thread(
            person.lines, "bench", "write", *BENCH, *shown, "--token", token
        )
        assert found[-1]["write"]["records"] == RECORDS
        assert (await asyncio.to_thread(person.json, "node", "list", *shown, "--token", token))[0]
        assert await fails("bench", "write", *BENCH, *shown) == 1
        assert await fails("bench", "write", *BENCH, *shown, "--token", "x" * 40) == 1
        assert await fails("node", "list", "--retry-timeout", "200ms") == 3
        assert await fails("node", "list", "--tls-ca", "nowhere.pem", "--token", token) == 3
        boss = (*shown, "--token", token)
        made = await asyncio.to_thread(person.json, "stream", "create", "orders", *boss)
        assert made["name"] == "orders"
        statement = "SELECT name FROM streams"
        assert await asyncio.to_thread(
            person.json, "sql", "--stats", statement, *shown, "--token", token
        ) == [{"name": "orders"}]
        assert await fails("sql", "--stats", statement, *shown) == 1
        assert await fails("stream", "create", "other", *shown) == 1
        assert await fails("stream", "list", "--token", token) == 3
        person.url = f"hstream://{server.address}"
        assert await fails("node", "list", "--token", token, "--retry-timeout", "200ms") == 3
