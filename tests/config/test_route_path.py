"""A route's path is spelled as calls must spell it, and hides nothing of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.address import check_base_url, check_page_url
from gateway.config.route_path import RoutePath
from gateway.proxy.paths import is_plain


@given(st.text(alphabet="ab/.%250eEfF;{}?#~!@:", max_size=12).map(lambda text: "/" + text))
def test_a_literal_path_is_accepted_only_if_calls_to_it_are(path):
    try:
        shape = RoutePath(path).shape
    except ValueError:
        return
    if not any("{" in segment for segment in shape):
        assert is_plain(path.encode())


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "/a/{x}", "/a/{x}/b", "/a/{x:path}", "/a%20b/~c;".rstrip(";")])
def test_a_plain_path_is_accepted(path):
    RoutePath(path)


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/healthz", "/healthz"),
        ("/docs/x", "/docs"),
        ("/api-keys/{id}/stats", "/api-keys"),
        ("/{x:path}", "/healthz"),
        ("/{x}/{y}", "/credits/transactions"),
        ("/{x}/{y}/rotate", "/api-keys/{id}/rotate"),
        ("/{x}/transactions", "/credits/transactions"),
        ("/{tenant}/v1/personas", None),
        ("/{tenant}/personas", None),
        ("/v1/healthz", None),
        ("/", None),
    ],
)
def test_a_path_that_takes_our_own_calls_is_known(path, hidden):
    assert RoutePath(path).hides() == hidden


@pytest.mark.parametrize(
    "url",
    ["http://x", "https://x.example:8443/base", "http://[::1]:9000", "http://127.0.0.1", "HTTP://X", "http://a_b/"],
)
def test_a_base_url_is_accepted(url):
    assert check_base_url(url) is None


BAD_PAGES = r"""
//evil.example https:evil.example https:/evil.example \evil.example https://a\@evil javascript:alert(1) data:text/html,x
http://app.example.com ftp://x https:// https://:443 https://u@x https://u:p@x https://x:0 https://x:99999 https://x:
https://[::1 https://x..y/ https://-x/ file:///etc/passwd /relative x HTTPS:\\x
"""


@pytest.mark.parametrize(
    "url", [*BAD_PAGES.split(), "", "https://a b", " https://x", "https://x\n", "https://ä.example"]
)
def test_a_page_that_could_send_buyers_elsewhere_is_refused(url):
    assert check_page_url(url)


@pytest.mark.parametrize("url", ["https://x/done?a=1#b", "http://localhost:3000/x", "http://127.0.0.1/x"])
def test_a_page_is_accepted(url):
    assert check_page_url(url) is None
