"""What lies in deploy/ is made of settings that exist. No image is built, no unit started."""

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path
from shutil import which

import pytest

from hstreamlite.net.main import _parser
from hstreamlite.net.settings import load, settings

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_variables_are_settings(path: Path) -> None:
    known = {setting.variable for setting in settings().values()}
    assert set(re.findall(r"HSTREAMLITE_[A-Z_]+", path.read_text(encoding="utf-8"))) <= known


def test_the_example_of_settings_is_taken() -> None:
    config, given, _ = load(str(DEPLOY / "server.toml"), {}, {})
    assert config.tls is not None
    assert not config.insecure_plaintext
    assert [grant.role for grant in config.grants] == ["billing", "prometheus"]
    assert all("server.toml, line" in each.origin for each in given.values())


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "hstreamlite.service", encoding="utf-8")
    return parser


def test_the_unit_runs_the_server_with_flags_that_it_has() -> None:
    program, command, *flags = shlex.split(unit()["Service"]["ExecStart"])
    assert (Path(program).name, command) == ("hstreamlite", "server")
    options = _parser().parse_args(flags)
    assert options.config == "/etc/hstreamlite/server.toml"
    assert unit()["Service"]["Type"] == "notify"


@pytest.mark.skipif(which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "hstreamlite.service").read_text(encoding="utf-8")
    program = which("true") or os.devnull
    copy = tmp_path / "hstreamlite.service"
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    about_it = [line for line in done.stderr.splitlines() if "hstreamlite.service" in line]
    assert not about_it


def test_compose_and_image_agree() -> None:
    yaml = pytest.importorskip("yaml")
    [service] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))[
        "services"
    ].values()
    image = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    [exposed] = re.findall(r"^EXPOSE (.+)$", image, re.MULTILINE)
    inside = [port.rpartition(":")[2] for port in service["ports"]]
    assert inside == exposed.split()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    config, _, notes = load(None, service["environment"] | {"HSTREAMLITE_STORE": "/data/store"}, {})
    assert (config.host, config.http_port, notes) == ("0.0.0.0", 6580, [])
    assert service["build"]["dockerfile"] == "deploy/Dockerfile"
