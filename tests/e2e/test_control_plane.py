"""The control plane of real processes: several workers, one database, kill -9, and the app's tokens over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import time

import pytest

from gateway.app import open_provider
from gateway.config.load import load_config
from gateway.errors import OutOfCredits
from tests.api.harness import AUDIENCE, ISSUER, SIGNUP_CREDITS, App
from tests.e2e.caller import Answer, Caller, call
from tests.e2e.harness import allow_many_sockets, count, gateway, settings
from tests.e2e.published import published_app

ADMIN_TOKEN = "the-admin-token-of-these-tests"
CROWD = 100


def ask(method, path, credential, document=None, *, once=""):
    """The bytes of a request to the control plane."""
    body = b"" if document is None else json.dumps(document).encode()
    fields = [f"Authorization: Bearer {credential}"] if credential else []
    fields += [f"Idempotency-Key: {once}"] if once else []
    fields += ["Content-Type: application/json"] if body else []
    head = "".join(f"{field}\r\n" for field in fields)
    return f"{method} {path} HTTP/1.1\r\nHost: g\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def crowd(port, requests) -> list[Answer]:
    """Connections first, then all requests in one go."""
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(await Caller.open(port)) for _ in requests]
        for caller, request in zip(callers, requests, strict=True):
            caller.send(request)
        return await asyncio.gather(*(caller.read() for caller in callers))


@pytest.fixture(scope="module")
def app():
    """The app with its JWKS on a socket: `app.url`."""
    with published_app() as made:
        yield made


@pytest.fixture
def config(tmp_path, app):
    jwt = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": app.url}
    return settings(
        tmp_path,
        "http://127.0.0.1:9",
        server={"workers": 2},
        identity={"admin_token": ADMIN_TOKEN, "jwt": jwt},
        credits={"signup_credits": SIGNUP_CREDITS},
    )


def rows(running, sql):
    with contextlib.closing(sqlite3.connect(running.database, timeout=5)) as connection:
        return connection.execute(sql).fetchall()


def test_a_crowd_with_one_idempotency_key_makes_one_key(tmp_path, config, app):
    allow_many_sockets()
    with gateway(tmp_path, config) as running:
        running.start()
        request = ask("POST", "/api-keys", app.token("alice"), {}, once="one-for-all")
        answers = asyncio.run(crowd(running.port, [request] * CROWD))
        assert {answer.status for answer in answers} <= {201, 409}
        made = {answer.body for answer in answers if answer.status == 201}
        assert len(made) == 1
        assert rows(running, "SELECT count(*), sum(balance) FROM keys") == [(1, SIGNUP_CREDITS)]
        late = asyncio.run(call(running.port, request))
        assert (late.status, late.body, late.headers["idempotency-replayed"]) == (201, made.pop(), "true")
        assert running.stop() == 0
        assert "gw_" + json.loads(late.body)["api_key"][7:20] not in running.errors


def test_a_crowd_of_first_sign_ups_of_one_user_gets_the_free_credits_once(tmp_path, config, app):
    allow_many_sockets()
    with gateway(tmp_path, config) as running:
        running.start()
        token = app.token("alice")
        requests = [ask("POST", "/api-keys", token, {}, once=f"sign-up-{number}") for number in range(CROWD)]
        answers = asyncio.run(crowd(running.port, requests))
        assert {answer.status for answer in answers} == {201}
        amounts = sorted(json.loads(answer.body)["credits"] for answer in answers)
        assert amounts == [0] * (CROWD - 1) + [SIGNUP_CREDITS]
        assert rows(running, "SELECT count(*), sum(balance) FROM keys") == [(CROWD, SIGNUP_CREDITS)]
        assert rows(running, "SELECT count(*) FROM entries WHERE kind = 'signup'") == [(1,)]
        assert running.stop() == 0


def test_a_request_that_was_killed_at_any_moment_is_done_once_when_it_is_repeated(tmp_path, config, app):
    rounds = count(2, 200)
    chance = random.Random(4)
    with gateway(tmp_path, config) as running:
        for number in range(rounds):
            user = f"user-{number}"
            request = ask("POST", "/api-keys", app.token(user), {}, once="again")
            running.start()
            asyncio.run(_ask_and_kill(running, request, chance.uniform(0.005, 0.06)))
            running.start()
            # As if the lease of the dead had run out: its owner can't renew it any more.
            with contextlib.closing(sqlite3.connect(running.database, isolation_level=None, timeout=5)) as connection:
                connection.execute("UPDATE requests SET owned_until = 0")
            answer = asyncio.run(call(running.port, request))
            assert answer.status == 201, answer
            made = json.loads(answer.body)
            assert made["credits"] == SIGNUP_CREDITS
            balance = asyncio.run(call(running.port, ask("GET", "/credits", made["api_key"])))
            assert json.loads(balance.body)["available"] == SIGNUP_CREDITS
            assert asyncio.run(call(running.port, request)).body == answer.body
            running.kill_group()
        # A key that was made and not noted before the kill is empty.
        assert rows(running, "SELECT sum(balance) FROM keys") == [(SIGNUP_CREDITS * rounds,)]


async def _ask_and_kill(running, request, delay):
    async with await Caller.open(running.port) as caller:
        caller.send(request)
        await asyncio.sleep(delay)
        running.kill_group()
        await caller.read()


def test_an_adjustment_that_is_repeated_on_every_worker_is_applied_once(tmp_path, config):
    with gateway(tmp_path, config) as running:
        _, key_id = running.create_key(0)
        running.start()
        body = {"key_id": key_id, "amount": 50, "kind": "promo", "reason": "r", "reference": "ticket"}
        requests = [ask("POST", "/credits/adjustments", ADMIN_TOKEN, body)] * CROWD
        answers = asyncio.run(crowd(running.port, requests))
        assert {answer.status for answer in answers} == {201}
        assert len({answer.body for answer in answers}) == 1
        assert rows(running, "SELECT balance FROM keys") == [(50,)]
        assert running.stop() == 0


def test_tokens_of_the_app_are_checked_against_its_published_keys(tmp_path, config, app):
    with gateway(tmp_path, config) as running:
        running.start()

        def status(token):
            return asyncio.run(call(running.port, ask("GET", "/api-keys", token))).status

        assert status(app.token("alice")) == 200
        assert status(app.token("alice", kid="e1")) == 200
        assert status(app.token("alice", aud="other")) == 401
        assert status(app.token("alice", exp=int(time.time()) - 60)) == 401
        assert status(App(is_stranger=True).token("alice")) == 401
        assert running.stop() == 0
        assert "eyJ" not in running.errors


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api-keys/..%2fcredits", 400),
        ("/api-keys/%2e%2e/credits", 400),
        ("//credits", 400),
        ("/credits;x=1", 400),
        ("/credits/", 404),
        ("/CREDITS", 404),
        ("/api-keys/%00", 400),
        ("/api-keys/%ff", 405),
        ("/call/x", 405),
    ],
)
def test_odd_paths_are_refused_as_on_the_data_plane(running_gateway, path, status):
    answer = asyncio.run(call(running_gateway.port, ask("GET", path, ADMIN_TOKEN)))
    assert answer.status == status
    assert answer.slug
    assert answer.request_id


@pytest.fixture(scope="module")
def running_gateway(tmp_path_factory):
    directory = tmp_path_factory.mktemp("control")
    made = settings(directory, "http://127.0.0.1:9", identity={"admin_token": ADMIN_TOKEN})
    with gateway(directory, made) as running:
        yield running.start()


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(running_gateway):
    head = ask("POST", "/api-keys", ADMIN_TOKEN).replace(b"Content-Length: 0", b"Content-Length: 99999999")
    answer = asyncio.run(call(running_gateway.port, head))
    assert (answer.status, answer.slug) == (413, "body-too-large")
    event = ask("POST", "/stripe-webhook", "").replace(b"Content-Length: 0", b"Content-Length: 10000000")
    assert asyncio.run(call(running_gateway.port, event)).status == 413


def test_a_head_request_is_answered_without_a_body(running_gateway):
    request = ask("HEAD", "/pricing", "").replace(b"Host: g", b"Host: g\r\nConnection: close")

    async def ask_raw():
        reader, writer = await asyncio.open_connection("127.0.0.1", running_gateway.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        return answer

    head, _, body = asyncio.run(ask_raw()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: application/json" in head
    assert body == b""


def test_who_is_out_of_credits_is_told_where_to_buy_if_anything_is_sold(tmp_path):
    billing = {
        "packs": [{"id": "s", "name": "S", "credits": 1, "price_cents": 1, "currency": "usd"}],
        "stripe": {"secret_key": "sk_test_x", "webhook_secret": "whsec_x"},
        "success_url": "https://app.example.com/done",
        "cancel_url": "https://app.example.com/",
    }

    async def told(name, **sections):
        directory = tmp_path / name
        directory.mkdir()
        file = directory / "config.yaml"
        file.write_text(json.dumps(settings(directory, "http://127.0.0.1:9", **sections)))
        async with open_provider(load_config(file, {})) as provider:
            secret, _ = await provider.create("u", credits=0)
            with pytest.raises(OutOfCredits) as caught:
                await provider.hold(secret.encode(), 1, "/x", "r")
            return caught.value.members["checkout"]

    assert asyncio.run(told("selling", billing=billing)) == "/checkout"
    assert asyncio.run(told("not-selling")) is None
