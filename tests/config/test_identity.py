"""Where the app's public keys may come from."""

from __future__ import annotations

import pytest

from gateway.config.load import parse_config
from gateway.config.problem import ConfigError

CONFIG = """\
identity: {{jwt: {{issuer: a, audience: b, jwks_url: "{url}"}}}}
upstreams: {{a: {{targets: ["http://127.0.0.1:9000"]}}}}
routes: [{{path: /x, methods: [GET], upstream: a, cost: 1}}]
"""


@pytest.mark.parametrize(
    "url", ["https://app.example.com/jwks.json?v=1", "http://127.0.0.1:9/jwks", "http://localhost/k"]
)
def test_keys_come_over_tls_or_from_this_machine(url):
    assert parse_config(CONFIG.format(url=url).encode(), {}).identity.jwt.jwks_url == url


@pytest.mark.parametrize("url", ["http://app.example.com/jwks.json", "ftp://a/b", "file:///etc/passwd", "app/jwks", ""])
def test_keys_that_anybody_could_replace_on_their_way_are_refused(url):
    with pytest.raises(ConfigError) as caught:
        parse_config(CONFIG.format(url=url).encode(), {})
    assert [problem.path for problem in caught.value.problems] == ["identity.jwt.jwks_url"]


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com/", "app.example.com", "https://App.example.com", "https://*.example.com", "null", ""],
)
def test_what_is_no_origin_is_refused_for_no_browser_would_ever_send_it(origin):
    config = CONFIG.format(url="https://app.example.com/jwks.json").replace(
        "identity: {", f'identity: {{cors_origins: ["*", "http://localhost:3000", "{origin}"], '
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(config.encode(), {})
    assert [problem.path for problem in caught.value.problems] == ["identity.cors_origins[2]"]
