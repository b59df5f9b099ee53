"""What loads, and what it becomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from gateway.config.load import load_config, parse_config
from gateway.config.problem import ConfigError
from gateway.config.tree import Config, RateLimitSection, SettledCost

ROOT = Path(__file__).parent.parent.parent
CANARY = "canary-7f3a9c"

EVERYTHING = """\
# yaml-language-server: $schema=./config.schema.json
server: {host: 127.0.0.1, port: 8080, workers: 1}
database: {url: "sqlite:///data/gateway.db"}
credits:
  provider: local
  signup_credits: 100
  unkey: {api_id: "${UNKEY_API_ID}", root_key: "${UNKEY_ROOT_KEY}", base_url: https://api.unkey.com}
identity:
  admin_token: "${GATEWAY_ADMIN_TOKEN:-}"
  jwt: {issuer: https://app.example.com, audience: gateway, jwks_url: https://app.example.com/jwks.json}
upstreams:
  personas: {targets: ["http://127.0.0.1:9000"], response_timeout_seconds: 30}
routes:
  - {path: /v1/personas, methods: [POST], upstream: personas, cost: 5}
  - {path: "/v1/personas/{rest:path}", methods: [GET], upstream: personas, cost: 0}
  - {path: /status, methods: [GET], upstream: personas, public: true}
billing:
  packs: [{id: starter, name: Starter, credits: 100, price_cents: 100, currency: usd}]
  stripe: {secret_key: "${STRIPE_SECRET_KEY}", publishable_key: "${STRIPE_PUBLISHABLE_KEY:-}",
    webhook_secret: "${STRIPE_WEBHOOK_SECRET}", base_url: https://api.stripe.com}
  success_url: https://app.example.com/billing/done
  cancel_url: https://app.example.com/billing
"""
SECRETS = ["UNKEY_API_ID", "UNKEY_ROOT_KEY", "GATEWAY_ADMIN_TOKEN", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"]


def load(text: str, environ=None) -> Config:
    return parse_config(text.encode(), environ or {})


def problems_of(text: str, environ=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    return str(caught.value)


def test_every_section_loads():
    config = load(EVERYTHING, dict.fromkeys(SECRETS, "1234") | {"STRIPE_SECRET_KEY": "rk_test_1234"})
    assert config.credits.unkey is not None
    assert config.credits.unkey.api_id == "1234", "text where text is wanted, though it looks like a number"
    assert config.routes[0].cost == 5
    assert config.routes[2].public
    assert config.billing.stripe is not None
    assert config.billing.stripe.webhook_secret.get_secret_value() == "1234"


def test_the_config_of_the_repository_loads_without_an_environment():
    config = load_config(ROOT / "config.yaml", {})
    assert config.server.port == 8080
    assert config.upstreams["personas"].targets == ("http://127.0.0.1:9000",)
    assert [route.cost for route in config.routes] == [5, 0, None]
    assert (ROOT / "config.yaml").read_text().startswith("# yaml-language-server: $schema=./config.schema.json\n")


def test_an_absent_section_is_default_and_an_empty_file_is_all_defaults():
    assert load("") == load("# nothing\n") == Config()


def test_a_listener_is_turned_off_by_null():
    assert load("admin: null\n").admin is None
    assert load("admin: ~\n").admin is None


def test_a_settled_cost_loads():
    route = "{path: /p, methods: [GET], upstream: a, cost: {hold: 20, settle: X-Credits-Used}}"
    config = load(f"upstreams: {{a: {{targets: [http://x]}}}}\nroutes: [{route}]\n")
    assert config.routes[0].cost == SettledCost(hold=20, settle="X-Credits-Used")


def test_a_route_may_ask_for_permissions_and_limit_how_often_it_is_called():
    policy = 'permission: "a AND (b OR c)", rate_limit: {limit: 100, window_seconds: "${WINDOW}"}'
    route = f"{{path: /p, methods: [GET], upstream: a, cost: 0, {policy}}}"
    config = load(f"upstreams: {{a: {{targets: [http://x]}}}}\nroutes: [{route}]\n", {"WINDOW": "60"})
    assert config.routes[0].permission == "a AND (b OR c)"
    assert config.routes[0].rate_limit == RateLimitSection(limit=100, window_seconds=60)


@pytest.mark.parametrize("port", ["${PORT}", "${OTHER:-9001}", '"${PORT}"', '"${NOTHING:-9001}"', "90${ONE}"])
def test_a_number_from_outside_is_a_number_quoted_or_not(port):
    environ = {"PORT": "9001", "NOTHING": "", "ONE": "01"}
    assert load(f"server:\n  port: {port}\n", environ).server.port == 9001


def test_a_boolean_and_a_null_from_outside_are_themselves():
    config = load("log:\n  access: ${ACCESS}\nadmin: ${ADMIN:-null}\n", {"ACCESS": "false"})
    assert config.log.access is False
    assert config.admin is None


def test_an_empty_variable_takes_the_default_and_without_one_stays_empty():
    environ = {"TOKEN": ""}
    assert load('identity: {admin_token: "${TOKEN:-x}"}\n', environ).identity.admin_token == SecretStr("x")
    assert load('identity: {admin_token: "${TOKEN}"}\n', environ).identity.admin_token == SecretStr("")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("$${A}", "${A}"), ("a$${A}b${A}", "a${A}bx"), ("$A", "$A"), ("$", "$"), ("a$$b", "a$$b"), ("${A}${A}", "xx")],
)
def test_an_escaped_reference_is_text(written, meant):
    assert (
        load(f"identity: {{admin_token: '{written}'}}\n", {"A": "x"}).identity.admin_token.get_secret_value() == meant
    )


def test_what_comes_from_outside_is_not_read_as_yaml_or_as_a_reference():
    value = "a: [1, ${B}] # x"
    assert load("identity: {admin_token: '${A}'}\n", {"A": value}).identity.admin_token.get_secret_value() == value


@pytest.mark.parametrize(("content", "meant"), [("s\n", "s"), ("s\r\n", "s"), ("s", "s"), ("s\n\n", "s\n")])
def test_a_secret_file_gives_its_text_without_the_last_line_end(tmp_path, content, meant):
    secret = tmp_path / "token"
    secret.write_bytes(content.encode())
    secret.chmod(0o640)
    config = load(f"identity: {{admin_token: '${{file:{secret}}}'}}\n")
    assert config.identity.admin_token.get_secret_value() == meant


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"canary", 0o644, "can be read by everyone: chmod o-r it"),
        (b"canary" * 20_000, 0o600, "is larger than 65536 bytes"),
        (b"canary\xff", 0o600, "is not UTF-8 text"),
        (b"canary\x00", 0o600, "control characters are not allowed"),
    ],
)
def test_a_secret_file_that_is_not_fit_is_refused_and_not_shown(tmp_path, content, mode, why):
    secret = tmp_path / "token"
    secret.write_bytes(content)
    secret.chmod(mode)
    said = problems_of(f"identity:\n  admin_token: ${{file:{secret}}}\n")
    assert said.startswith("config.yaml:2:16: identity.admin_token: ")
    assert why in said
    assert "canary" not in said.replace(str(tmp_path), "")


def test_a_fifo_as_a_secret_file_does_not_hang(tmp_path):
    import os

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "is not a regular file" in problems_of(f"identity:\n  admin_token: ${{file:{fifo}}}\n")


def test_all_that_the_checks_find_is_told_together_with_broken_values():
    said = problems_of("server: {workers: many}\nupstreams: {a: {targets: [x], connections_max: none}}\n")
    assert said.count("\n") == 2
    assert "upstreams.a.targets[0]: expected a URL" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('targets: ["http://x", {url: x}]', "2:35: upstreams.a.targets[1].url: expected a URL that starts with"),
        ("targets: [{weight: 2}]", "2:17: upstreams.a.targets[0].url: is missing"),
        ('targets: [{url: "http://x", wieght: 2}]', 'targets[0].wieght: unknown key; did you mean "weight"?'),
        ("targets: [5]", "targets[0]: expected a string or a mapping with url, got 5"),
        ('targets: ["http://x", {url: "http://x/"}]', "targets[1].url: targets[0] is the same"),
        ("ejection: {seconds: 9, max_seconds: 3}", "ejection.max_seconds: must not be less than seconds, here 9"),
        ("ejection: {failures: [5xy]}", 'got "5xy"; did you mean "5xx"?'),
        ("retries: {attempts: 0}", "retries.attempts: expected a whole number from 1 to 10, got 0"),
        ("health_check: {path: ok}", "health_check.path: expected a path that begins with /"),
        (
            "health_check: {path: /, interval_seconds: 1}",
            "health_check.timeout_seconds: must not be more than interval_seconds, here 1",
        ),
    ],
)
def test_what_is_wrong_with_targets_is_told_where_it_stands(keys, said):
    rest = "" if keys.startswith("targets") else 'targets: ["http://x"], '
    assert said in problems_of(f"upstreams:\n  a: {{{rest}{keys}}}\n")


def test_nothing_is_concluded_from_a_value_that_is_broken_itself():
    text = "upstreams: {a: {targets: [http://x]}, b: {}}\nroutes: [{path: /p, methods: [GET], upstream: b, cost: x}]\n"
    said = problems_of(text)
    assert "no such upstream" not in said, "b is there, it only lacks its targets"
    assert "say what a call costs" not in said, "it says so, only not well"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_message_and_no_repr(name):
    environ = {**dict.fromkeys(SECRETS, "fine"), name: CANARY}
    environ["STRIPE_SECRET_KEY"] = "rk_test_" + environ["STRIPE_SECRET_KEY"]
    config = load(EVERYTHING, environ)
    if name != "UNKEY_API_ID":  # an id is no secret
        assert CANARY not in repr(config) + str(config) + config.model_dump_json()
    for broken in mutations(EVERYTHING):
        assert CANARY not in told(broken, environ), broken


def told(text: str, environ: dict[str, str]) -> str:
    """Everything that an error handler could print."""
    try:
        load(text, environ)
    except ConfigError as error:
        return f"{error}{error!r}{error.problems!r}{error.__cause__!r}{error.__context__!r}"
    return ""


def mutations(text: str):
    """The file with each of its values replaced by each of its references, and with each line cut off or pushed in."""
    references = re.findall(r"\$\{[A-Z_]+", text)
    for match in re.finditer(r": ([^\s,{}\[\]\"]+)", text):
        for reference in references:
            yield text[: match.start(1)] + f'"{reference}}}"' + text[match.end(1) :]
    lines = text.splitlines(keepends=True)
    for at in range(len(lines)):
        yield "".join(lines[:at] + lines[at + 1 :])
        yield "".join([*lines[:at], "   " + lines[at], *lines[at + 1 :]])


@pytest.mark.parametrize(
    "line",
    [
        f"identity: {{admin_token: [{CANARY}]}}",
        f"identity: {{admin_token: {{{CANARY}: x}}, jwt: {CANARY}}}".replace(f"{{{CANARY}: x}}", f"{{x: {CANARY}}}"),
        f"identity: {CANARY}",
        f"identity: {{admin_token: *{CANARY}}}",
        f"identity: {{admin_token: &{CANARY} x}}",
        f"identity: {{admin_token: !{CANARY} x}}",
        f"identity: {{admin_token: !{CANARY}!y x}}",
        f"identity: {{admin_token: '{CANARY}",
        f'identity: {{admin_token: "\\q{CANARY}"}}',
        f"identity: {{admin_token: @{CANARY}}}",
        f"identity: {{admin_token: {CANARY}: x}}",
        f"identity:\n  admin_token: a: {CANARY}",
        f"identity:\n  admin_token:{CANARY}",
        f"identity: {{admin_token: '${{{CANARY.upper()}'}}",
        f"identity: {{token: {CANARY}}}",
        f"database: {{url: 'postgres://u:{CANARY}@h/'}}",
        f"database: 'postgres://u:{CANARY}@h/d'",
        f"upstreams: {{a: {{targets: ['http://u:{CANARY}@h']}}}}",
        f"upstreams: {{a: {{targets: 'http://u:{CANARY}@h'}}}}",
        f"upstreams: {{a: {{targets: [http://h], proxy_url: 'http://u:{CANARY}@h'}}}}",
        f"billing: {{stripe: {CANARY}, success_url: 'http://u:{CANARY}@h'}}",
        f"billing: {{stripe: {{secret_key: {CANARY}, base_url: 'x://{CANARY}'}}}}",
        f"credits: {{unkey: {CANARY}, provider: unkey}}",
    ],
)
def test_a_secret_in_a_wrong_place_is_not_shown(line):
    said = problems_of(line + "\n")
    assert CANARY not in said
    assert CANARY.upper() not in said


def test_the_tree_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load("").server.port = 1


def test_words_of_yaml_1_1_stay_words():
    document = "billing: {packs: [{id: no, name: 22:30, credits: 1, price_cents: 1, currency: usd}]}\n"
    pack = load(document).billing.packs[0]
    assert (pack.id, pack.name) == ("no", "22:30")
    assert yaml.safe_load("[no, 22:30, 010]") == [False, 1350, 8], "what PyYAML would have made of them"
