"""What deploy/compose starts is what there is: its config loads, its files and commands exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from gateway.cli.main import app
from gateway.config.load import load_config

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_the_config_of_the_replicas_loads_and_asks_for_nothing_that_compose_does_not_hand_over(compose):
    environ = dict.fromkeys(compose["x-gateway"]["environment"], "abcdefghijklmnopqrstuvwxyz012345")
    config = load_config(FOLDER / "config.yaml", environ)
    assert config.database.url.get_secret_value().startswith("postgresql://")
    assert {target.split("/")[2] for one in config.upstreams.values() for target in one.targets} == {"personas:9000"}


def test_every_file_and_command_that_is_named_exists(compose):
    for named in compose["configs"].values():
        assert (FOLDER / named["file"]).is_file()
    assert compose["services"]["migrate"]["command"][0] in get_command(app).commands
    module = compose["services"]["personas"]["entrypoint"][2]
    assert importlib.util.find_spec(module) is not None


def test_replicas_start_behind_the_migration_and_have_time_to_drain(compose):
    replicas = [name for name in compose["services"] if name.startswith("gateway-")]
    balanced = re.findall(r"^    server (\S+) (\S+):8080$", (FOLDER / "haproxy.cfg").read_text(), flags=re.MULTILINE)
    assert [(name, name) for name in replicas] == balanced
    config = load_config(FOLDER / "config.yaml", {"POSTGRES_PASSWORD": "x", "GATEWAY_ADMIN_TOKEN": "y" * 32})
    for name in replicas:
        service = compose["services"][name]
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert int(service["stop_grace_period"].rstrip("s")) > config.server.drain_timeout_seconds
