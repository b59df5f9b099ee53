"""Every error of the data plane is a problem document of one shape (RFC 9457), and costs nothing."""

from __future__ import annotations

import gc

import pytest

from gateway.errors import GatewayError
from tests.proxy.harness import Gate, Proxy, request, response
from tests.server.harness import wait_until

KEY = b"X-API-Key: "


def ask(account, target, method="GET", headers=(), body=None):
    return account.ask(target, method, headers=headers, body=body)


PROBLEMS = {
    "bad-request": (400, lambda account: ask(account, "/paid/../ok")),
    "missing-key": (401, lambda account: account.proxy.ask(request("/paid/ok"))),
    "invalid-key": (401, lambda account: account.proxy.ask(request("/paid/ok", "GET", (KEY + b"gw_nobody",)))),
    "out-of-credits": (402, lambda account: ask(account.proxy.account(credits=1), "/paid/ok")),
    "no-route": (404, lambda account: ask(account, "/nowhere")),
    "method-not-allowed": (405, lambda account: ask(account, "/paid/ok", "DELETE")),
    "body-too-large": (413, lambda account: ask(account, "/small/ok", "POST", body=b"x" * 1_001)),
    "upstream-unreachable": (502, lambda account: ask(account, "/refused/ok")),
    "bad-upstream-response": (502, lambda account: ask(account, "/paid/garbage")),
    "upstream-timeout": (504, lambda account: ask(account, "/paid/no-head")),
}


@pytest.mark.parametrize("slug", PROBLEMS)
def test_every_error_is_one_shape(account, slug):
    status, cause = PROBLEMS[slug]
    answer = cause(account)
    problem = answer.problem
    assert answer.status == problem["status"] == status
    assert problem["type"] == f"urn:credit-gateway:problem:{slug}"
    assert problem["source"] == "gateway"
    assert problem["instance"] == answer.headers["x-request-id"]
    assert problem["instance"].startswith("req_")
    assert problem["title"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert "127.0.0.1" not in answer.body.decode()
    assert account.secret not in answer.body.decode()
    wait_until(lambda: account.books == (100, 0))


def test_an_upstream_without_room_is_told_apart_and_costs_nothing(account, script):
    gate = script("gated", Gate(response()))
    other = account.proxy.account()
    waiting = other.send("/narrow/gated")
    gate.wait_entered()
    answer = ask(account, "/narrow/ok")
    gate.open()
    assert waiting.response()[0] in (200, 504)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.problem["type"].rpartition(":")[2] == "no-healthy-target"
    assert answer.problem["released"] is True
    account.ended(0, "unreachable")


@pytest.mark.parametrize("slug", ["missing-key", "invalid-key"])
def test_a_401_says_how_to_authenticate(account, slug):
    assert PROBLEMS[slug][1](account).headers["www-authenticate"].startswith("Bearer")


def test_a_402_says_what_is_missing_and_not_to_try_again(account):
    answer = PROBLEMS["out-of-credits"][1](account)
    problem = answer.problem
    assert {name: problem[name] for name in ("available", "held", "cost", "shortfall")} == {
        "available": 1,
        "held": 0,
        "cost": 5,
        "shortfall": 4,
    }
    assert "checkout" in problem
    assert "retry-after" not in answer.headers


def test_a_405_says_what_is_allowed(account):
    assert PROBLEMS["method-not-allowed"][1](account).headers["allow"] == "GET, POST"


@pytest.mark.parametrize("slug", ["upstream-unreachable", "bad-upstream-response", "upstream-timeout"])
def test_an_upstream_error_says_whether_the_credits_came_back(account, slug):
    assert PROBLEMS[slug][1](account).problem["released"] is True


def test_a_disabled_key_is_refused(account):
    account.proxy.run(account.proxy.provider.enable(account.key_id, False))
    answer = ask(account, "/paid/ok")
    assert (answer.status, answer.problem["type"].rpartition(":")[2]) == (403, "key-disabled")


def test_an_expired_key_is_refused(proxy):
    answer = ask(proxy.account(expires_at=1), "/paid/ok")
    assert (answer.status, answer.problem["type"].rpartition(":")[2]) == (403, "key-expired")


def test_a_revoked_key_is_unknown(account):
    account.proxy.run(account.proxy.provider.revoke(account.key_id))
    assert ask(account, "/paid/ok").status == 401


class Defective:
    """A provider with a defect."""

    async def hold(self, *_):
        raise ZeroDivisionError("a secret detail")


def test_a_defect_of_ours_is_told_without_its_details(targets, tmp_path, upstream, caplog):
    upstream.seen.clear()
    with Proxy(tmp_path / "gateway.db", targets, wrap=lambda _: Defective()) as proxy:
        answer = proxy.ask(request("/paid/ok", "GET", (KEY + b"gw_a",)))
    assert answer.status == 500
    assert answer.problem["instance"] in caplog.text
    assert "secret" not in answer.body.decode()
    assert upstream.seen == []


@pytest.mark.parametrize(("target", "status"), [("/nowhere", 404), ("/paid/%2e", 400)])
def test_a_call_that_failed_keeps_nothing_alive(account, target, status):
    """Its error's traceback leads to the call and its route; what was replaced is closed when nobody refers to it."""

    def errors() -> set[int]:
        return {id(thing) for thing in gc.get_objects() if isinstance(thing, GatewayError)}

    gc.collect()
    gc.disable()
    before = errors()  # what other tests keep
    try:
        assert account.ask(target).status == status
        wait_until(lambda: errors() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize(("target", "status"), [("/paid/ok", 405), ("/nowhere", 404), ("/paid/%2e", 400)])
def test_a_problem_answers_head_without_a_body(account, target, status):
    caller = account.proxy.call(account.request(target, "HEAD") + request("/nowhere"))
    got, headers, body = caller.response("HEAD")
    assert (got, body) == (status, b"")
    assert int(headers["content-length"]) > 0
    assert caller.response()[0] == 404, "the next answer begins where it should"


PREFLIGHT = (
    b"Origin: https://evil.test",
    b"Access-Control-Request-Method: POST",
    b"Access-Control-Request-Headers: x-api-key",
)


@pytest.mark.parametrize("target", ["/paid/ok", "/public/ok", "/free/ok"])
def test_a_preflight_costs_nothing_and_opens_nothing(account, upstream, target):
    for headers in (PREFLIGHT, (*PREFLIGHT, KEY + account.secret.encode())):
        answer = account.proxy.ask(request(target, "OPTIONS", headers))
        assert answer.status == 405
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert upstream.seen == []
    assert account.spends == []


def test_an_answer_to_a_stranger_opens_nothing(account):
    answer = account.ask("/paid/ok", headers=(b"Origin: https://evil.test",))
    assert not [name for name in answer.headers if name.startswith("access-control-")]
