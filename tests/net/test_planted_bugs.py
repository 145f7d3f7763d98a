"""Bugs planted in a copy of the tree, in remote stores and what serves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.log.plot import Bug, Objects, verdict

LEASES = "tests/net/test_remote_leases.py"
REMOTE = "tests/net/test_remote.py"
UNNAMED = "tests/net/test_unnamed_producers.py"

BUGS = {
    "keep a consumer that nobody can close": Bug(
        "remote/attachment.py",
        "        self._hear = WeakMethod(hear, self._note_lost)\n",
        "        self._hear = lambda: hear\n",
        "tests/conformance/test_dropped.py",
        "dropped_consumer_held and shared and remote",
        remote=True,
    ),
    "let anybody take the place of a consumer": Bug(
        "net/v1/consuming.py",
        "attach.session and before.token == attach.session",
        "attach.session",
        LEASES,
        "nobody_else",
        remote=True,
    ),
    "let nobody come back to its own place": Bug(
        "net/v1/consuming.py",
        "attach.session and before.token == attach.session",
        "not attach.session",
        LEASES,
        "former_self",
        remote=True,
    ),
    "forget who could not say that it leaves": Bug(
        "remote/attachment.py",
        "        if self._is_there:\n",
        "        if False:\n",
        LEASES,
        "could_not_say",
        remote=True,
    ),
    "give up the connection of all for one call": Bug(
        "remote/attachment.py",
        "                    self._outgoing = connection = None\n",
        "                    self.link.lost(connection)\n"
        "                    self._outgoing = connection = None\n",
        LEASES,
        "wait_goes_on",
        remote=True,
    ),
    "tell who waits that a lease ran out": Bug(
        "net/v1/consuming.py",
        "                self._answers.put_nowait(None)\n            return\n",
        "                reply.failure = failure_of(ConsumerClosed('', ''))\n",
        LEASES,
        "wait_goes_on",
        remote=True,
    ),
    "dial the path of a socket as it is": Bug(
        "remote/address.py",
        "{quote_from_bytes(path)}",
        "{os.fsdecode(path)}",
        REMOTE,
        "test_addresses",
        remote=True,
    ),
    "leave the handle of a directory open": Bug(
        "remote/address.py",
        "            os.close(handle)\n",
        "            pass\n",
        REMOTE,
        "any_directory",
        remote=True,
    ),
    "let a connection that was given up cancel who reads on it": Bug(
        "remote/link.py",
        "            # Another call broke, and with it the connection was given up.\n"
        '            raise Broken("was given up", sent=True) from None\n',
        "            raise\n",
        "tests/net/test_remote_restarts.py",
        "after_a_restart",
        remote=True,
    ),
    "take a producer for idle whose other call goes on": Bug(
        "net/unnamed.py",
        "        if not self._calls[key]:\n",
        "        if True:\n",
        UNNAMED,
        "not_idle",
        remote=True,
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    code, said = verdict(BUGS[name], tmp_path, Objects(tmp_path / "objects"))
    assert code == pytest.ExitCode.TESTS_FAILED, f"not caught: {said[-2500:]}"
