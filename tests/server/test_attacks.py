"""The corpus of attacks (tests/data/attacks-sample.json, own work, CC0-1.0) against the server alone: what is to be
refused by it never becomes a request, whatever comes after it on the connection."""

import json
import pathlib

import pytest

from tests.server.harness import serving

CORPUS = json.loads((pathlib.Path(__file__).parents[1] / "data" / "attacks-sample.json").read_text())
OF_THE_SERVER = ("framing", "target", "size", "path", "splitting")
REFUSED_LATER = {"early-reject-body", "cl-10g"}
"""What only the proxy can refuse: it knows the key and the limit of the body."""
SECOND = b"GET /SMUGGLED HTTP/1.1\r\nHost: a\r\n\r\n"
TARGETS_REFUSED = {
    "target-abs-userinfo": 400,
    "target-asterisk": 400,
    "trace": 405,
    "host-missing": 400,
    "host-dup": 400,
    "host-port": 400,
    "path-20": 400,
    "path-auth-21": 400,
    "hdr-value-64k": 431,
}

cases = [case for case in CORPUS["cases"] if case["group"] in OF_THE_SERVER]


def payload(case, port):
    text = "".join(
        step if isinstance(step, str) else "".join(piece * count for piece, count in step["rle"])
        for step in case["steps"]
    )
    values = {
        "HOST": f"127.0.0.1:{port}",
        "KEY": "sk_1",
        "KEY2": "sk_2",
        "ROUTE": "/echo/x",
        "R": "echo",
        "RUP": "ECHO",
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text.encode("latin-1")


@pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])
def test_attacks_are_refused_or_become_one_plain_request(case):
    with serving() as server:
        caller = server.call(payload(case, server.port))
        must_refuse = case["expect"] == "reject-close" or case["id"] in TARGETS_REFUSED
        if must_refuse:
            caller.send(SECOND)
            status, headers, body = caller.response()
            assert status == TARGETS_REFUSED.get(case["id"], status)
            assert status in (400, 405, 408, 414, 431, 501, 505)
            assert headers["connection"] == "close"
            assert headers["content-type"] == "application/problem+json"
            assert json.loads(body)["source"] == "gateway"
            assert caller.rest() == b""
            assert server.app.requests == []
        elif case["id"] not in REFUSED_LATER:
            assert caller.response()[0] in (200, 400, 501)
            assert len(server.app.requests) <= 1
        assert b"/SMUGGLED" not in server.app.targets
        for _, _, _, headers, _ in server.app.requests:
            assert b"x-gateway-user" not in dict(headers)


def test_the_corpus_has_what_the_server_must_refuse():
    assert {case["id"] for case in cases} >= TARGETS_REFUSED.keys()
    assert sum(case["expect"] == "reject-close" for case in cases) == 17
