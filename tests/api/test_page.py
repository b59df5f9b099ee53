"""The page at /docs: whole, harmless, and loading nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from gateway.api.build import described
from gateway.api.description import Description
from gateway.api.page import PageWriter
from gateway.config.tree import Config

DOCUMENT = Description(described(Config(), None, None)).document
WRITER = PageWriter()
PAGE = WRITER.write(DOCUMENT)
HEADERS = dict(WRITER.headers)
VOID = {"meta", "br", "link"}


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], set(), [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in {"style", "src", "srcset", "action"}, name
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.ids.add(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_everything_described_is_on_it():
    reader = read(PAGE)
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert path in reader.text
            assert operation["operationId"] in reader.ids
    for name in ("api_key", "expires_at", "next_cursor", "balance_after", "Idempotency-Key", "Stripe-Signature"):
        assert name in reader.text


def test_it_has_no_script_and_loads_nothing():
    reader = read(PAGE)
    assert not reader.tags & {"script", "img", "iframe", "object", "embed", "form", "base", "link", "svg"}
    assert not re.search(r"url\(|@import|javascript:", PAGE)
    for link in reader.links:
        assert link == "/openapi.json" or link.removeprefix("#") in reader.ids


def test_its_policy_allows_its_own_style_and_nothing_else():
    style = re.search(r"<style>(.*?)</style>", PAGE, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = HEADERS[b"content-security-policy"].decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]


def test_nothing_of_the_description_becomes_markup():
    evil = "<script>alert(1)</script>`<b>`\"'$title${about}&"
    document = {
        "info": {"title": evil, "version": evil, "description": evil},
        "tags": [{"name": evil}],
        "paths": {
            "/" + evil: {
                "get": {
                    "operationId": evil, "tags": [evil], "summary": evil, "description": evil, "security": [],
                    "parameters": [{"name": evil, "in": evil, "schema": {"type": evil}, "description": evil}],
                    "responses": {evil: {"description": evil}},
                }
            }
        },
        "components": {"schemas": {}},
    }  # fmt: skip
    page = WRITER.write(document)
    assert "<script" not in page
    assert "<b>" not in page
    assert "$title${about}" in page
    read(page)


def test_it_is_served_with_its_headers(with_api):
    async def test(api):
        answer = await api.call("GET /docs")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.body.decode() == PAGE
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"

    with_api(test)
