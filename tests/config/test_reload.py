"""A config read again: what is seen to be different, what may be taken, and what the log may say of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.difference import LIVE, differences
from gateway.config.load import parse_config
from gateway.config.masking import MASK, masked, secrets_of
from gateway.config.reload import Outcome, Proposal, Reloader
from gateway.config.source import ConfigSource
from gateway.config.tree import Config, Section, TelemetrySection

CONFIG = """\
identity: {admin_token: "the-first-token"}
upstreams: {a: {targets: ["http://127.0.0.1:9000"]}}
routes:
  - {path: /v1/things, methods: [POST], upstream: a, cost: 5}
  - {path: /v1/things, methods: [GET], upstream: a, cost: 0}
"""


def said(old: str, new: str) -> list[str]:
    return [str(change) for change in differences(parse_config(old.encode(), {}), parse_config(new.encode(), {}))]


def test_a_change_is_named_by_its_route_with_old_and_new():
    assert said(CONFIG, CONFIG.replace("cost: 5", "cost: 7")) == ["routes[POST /v1/things].cost: 5 -> 7"]
    assert said(CONFIG, CONFIG.replace("/v1/things, methods: [GET]", "/v1/more, methods: [GET]")) == [
        'routes[GET /v1/things]: removed {"path": "/v1/things", "methods": ["GET"], "upstream": "a", "cost": 0}',
        'routes[GET /v1/more]: added {"path": "/v1/more", "methods": ["GET"], "upstream": "a", "cost": 0}',
    ]
    assert said(CONFIG, CONFIG) == []


def test_a_changed_secret_is_told_and_not_shown():
    (change,) = said(CONFIG, CONFIG.replace("first", "second"))
    assert change == f'identity.admin_token: "{MASK}" -> "{MASK}" (another one)'


def test_the_masked_config_has_no_secret_of_the_config():
    unkey = "credits: {provider: unkey, unkey: {api_id: api_1, root_key: unkey_abcdefgh}}\n"
    database = "database: {url: 'sqlite:///with-a-secret.db'}\n"
    telemetry = "telemetry: {otlp_endpoint: 'http://x', headers: {X-Key: the-collectors-token}}\n"
    config = parse_config((CONFIG + unkey + database + telemetry).encode(), {})
    secrets = list(secrets_of(config))
    assert len(secrets) == 4
    shown = str(masked(config))
    assert [secret for secret in secrets if secret in shown] == []
    assert masked("https://user:word@host/hook?token=x") == f"https://{MASK}@host/hook?{MASK}"


def keys_of(section: type[Section], prefix: str = "") -> list[str]:
    return [f"{prefix}{name}" for name in section.model_fields]


FULL = Config(telemetry=TelemetrySection(otlp_endpoint="http://collector"))
"""Every section that has something live in it."""


def test_what_is_live_exists():
    for key in LIVE:
        section, _, name = key.rpartition(".")
        owner = type(getattr(FULL, section)) if section else Config
        assert name in owner.model_fields


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("server: {port: 1}\n", "server: {port: 2}\n"),
        ("database: {url: 'sqlite:///a.db'}\n", "database: {url: 'sqlite:///b.db'}\n"),
        ("admin: null\n", "admin: {port: 7}\n"),
        ("log: {format: line}\n", "log: {format: json}\n"),
        ("", "telemetry: {otlp_endpoint: 'http://collector'}\n"),
        ("telemetry: {otlp_endpoint: 'http://a'}\n", "telemetry: {otlp_endpoint: 'http://b'}\n"),
    ],
)
def test_what_is_bound_to_the_process_is_not_live(old, new):
    changes = differences(parse_config(old.encode(), {}), parse_config(new.encode(), {}))
    assert changes
    assert not any(change.is_live for change in changes)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def source_of(file: Path) -> ConfigSource:
    return ConfigSource(file, {}, lambda config: config)


def test_a_file_counts_as_changed_once_it_is_at_rest(file):
    source = source_of(file)
    source.load()
    assert not source.has_changed()
    file.write_text(CONFIG + "#")
    assert not source.has_changed()
    file.write_text(CONFIG + "##")
    assert not source.has_changed()
    assert source.has_changed()
    source.load()
    assert not source.has_changed()
    assert not source.has_changed()


def test_a_file_of_the_same_size_and_time_is_seen_to_be_another_one(file):
    source = source_of(file)
    source.load()
    status = file.stat()
    fresh = file.with_name("fresh")
    fresh.write_text(CONFIG.replace("cost: 5", "cost: 6"))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.replace(file)
    source.has_changed()
    assert source.has_changed()


def test_a_secret_file_that_breaks_a_reload_is_still_watched(file):
    secret = file.with_name("token")
    secret.write_text("a-token-of-some-length")
    secret.chmod(0o600)
    file.write_text(CONFIG.replace('"the-first-token"', f'"${{file:{secret}}}"'))
    source = source_of(file)
    reloader = Reloader(source, source.load())
    secret.unlink()
    source.has_changed()
    assert source.has_changed()
    assert isinstance(reloader.read("test"), Outcome)
    secret.write_text("another-token")
    secret.chmod(0o600)
    source.has_changed()
    assert source.has_changed()
    assert isinstance(reloader.read("test"), Proposal)


def test_one_change_that_needs_a_restart_refuses_all(file):
    source = source_of(file)
    reloader = Reloader(source, source.load())
    file.write_text("server: {port: 9}\n" + CONFIG.replace("cost: 5", "cost: 6"))
    outcome = reloader.read("test")
    assert isinstance(outcome, Outcome)
    assert outcome.result == "refused"
    assert outcome.problems == ("server.port can't change without a restart (server.port: 8080 -> 9)",)
    assert reloader.config.routes[0].cost == 5
    assert not reloader.state.is_success
    file.write_text(CONFIG)
    assert reloader.read("test") == Outcome("unchanged")
    assert reloader.state.is_success
    assert dict(reloader.state.counts) == {"applied": 0, "unchanged": 1, "refused": 1}
