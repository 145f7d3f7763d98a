"""``python -m hstreamlite server``: a server as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hstreamlite.errors import HStreamError
from hstreamlite.net.config import CannotListen, ServerConfig
from hstreamlite.net.heap import keep_memory
from hstreamlite.net.systemd import notify

if TYPE_CHECKING:
    from hstreamlite.net.server import Server
    from hstreamlite.net.settings import Given

STOPPED, USAGE, CANNOT_START = 0, 2, 3

_EXIT_CODES = """\
exit codes:
  0  stopped by SIGTERM or SIGINT: calls were finished, the store is closed
  2  wrong usage: nothing was done
  3  cannot start: no store, in use, no permission, disk full, address taken
"""


def main(arguments: Sequence[str]) -> int:
    """Run a server until a signal stops it, and return the exit code of the process."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # each handshake that fails makes lines else
    try:
        from hstreamlite.net.settings import BadSetting, as_toml, load
    except ImportError as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return CANNOT_START

    try:
        options = vars(_parser().parse_args(arguments))
        if "new_token" in options:
            return _new_token(options["new_token"], options.get("user"))
        file, shown = options.pop("config", None), options.pop("print_config", False)
        config, given, notes = load(file, os.environ, _flags(options))
    except SystemExit as stop:
        return int(stop.code or 0)
    except BadSetting as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return USAGE
    for note in notes:
        print(f"hstreamlite server: {note}", file=sys.stderr)
    if shown:
        print("\n".join(as_toml(config, given)))
        return STOPPED
    try:
        from hstreamlite.net.logs import configure
    except ImportError as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return CANNOT_START
    configure(config.log_level, config.log_format)
    return serve(config)


def _new_token(role: str, user: str | None) -> int:
    from hstreamlite.net.access.config import TokenConfig
    from hstreamlite.net.access.token import hash_of, new_token

    try:
        token, secret = new_token(user)
        made = TokenConfig(role=role, hash=hash_of(token))
    except ValueError as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return USAGE
    told = f"token: {token}" if user is None else f"user: {user}, password: {secret}"
    print(f"{told}  (shown only now)", file=sys.stderr)
    print(f"[[tokens]]\nrole = {json.dumps(made.role)}\nhash = {json.dumps(made.hash)}")
    return STOPPED


def serve(config: ServerConfig) -> int:
    """Run a server until SIGTERM or SIGINT, and return the exit code of the process."""
    try:
        from hstreamlite.net.server import Server
    except ImportError as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return CANNOT_START

    keep_memory()
    try:
        asyncio.run(_run(Server(config)))
    except (_CannotStart, ValueError) as error:
        print(f"hstreamlite server: {error}", file=sys.stderr)
        return CANNOT_START
    return STOPPED


class _CannotStart(Exception):
    pass


async def _run(server: Server) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.begin_stop)
    try:
        await server.start()
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise _CannotStart(
            f"The store {server.config.store} cannot be used: {why}. It has to be a directory "
            f"that user {os.getuid()} can read and write, on a disk that takes files."
        ) from error
    except (HStreamError, CannotListen, ValueError) as error:
        raise _CannotStart(str(error)) from error
    try:
        where = f"{server.address} (store {server.node.store.path})"
        if server.node.http_address is not None:
            host, port = server.node.http_address
            where += f", HTTP at {host}:{port}"
        print(f"hstreamlite server ready at {where}", flush=True)
        notify("READY=1", f"STATUS=Serving at {where}")
        await server.wait()
        notify("STOPPING=1", "STATUS=Finishing calls")
    finally:
        await server.stop()


def _parser() -> argparse.ArgumentParser:
    from hstreamlite.net.settings import PREFIX, settings

    parser = argparse.ArgumentParser(
        prog="hstreamlite server",
        usage="hstreamlite server --store PATH [--config FILE] [setting ...]",
        description="Serve a store to the clients of HStreamDB and to hstreamlite.connect. Every "
        f"setting is also one of the file, and one of the environment: --port is {PREFIX}PORT, "
        "--rest-heartbeat is heartbeat in the file's table rest.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="settings in a TOML file; flags and environment go first")
    add("--print-config", action="store_true", help="print all settings and where they come from")
    add(
        "--new-token",
        metavar="ROLE",
        help="make a token that gives a role: it is shown on stderr and kept nowhere; what belongs "
        "into the file of settings is printed on stdout",
    )
    add("--user", help="make that token one of a user's name and a password, as browsers send")
    add("--advertise", metavar="HOST[:PORT]", help="what clients are told to dial")
    add(
        "--listener",
        action="append",
        metavar="GROUP=HOST:PORT[,HOST[:PORT]]",
        help="a further address to listen on, and what those who come in by it are told to dial",
    )
    groups = {}
    for setting in settings().values():
        table = ".".join(setting.path[:-1])
        if table not in groups:
            groups[table] = parser.add_argument_group(
                f"settings of {table}" if table else "settings"
            )
        told = f" ({setting.default})" if setting.default not in {None, "", ()} else ""
        groups[table].add_argument(
            setting.flag,
            dest=setting.key,
            help=f"{setting.text}{told}".replace("%", "%%"),
            **(
                {"action": argparse.BooleanOptionalAction}
                if setting.type is bool
                else {"metavar": setting.path[-1].upper()}
            ),
        )
    return parser


def _flags(options: Mapping[str, Any]) -> dict[str, Given]:
    from hstreamlite.net.settings import BadSetting, Given, parsed, settings

    found: dict[str, Given] = {}
    try:
        if "advertise" in options:
            host, port = _address(options["advertise"])
            found["advertised_host"] = Given(host, "--advertise")
            if port is not None:
                found["advertised_port"] = Given(port, "--advertise")
        if "listener" in options:
            listeners = [_listener(text) for text in options["listener"]]
            found["listeners"] = Given(listeners, "--listener")
    except ValueError as error:
        raise BadSetting(str(error)) from None
    for key, value in options.items():
        setting = settings().get(key)
        if setting is not None:
            text = isinstance(value, str)
            given = parsed(setting, value, setting.flag) if text else value
            found[key] = Given(given, setting.flag)
    return found


def _address(text: str) -> tuple[str, int | None]:
    """Split ``host:port``, ``host``, ``[v6]:port`` or ``[v6]``."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), None
    if not port.isdecimal():
        raise ValueError(f"{text!r} is no address: give HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def _listener(text: str) -> dict[str, object]:
    group, equals, addresses = text.partition("=")
    own, _, advertised = addresses.partition(",")
    host, port = _address(own)
    if not equals or port is None:
        raise ValueError(f"{text!r} is no --listener: give GROUP=HOST:PORT[,HOST[:PORT]]")
    told_host, told_port = _address(advertised) if advertised else (None, None)
    listener = {"group": group, "host": host, "port": port}
    return listener | {"advertised_host": told_host, "advertised_port": told_port}
