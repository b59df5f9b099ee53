"""Unkey's own description of its API (tests/data/unkey-openapi.yaml), as something that requests and answers pass.

What the running service says differently from its description is listed here, and nothing else is let through.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FILE = Path(__file__).parents[1] / "data" / "unkey-openapi.yaml"
URI = "urn:unkey-openapi"
UNDESCRIBED = {408: "BadRequest", 412: "PreconditionFailed", 413: "BadRequest", 503: "ServiceUnavailable"}
"""Statuses that Unkey's server gives to any call, though the description doesn't say so; the shapes are described."""


@functools.cache
def _description():
    description = yaml.load(FILE.read_text(), Loader=yaml.CSafeLoader)
    schemas = description["components"]["schemas"]
    base, (_, more) = schemas["BaseError"], schemas["BadRequestErrorDetails"]["allOf"]
    # As published it requires `errors` in one half and forbids it in the other: nothing passes.
    schemas["BadRequestErrorDetails"] = {
        **base,
        "properties": {**base["properties"], **more["properties"]},
        "required": [*base["required"], *more["required"]],
    }
    return description


@functools.cache
def _validator(*path):
    pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)
    registry = Registry().with_resource(URI, DRAFT202012.create_resource(_description()))
    return Draft202012Validator({"$ref": f"{URI}#/{pointer}"}, registry=registry)


def request_validator(call):
    """For the bodies of a call ("keys.verifyKey")."""
    return _validator("paths", f"/v2/{call}", "post", "requestBody", "content", "application/json", "schema")


def described_members(call):
    """The names of the members that a call's body may have."""
    schema = _description()["paths"][f"/v2/{call}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return _description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"].keys()


def fits_request(call, body) -> bool:
    return request_validator(call).is_valid(body)


def response_validator(call, status):
    path = ("paths", f"/v2/{call}", "get" if call == "liveness" else "post", "responses", str(status))
    described = functools.reduce(lambda part, name: part.get(name, {}), path, _description())
    if not described:
        return _validator("components", "schemas", f"{UNDESCRIBED[status]}ErrorResponse")
    (media_type,) = described["content"]
    return _validator(*path, "content", media_type, "schema")


def check_response(call, status, headers, raw_body):
    """Fails on an answer that the description doesn't allow."""
    assert headers["content-type"] in ("application/json", "application/problem+json")
    document = json.loads(raw_body)
    response_validator(call, status).validate(_as_described(document) if call == "keys.verifyKey" else document)
    if status == 200:
        assert headers["content-type"] == "application/json"
        return
    error = document["error"]
    assert error["status"] == status
    assert error["type"].startswith("https://unkey.com/docs/errors/")


def _as_described(document):
    """A verdict whose rate limits are put as the description has them: `reset` is there a duration, while the service
    tells a time, and every limit has an id and lasts a second, while one that a call brings along needs neither.
    """
    for limit in document.get("data", {}).get("ratelimits", ()):
        assert limit["reset"] > 1_000_000_000_000, "reset is a time"
        limit["reset"] = limit["duration"] = max(1000, limit["duration"])
        limit["id"] = limit["id"] or "rl_adhoc"
    return document
