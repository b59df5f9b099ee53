"""The app's public keys: fetched when needed, kept, changed without a restart, and never asked for in a flood."""

from __future__ import annotations

import asyncio
import json

import httpx
import jwt
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from gateway.api.jwks import BODY_MAX_BYTES, FLOOR_SECONDS, FRESH_SECONDS, RETRY_SECONDS, STALE_SECONDS, Jwks, read_keys
from gateway.errors import IdentityUnavailable
from tests.api.harness import JWKS_URL, App


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def run():
    """`run(test)` runs `await test(jwks, app, clock)`."""

    def start(test, app=None, answer=None):
        async def main():
            made, clock = app or App(), Clock()
            client = httpx.AsyncClient(transport=httpx.MockTransport(answer or made.answer))
            jwks = Jwks(JWKS_URL, client=client, clock=clock)
            try:
                await test(jwks, made, clock)
            finally:
                await jwks.aclose()

        uvloop.run(main())

    return start


def test_keys_are_fetched_once_for_many(run):
    async def test(jwks, app, _clock):
        assert app.fetches == 0
        found = await asyncio.gather(*(jwks.find("r1", "RS256") for _ in range(50)))
        assert all(len(keys) == 1 for keys in found)
        assert app.fetches == 1

    run(test)


def test_a_new_key_of_the_apps_is_found_at_its_first_token(run):
    async def test(jwks, app, clock):
        assert await jwks.find("r2", "RS256") == []
        clock.now += FLOOR_SECONDS
        app.published[0]["kid"] = "r2"
        assert len(await jwks.find("r2", "RS256")) == 1
        assert await jwks.find("r1", "RS256") == []

    run(test)


def test_made_up_kids_make_no_flood_of_fetches(run):
    async def test(jwks, app, clock):
        for number in range(200):
            clock.now += 0.1
            assert await jwks.find(f"made-up-{number}", "RS256") == []
        assert app.fetches <= 1 + 20 / FLOOR_SECONDS

    run(test)


def test_old_keys_are_used_while_new_ones_are_fetched_and_for_a_time_if_that_fails(run):
    async def test(jwks, app, clock):
        await jwks.find("r1", "RS256")
        app.fails = True
        clock.now += FRESH_SECONDS + 1
        assert len(await jwks.find("r1", "RS256")) == 1
        await asyncio.sleep(0.01)
        assert app.fetches == 2
        clock.now += STALE_SECONDS
        with pytest.raises(IdentityUnavailable):
            await jwks.find("r1", "RS256")
        app.fails = False
        clock.now += RETRY_SECONDS
        assert len(await jwks.find("r1", "RS256")) == 1

    run(test)


def test_a_key_that_is_withdrawn_stops_to_count_within_minutes(run):
    async def test(jwks, app, clock):
        await jwks.find("r1", "RS256")
        app.published.clear()
        clock.now += FRESH_SECONDS + 1
        await jwks.find("r1", "RS256")
        await asyncio.sleep(0.01)
        assert await jwks.find("r1", "RS256") == []

    run(test)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"location": "http://attacker.example/"}),
        httpx.Response(200, content=b"no JSON"),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, content=b'{"keys": {}}'),
        httpx.Response(200, content=b'{"keys": ' + b"[" * 10_000),
        httpx.Response(200, content=json.dumps({"keys": [{}] * 65}).encode()),
        httpx.Response(200, content=b" " * (BODY_MAX_BYTES + 1)),
        httpx.Response(200, headers={"content-encoding": "br"}, content=b""),
    ],
    ids=lambda answer: f"{answer.status_code}",
)
def test_what_is_no_key_set_is_503_and_never_401(run, answer, caplog):
    async def test(jwks, _app, _clock):
        with pytest.raises(IdentityUnavailable):
            await jwks.find("r1", "RS256")
        assert "could not be fetched" in caplog.text

    run(test, answer=lambda _request: answer)


def test_a_connection_that_fails_is_503(run):
    async def test(jwks, _app, _clock):
        with pytest.raises(IdentityUnavailable):
            await jwks.find("r1", "RS256")

    def fail(_request):
        raise httpx.ConnectError("no")

    run(test, answer=fail)


def test_who_leaves_while_they_are_fetched_does_not_stop_it_for_others(run):
    async def test(jwks, app, _clock):
        first, second = (asyncio.create_task(jwks.find("r1", "RS256")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert len(await second) == 1
        assert app.fetches == 1

    run(test)


def keys_of(*members):
    return read_keys(json.dumps({"keys": members}).encode())


def test_only_keys_that_verify_and_can_not_sign_are_taken():
    app = App()
    good = app.published[0]
    short = rsa.generate_private_key(public_exponent=65_537, key_size=1_024).public_key()
    private = jwt.algorithms.RSAAlgorithm.to_jwk(app.rsa, as_dict=True)
    left_out = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "HS256"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "key_ops": "verify"},
        {**good, "alg": "HS256"},
        {**good, "alg": "none"},
        {**good, "alg": ["RS256"]},
        {**good, "alg": "ES256"},
        {**good, "n": "AQAB"},
        {**good, "n": 7},
        {key: value for key, value in good.items() if key != "n"},
        {**app.published[1], "crv": "secp256k1"},
        {**app.published[1], "crv": ["P-256"]},
        {**app.published[1], "x": "AAAA"},
        jwt.algorithms.RSAAlgorithm.to_jwk(short, as_dict=True),
        private,
        "text",
        None,
        7,
        [],
    ]
    assert keys_of(*left_out) == []
    assert len(keys_of(*left_out, good)) == 1


def test_a_key_is_for_the_algorithms_of_its_kind_and_for_one_if_it_says_so():
    app = App()
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    named = {**app.published[0], "alg": "RS512"}
    okp = jwt.algorithms.OKPAlgorithm.to_jwk(edwards, as_dict=True)
    kinds = [key.algorithms for key in keys_of(*app.published, named, okp)]
    assert kinds == [
        {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
        {"ES256"},
        {"RS512"},
        {"EdDSA"},
    ]
