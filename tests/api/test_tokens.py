"""Attacks on tokens of the app (JWT): each is 401, and none is a user."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.api.harness import ISSUER


def pack(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(app, header, *, signature=b"", **claims):
    return f"{pack(header)}.{pack(app.claims(**claims))}.{pack(signature)}"


def hmac_signed(app, secret, algorithm="HS256", **header):
    signed = f"{pack({'alg': algorithm, 'typ': 'JWT', **header})}.{pack(app.claims())}"
    return f"{signed}.{pack(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def signed(app, **changes):
    """By the app's own key, whatever the claims: the library would not write all of them."""
    claims = json.dumps(app.claims(**changes)).encode()
    return jwt.api_jws.encode(claims, app.rsa, "RS256", headers={"kid": "r1"})


def stranger(app, **header):
    """Signed by a key of the attacker's own."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    own = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    own_key = {"jwk": own} if header.pop("embed", False) else {}
    return jwt.encode(app.claims(), key, "RS256", headers={**own_key, **header})


def pem(app):
    kind, shape = serialization.Encoding, serialization.PublicFormat
    return app.rsa.public_key().public_bytes(kind.PEM, shape.SubjectPublicKeyInfo)


def der(app):
    kind, shape = serialization.Encoding, serialization.PublicFormat
    return app.rsa.public_key().public_bytes(kind.DER, shape.SubjectPublicKeyInfo)


def tampered(app):
    head, _, signature = app.token().split(".")
    return f"{head}.{pack(app.claims('bob'))}.{signature}"


def now():
    return int(time.time())


ATTACKS = {
    "alg none": lambda app: unsigned(app, {"alg": "none", "kid": "r1"}),
    "alg None": lambda app: unsigned(app, {"alg": "None"}),
    "alg nOnE with a signature": lambda app: unsigned(app, {"alg": "nOnE"}, signature=b"x" * 256),
    "alg missing": lambda app: unsigned(app, {"kid": "r1"}),
    "alg a list": lambda app: unsigned(app, {"alg": ["RS256"], "kid": "r1"}),
    "HS256 with the public key as PEM": lambda app: hmac_signed(app, pem(app), kid="r1"),
    "HS256 with the public key as DER": lambda app: hmac_signed(app, der(app), kid="r1"),
    "HS256 with the JWK": lambda app: hmac_signed(app, json.dumps(app.published[0]).encode(), kid="r1"),
    "HS256 with nothing": lambda app: hmac_signed(app, b"", kid="r1"),
    "RS256 said, HMAC made": lambda app: hmac_signed(app, pem(app), "RS256", kid="r1"),
    "another key's algorithm": lambda app: jwt.encode(app.claims(), app.ec, "ES256", headers={"kid": "r1"}),
    "a stranger's signature": lambda app: stranger(app, kid="r1"),
    "a stranger's key in the header": lambda app: stranger(app, kid="r1", embed=True),
    "a stranger's key in the header alone": lambda app: stranger(app, embed=True),
    "a stranger's key set": lambda app: stranger(app, kid="r1", jku="http://attacker.example/jwks.json"),
    "a stranger's certificate": lambda app: stranger(app, kid="r1", x5u="http://attacker.example/x", x5c=["AA=="]),
    "kid unknown": lambda app: app.token(kid="r2"),
    "kid a path": lambda app: stranger(app, kid="../../../../dev/null"),
    "kid SQL": lambda app: stranger(app, kid="r1' UNION SELECT 'x'--"),
    "kid a command": lambda app: stranger(app, kid="r1|id"),
    "kid a URL": lambda app: stranger(app, kid="http://attacker.example/key"),
    "kid empty": lambda app: unsigned(app, {"alg": "RS256", "kid": ""}, signature=b"x" * 256),
    "kid a number": lambda app: unsigned(app, {"alg": "RS256", "kid": 1}, signature=b"x" * 256),
    "kid an object": lambda app: unsigned(app, {"alg": "RS256", "kid": {}}, signature=b"x" * 256),
    "kid long": lambda app: stranger(app, kid="r" * 257),
    "crit": lambda app: app.token(headers={"crit": ["exp"]}),
    "b64": lambda app: app.token(headers={"b64": False, "crit": ["b64"]}),
    "claims of somebody else": tampered,
    "no signature": lambda app: app.token().rpartition(".")[0] + ".",
    "signature cut": lambda app: app.token()[:-4],
    "signature of zeros": lambda app: unsigned(app, {"alg": "ES256", "kid": "e1"}, signature=bytes(64)),
    "expired": lambda app: app.token(exp=now() - 11),
    "expired long ago": lambda app: app.token(exp=1),
    "exp missing": lambda app: app.token(exp=...),
    "exp null": lambda app: app.token(exp=None),
    "exp a text": lambda app: app.token(exp="never"),
    "exp infinite": lambda app: app.token(exp=float("inf")),
    "exp NaN": lambda app: app.token(exp=float("nan")),
    "nbf later": lambda app: app.token(nbf=now() + 60),
    "iat later": lambda app: app.token(iat=now() + 60),
    "iss missing": lambda app: app.token(iss=...),
    "iss another": lambda app: app.token(iss="https://evil.example.com"),
    "iss with a slash": lambda app: app.token(iss=ISSUER + "/"),
    "iss a list": lambda app: signed(app, iss=[ISSUER]),
    "aud missing": lambda app: app.token(aud=...),
    "aud another": lambda app: app.token(aud="other"),
    "aud empty": lambda app: app.token(aud=[]),
    "aud a part": lambda app: app.token(aud="gate"),
    "aud an object": lambda app: app.token(aud={"gateway": True}),
    "sub missing": lambda app: app.token(sub=...),
    "sub empty": lambda app: app.token(sub=""),
    "sub a number": lambda app: app.token(sub=7),
    "sub with a line break": lambda app: app.token(sub="alice\r\nX-Admin: 1"),
    "sub NUL": lambda app: app.token(sub="alice\0"),
    "sub homoglyph": lambda app: app.token(sub="аlice"),
    "sub long": lambda app: app.token(sub="a" * 129),
    "huge": lambda app: app.token(padding="x" * 9_000),
    "huge header": lambda app: app.token(headers={"x": "x" * 9_000}),
    "header nested": lambda app: f"{pack(b'[' * 5_000)}.{pack({})}.{pack(b'x')}",
    "header no JSON": lambda app: f"{pack(b'x')}.{pack({})}.{pack(b'x')}",
    "header a list": lambda app: f"{pack([])}.{pack({})}.{pack(b'x')}",
    "header not UTF-8": lambda app: f"{pack(bytes([255, 254]))}.{pack({})}.{pack(b'x')}",
    "claims no object": lambda app: jwt.api_jws.encode(b"[]", app.rsa, "RS256", headers={"kid": "r1"}),
    "claims no JSON": lambda app: jwt.api_jws.encode(b"{", app.rsa, "RS256", headers={"kid": "r1"}),
    "claims nested": lambda app: jwt.api_jws.encode(b"[" * 4_000, app.rsa, "RS256", headers={"kid": "r1"}),
    "five parts": lambda app: "a.b.c.d.e",
    "bad base64": lambda app: "eyJ.eyJ.x",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_it_is_refused(with_api, attack):
    async def test(api):
        answer = await api.call("GET /api-keys", headers=[("authorization", f"Bearer {attack(api.app)}")])
        assert (answer.status, answer.slug) == (401, "invalid-key")
        assert (await api.call("GET /api-keys", user="alice")).status == 200

    with_api(test)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kid": "e1"},
        {"kid": None},
        {"aud": ["other", "gateway"]},
        {"nbf": ...},
        {"iat": ...},
        pytest.param({"exp": now() + 10**9}, id="exp far away"),
        {"more": {"of": "it"}},
    ],
    ids=str,
)
def test_honest_tokens_pass(with_api, changes):
    async def test(api):
        answer = await api.call("GET /api-keys", headers=[("authorization", f"Bearer {api.app.token(**changes)}")])
        assert answer.status == 200

    with_api(test)


def test_clocks_may_differ_by_seconds(with_api):
    async def test(api):
        for changes in ({"exp": now() - 5}, {"nbf": now() + 5}, {"iat": now() + 5}):
            token = api.app.token(**changes)
            assert (await api.call("GET /api-keys", headers=[("authorization", f"Bearer {token}")])).status == 200

    with_api(test)


def test_a_refusal_does_not_repeat_the_token(with_api, caplog):
    async def test(api):
        token = api.app.token(exp=now() - 100)
        answer = await api.call("GET /api-keys", headers=[("authorization", f"Bearer {token}")])
        for part in token.split("."):
            assert part.encode() not in answer.body
            assert part not in caplog.text

    with_api(test)
