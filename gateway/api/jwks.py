"""The app's public keys (JWKS, RFC 7517), fetched when they are needed and kept.

    fresh ──FRESH_SECONDS──▶ used on, while they are fetched anew ──STALE_SECONDS──▶ not used any more: 503

A `kid` that is not there makes them be fetched again, for the app may have begun to sign with a new key; but at most
once in FLOOR_SECONDS, for anybody can write a token with a `kid` of their own. (RETRY_SECONDS after a failure.)
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.errors import IdentityUnavailable

logger = logging.getLogger("gateway.api")

FRESH_SECONDS = 300.0
STALE_SECONDS = 3_600.0
FLOOR_SECONDS = 10.0
RETRY_SECONDS = 2.0
FETCH_SECONDS = 5.0
BODY_MAX_BYTES = 262_144
KEYS_MAX = 64
RSA_BITS_MIN = 2_048

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
ALGORITHMS = RSA | set(CURVES.values())
"""Asymmetric ones only: what verifies must not be able to sign."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies, and the algorithms it is for."""

    kid: str | None
    key: Any
    algorithms: frozenset[str]


class _Unfetched(Exception):
    """The keys could not be fetched; the message says why, for the log."""


class Jwks:
    """The keys behind one URL. `clock` gives seconds that only grow."""

    def __init__(
        self, url: str, *, client: httpx.AsyncClient | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._client = client or httpx.AsyncClient(timeout=FETCH_SECONDS, follow_redirects=False, trust_env=False)
        self._clock = clock
        self._keys: list[PublicKey] = []
        self._fetched_at = self._not_before = -STALE_SECONDS * 2
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        """The keys that a token of that `kid` can be signed with; without a `kid`, the only one there is for that
        algorithm. Empty: none. Raises IdentityUnavailable."""
        if self._age() > STALE_SECONDS:
            await self._fetch()
            if self._age() > STALE_SECONDS:
                raise IdentityUnavailable(cause="the app's public keys can't be fetched: see the warnings before this")
        found = self._search(kid, algorithm)
        if not found:
            await self._fetch()
            return self._search(kid, algorithm)
        if self._age() > FRESH_SECONDS:
            self._start_fetch()
        return found

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        await self._client.aclose()

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _search(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if kid is None:
            return fitting if len(fitting) == 1 else []
        return [key for key in fitting if key.kid == kid]

    async def _fetch(self) -> None:
        """Fetch them anew unless that was just tried. Callers who ask together wait for one fetch, and leave alone."""
        self._start_fetch()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _start_fetch(self) -> None:
        if self._fetching is None and self._clock() >= self._not_before:
            self._fetching = asyncio.create_task(self._run(), name="fetch public keys")

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = read_keys(await self._download())
            self._fetched_at = self._clock()
            self._not_before = self._fetched_at + FLOOR_SECONDS
        except (_Unfetched, TimeoutError) as error:
            self._not_before = self._clock() + RETRY_SECONDS
            logger.warning("the app's public keys could not be fetched: %s", error or "no answer in time")
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        try:
            async with self._client.stream("GET", self._url, headers=headers) as response:
                if response.status_code != 200 or "content-encoding" in response.headers:
                    raise _Unfetched(f"status {response.status_code}")
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > BODY_MAX_BYTES:
                        raise _Unfetched(f"longer than {BODY_MAX_BYTES} bytes")
                return body
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise _Unfetched(type(error).__name__) from error


def read_keys(body: bytes) -> list[PublicKey]:
    """The keys of a JWKS that can verify; what else is in it is left out. Raises _Unfetched if it is none."""
    try:
        document = json.loads(body)
        members = document["keys"]
        if type(members) is not list or len(members) > KEYS_MAX:
            raise _Unfetched(f"`keys` is no list of at most {KEYS_MAX} keys")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Unfetched("not a JWKS") from error
    return [key for key in map(_read_key, members) if key is not None]


def _read_key(members: Any) -> PublicKey | None:
    if type(members) is not dict or members.get("use", "sig") != "sig" or "d" in members:
        return None
    operations = members.get("key_ops")
    if operations is not None and (type(operations) is not list or "verify" not in operations):
        return None
    try:
        algorithms = _algorithms_of(members)
        if not algorithms:
            return None
        key = jwt.PyJWK(members, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        logger.warning("a key of the app's JWKS can't be read: %s", type(error).__name__)
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        logger.warning("a key of the app's JWKS is not used: RSA of %d bits is too short", key.key_size)
        return None
    kid = members.get("kid")
    return PublicKey(kid if type(kid) is str else None, key, algorithms)


def _algorithms_of(members: dict[str, Any]) -> frozenset[str]:
    """What the key is for: the one it names, or all that its type can; none for a symmetric key."""
    kind = members.get("kty")
    fitting: frozenset[str] = frozenset()
    if kind == "RSA":
        fitting = RSA
    elif kind in ("EC", "OKP") and (curve := members.get("crv")) in CURVES:
        fitting = frozenset({CURVES[curve]})
    return fitting if "alg" not in members else fitting & {members["alg"]}
