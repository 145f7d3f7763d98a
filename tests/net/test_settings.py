"""Settings: one definition, three sources, and errors that say where."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hstreamlite.net.access.token import Tokens, hash_of, new_token
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.main import main
from hstreamlite.net.settings import BadSetting, Given, as_toml, load, parsed, settings

SAMPLES = {
    "delivery": "shared",
    "log_level": "error",
    "log_format": "json",
    "store_config.durability": "memory",
    "listeners": '[{group = "lan", host = "127.0.0.1", port = 7000}]',
    "grants": '[{role = "billing", actions = ["read"], streams = ["orders"]}]',
    "store_config.segment_bytes_max": "1073741824",
    "store_config.transaction_bytes_max": "16777216",
    "tokens": f'[{{role = "billing", hash = "{hash_of("t" * 40)}"}}]',
    "store_config.stage_bytes": "33554432",
    "store_config.frame_bytes": "2097152",
}
NEEDED = {"tls.certificate": "c.pem", "tls.key": "k.pem"}


def sample(key: str) -> str:
    """Return a value of a setting that is not its default, as TOML without quotes writes it."""
    setting = settings()[key]
    default: Any = setting.default
    if key in SAMPLES:
        return SAMPLES[key]
    if setting.type is bool:
        return "false" if default else "true"
    if setting.type is int or setting.type == (int | None):
        return str((default or 6000) + 1)
    if setting.type is float:
        return str(default * 0.5)
    if setting.type == tuple[str, ...]:
        return '["https://a.example"]'
    return "127.0.0.2" if "host" in key else "text"


def value(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def quoted(key: str) -> str:
    setting = settings()[key]
    text = sample(key)
    return f'"{text}"' if isinstance(parsed(setting, text, ""), str) else text


@pytest.mark.parametrize("key", settings())
def test_every_setting_is_taken_from_file_environment_and_flags(key: str, tmp_path: Path) -> None:
    setting = settings()[key]
    text, written = sample(key), quoted(key)
    base = {"store": Given("s", "test")} if key != "store" else {}
    if key.startswith("tls."):
        base |= {each: Given(text, "test") for each, text in NEEDED.items() if each != key}
    file = tmp_path / "server.toml"
    *above, last = setting.path
    file.write_text((f"[{'.'.join(above)}]\n" if above else "") + f"{last} = {written}\n")
    by_file, given, _ = load(str(file), {}, base)
    by_variable, _, notes = load(None, {setting.variable: text}, base)
    flag = {setting.key: Given(parsed(setting, text, ""), setting.flag)}
    by_flag, _, _ = load(None, {}, base | flag)
    assert not notes
    assert "line" in given[key].origin
    found = [value(config, key) for config in (by_file, by_variable, by_flag)]
    assert found[0] == found[1] == found[2]
    assert found[0] != setting.default


def test_names_of_settings_are_told_apart_everywhere() -> None:
    every = settings().values()
    assert len({setting.variable for setting in every}) == len(settings())
    assert len({setting.flag for setting in every}) == len(settings())
    assert {setting.path[0] for setting in every} == {each.name for each in fields(ServerConfig)}


def test_flags_go_before_the_environment_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('store = "f"\nport = 1\nnode_id = 1\nhost = "127.0.0.9"\n')
    environment = {"HSTREAMLITE_PORT": "2", "HSTREAMLITE_NODE_ID": "2", "HSTREAMLITE_STORE": ""}
    environment.pop("HSTREAMLITE_STORE")
    config, given, _ = load(str(file), environment, {"port": Given(3, "--port")})
    assert (config.port, config.node_id, config.host, config.store) == (3, 2, "127.0.0.9", "f")
    assert given["port"].origin == "--port"
    assert given["node_id"].origin == "environment variable HSTREAMLITE_NODE_ID"
    assert given["host"].origin == f"{file}, line 4"
    again, _, _ = load(None, environment | {"HSTREAMLITE_CONFIG": str(file)}, {})
    assert again.host == "127.0.0.9"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 'x'", "server.toml, line 2: port: Expected `int`, got `str`"),
        ("\nport = 70000", "server.toml, line 3: port must be from 0 to 65535, not 70000"),
        ("prot = 1", "server.toml, line 2: there is no setting 'prot'; 'port' may be meant"),
        ("[rest]\nheartbeet = 1", "line 3: there is no setting 'rest.heartbeet'; 'rest.heartbeat'"),
        ("[rset]\nheartbeat = 1", "line 3: there is no setting 'rset.heartbeat'"),
        ("[nothing]", "line 2: there is no setting 'nothing'"),
        ("rest = 1", "line 2: there is no setting 'rest'"),
        ("[port]\nport = 1", "line 2: port: Expected `int`, got `object`"),
        ("[rest]\nheartbeat = 0", "line 3: heartbeat must be from 0.001 to 3600 seconds, not 0"),
        ("delivery = 'random'", "line 2: delivery: Invalid enum value 'random'"),
        ("grants = [{role = 'a', acts = ['read']}]", "line 2: grants have no 'acts'; 'actions'"),
        ("[[grants]]\nrole = 'a'\nactions = ['x']", "line 2: actions of a grant must be of read"),
        ("[[grants]]\nrole = 'a'\nactions = ['read', 1]", r"got `int` at grants\[0\].actions\[1\]"),
        ("[tls]\nkey = 'k'", "line 3: tls.certificate is missing"),
        ("port = ", "server.toml is no TOML: Invalid value .at line 2"),
        ("host = '0.0.0.0'", "line 2: host 0.0.0.0 can be reached from other machines"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(
    text: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'store = "s"\n{text}\n')
    with pytest.raises(BadSetting, match=told):
        load(str(file), {}, {})


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("PORT", "x", "variable HSTREAMLITE_PORT: port 'x' is no whole number"),
        ("PORT", "1.5", "variable HSTREAMLITE_PORT: port: Expected `int`, got `float`"),
        ("UNIX_SOCKET", "yes", "HSTREAMLITE_UNIX_SOCKET: unix_socket 'yes' is no true or false"),
        ("GRANTS", "[", "HSTREAMLITE_GRANTS: grants .* is no list as TOML writes it"),
        ("REST_HEARTBEAT", "-1", "HSTREAMLITE_REST_HEARTBEAT: heartbeat must be from"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_with_its_name(
    name: str, text: str, told: str
) -> None:
    with pytest.raises(BadSetting, match=told):
        load(None, {f"HSTREAMLITE_{name}": text, "HSTREAMLITE_STORE": "s"}, {})


def test_a_variable_that_is_no_setting_is_told_of_and_does_no_harm() -> None:
    environment = {"HSTREAMLITE_PROT": "1", "HSTREAMLITE_LONG": "1", "HSTREAMLITE_STORE": "s"}
    _, _, notes = load(None, environment, {})
    assert notes == ["the variable HSTREAMLITE_PROT is no setting; 'HSTREAMLITE_PORT' may be meant"]


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be read: No such file"):
        load(str(tmp_path / "none"), {}, {})
    (tmp_path / "bytes").write_bytes(b"a = '\xff'")
    with pytest.raises(BadSetting, match="no UTF-8"):
        load(str(tmp_path / "bytes"), {}, {})
    with pytest.raises(BadSetting, match="no store is named: give --store"):
        load(None, {}, {})


@given(st.data())
def test_what_is_printed_says_the_same_when_it_is_read(data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([key for key in settings() if key != "tokens"])))
    if any(key.startswith("tls.") for key in chosen):
        chosen |= set(NEEDED)
    flags = {
        key: Given(parsed(settings()[key], sample(key), ""), "--flag") for key in chosen | {"store"}
    }
    config, given, _ = load(None, {}, flags)
    path = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"printed-{os.getpid()}.toml"
    path.write_text("\n".join(as_toml(config, given)))
    try:
        assert load(str(path), {}, {})[0] == config
    finally:
        path.unlink()


def test_neither_print_nor_error_shows_a_token_or_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, _ = new_token()
    text = hash_of(token)
    file = tmp_path / "server.toml"
    file.write_text(f'store = "s"\n[[tokens]]\nrole = "billing"\nhash = "{text}"\n')
    assert main(["--config", str(file), "--print-config"]) == 0
    said = capsys.readouterr()
    assert 'role = "billing"' in said.out
    for wrong in (f'hash = "{token}"', f'secret = "{token}"', f'hash = ["{token}"]'):
        file.write_text(f'store = "s"\n[[tokens]]\nrole = "billing"\n{wrong}\n')
        assert main(["--config", str(file)]) == 2
    assert main(["--store", "s", "--tokens", f"[{token}"]) == 2
    assert main(["--store", "s", "--tokens", f'["{token}"]']) == 2
    said_then = capsys.readouterr()
    everything = said.out + said.err + said_then.out + said_then.err
    assert token not in everything
    assert text.split(":")[2] not in everything
    assert "line 2" in everything


def test_flags_of_addresses_are_settings_too(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            *("--store", "s", "--advertise", "here:1", "--listener", "lan=127.0.0.1:2,there:3"),
            *("--no-unix-socket", "--http-port", "0", "--print-config"),
        ]
    )
    assert code == 0
    out = capsys.readouterr().out
    assert 'advertised_host = "here"  # --advertise' in out
    assert "unix_socket = false  # --unix-socket" in out
    assert '[[listeners]]  # --listener\ngroup = "lan"\nhost = "127.0.0.1"\nport = 2' in out
    assert 'advertised_host = "there"\nadvertised_port = 3' in out


def test_help_tells_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(setting.flag in out for setting in settings().values())


@pytest.mark.parametrize("user", [None, "ada"])
def test_a_new_token_is_shown_once_and_its_hash_goes_into_the_file(
    user: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--new-token", "billing", *(["--user", user] if user else [])]) == 0
    said = capsys.readouterr()
    secret = said.err.split()[1 if user is None else 3]
    token = secret if user is None else b64encode(f"{user}:{secret}".encode()).decode()
    assert secret not in said.out
    file = tmp_path / "server.toml"
    file.write_text(f'store = "s"\n{said.out}')
    config, _, _ = load(str(file), {}, {})
    [known] = config.tokens
    assert Tokens([(known.role, known.hash)]).role_of(token) == "billing"
    assert main(["--new-token", ""]) == 2
    assert main(["--new-token", "a", "--user", "a:b"]) == 2


@pytest.mark.parametrize("form", ["json", "console"])
def test_logs_are_lines_with_their_facts(form: str) -> None:
    program = (
        "import logging; from hstreamlite.net.logs import configure; "
        f"configure('warning', '{form}'); log = logging.getLogger('hstreamlite.server'); "
        "from hstreamlite.net.asked import ASKED, Asked; "
        "headers = [('authorization', 'hidden'), ('x-request-id', 'abc-1')]; "
        "ASKED.set(Asked(lambda: headers)); "
        "log.info('quiet'); log.warning('disk %s', 'full')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    [line] = done.stderr.splitlines()
    assert "disk full" in line
    assert "abc-1" in line
    assert "hidden" not in line
    if form == "json":
        found = json.loads(line)
        assert (found["event"], found["level"]) == ("disk full", "warning")
        assert found["logger"] == "hstreamlite.server"
        assert found["request_id"] == "abc-1"
