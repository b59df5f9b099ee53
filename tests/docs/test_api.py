"""docs/api.md says what the API's description says, and its examples are requests and answers that there can be."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from gateway.api.build import openapi_document
from gateway.api.credits import RESERVED_PREFIXES
from gateway.api.idempotency import LEASE_SECONDS
from gateway.api.jwks import ALGORITHMS, FLOOR_SECONDS, FRESH_SECONDS, STALE_SECONDS
from gateway.api.operation import BODY_MAX_BYTES
from gateway.api.pagination import LIMIT_MAX
from gateway.api.records import IDENTITY_ROWS_MAX, KEEP_MS
from gateway.api.tokens import LEEWAY_SECONDS, REQUIRED
from tests.docs.pages import ROOT, blocks, prose

PAGE = ROOT / "docs" / "api.md"
DOCUMENT = json.loads(openapi_document())
SCHEMES = {"apiKey": "key", "appToken": "user", "adminToken": "admin"}
TABLE = re.compile(r"^\| `([A-Z]+) (\S+)` \| ([^|]+) \|", re.MULTILINE)
EXAMPLES = blocks(PAGE, "http")
PAIRS = list(zip(EXAMPLES[::2], EXAMPLES[1::2], strict=True))


def test_the_table_has_every_call_and_who_may_do_it():
    said = {(method, path): who.strip() for method, path, who in TABLE.findall(PAGE.read_text())}
    described = {}
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            schemes = [SCHEMES[name] for entry in operation["security"] for name in entry if name in SCHEMES]
            described[method.upper(), path] = ", ".join(schemes) or "anyone"
    described["POST", "/stripe-webhook"] = "Stripe"
    assert said == described


def resolved(schema):
    return {**schema, "components": DOCUMENT["components"]}


def operation_of(line):
    method, target = line.split(" ")
    path = target.partition("?")[0]
    for pattern, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path):
            return methods[method.lower()]
    pytest.fail(f"no such call: {line}")


@pytest.mark.parametrize(("request_text", "answer_text"), PAIRS, ids=lambda text: text.splitlines()[0])
def test_every_example_is_a_request_and_an_answer_that_there_can_be(request_text, answer_text):
    head, _, body = request_text.partition("\n\n")
    line, *fields = head.splitlines()
    operation = operation_of(line)
    names = {field.partition(":")[0] for field in fields}
    if body.strip():
        media = operation["requestBody"]["content"]["application/json"]
        jsonschema.validate(json.loads(body), resolved(media["schema"]))
        assert "Content-Type" in names
    assert bool(operation["security"]) == bool(names & {"Authorization", "X-API-Key"})
    known = {parameter["name"] for parameter in operation.get("parameters", [])}
    assert names - {"Authorization", "X-API-Key", "Content-Type"} <= known
    status, _, answer = answer_text.partition("\n\n")
    (media,) = operation["responses"][status.split(" ")[0]]["content"].values()
    jsonschema.validate(json.loads(answer), resolved(media["schema"]))


def test_the_numbers_on_the_page_are_those_in_the_code():
    text = prose(PAGE)
    assert f"clocks may differ by {LEEWAY_SECONDS} s" in text
    assert f"kept for {FRESH_SECONDS / 60:g} minutes" in text
    assert f"at most every {FLOOR_SECONDS:g} s" in text
    assert STALE_SECONDS == 3_600
    assert "for an hour" in text
    assert f"`limit` is 1 to {LIMIT_MAX}" in text
    assert f"kept for {KEEP_MS / 3_600_000:g} hours" in text
    assert f"the latest {IDENTITY_ROWS_MAX:,} of" in text
    assert f"Up to {LEASE_SECONDS:g} s after" in text
    assert f"more than {BODY_MAX_BYTES / 1_048_576:g} MiB" in text
    assert set(REQUIRED) == {"iss", "aud", "exp", "sub"}
    families = {"RS", "PS", "ES"}
    assert {name for family in families for name in (f"{family}256", f"{family}384", f"{family}512")} < ALGORITHMS
    assert ALGORITHMS - {f"{family}{bits}" for family in families for bits in (256, 384, 512)} == {"EdDSA"}
    assert {"signup:", "order:"} <= set(RESERVED_PREFIXES)
