"""Keeps the answer to a request where only whoever sent it can read it again.

Both the name under which it is found and the key that opens it are derived from the caller's Idempotency-Key, which is
stored nowhere. Callers choose keys such as `create-7`, and whoever has the database must not find them by trying: so
deriving is made slow (scrypt, some 10 ms), or has a secret in it that nobody can guess, the caller's API key. (Of that
its SHA-256 is stored, which is of no use here.)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
SCRYPT_COST = 4_096
SCRYPT_BLOCK = 8
AT_ONCE = 2
"""Derivations that run at the same time: they take processor time from the calls."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What an Idempotency-Key of one caller becomes."""

    lookup: bytes
    key: bytes = field(repr=False)

    def close(self, answer: bytes, context: bytes) -> bytes:
        """The answer, sealed. It opens with the same context only."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, answer, self.lookup + context)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        """The answer; None where it was not sealed by this key."""
        try:
            return AESGCM(self.key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self.lookup + context)
        except (InvalidTag, ValueError):
            return None

    def sign(self, *parts: bytes) -> bytes:
        """A fingerprint of the parts that tells nothing of them to who has not got the key."""
        told = hmac.new(self.key, b"fingerprint\0", "sha256").digest()
        signing = hmac.new(told, digestmod="sha256")
        for part in parts:
            signing.update(len(part).to_bytes(8) + part)
        return signing.digest()


class Sealer:
    """Makes seals, off the event loop and a few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def seal(self, identity: str, idempotency_key: bytes) -> Seal:
        async with self._turns:
            return await asyncio.to_thread(derive, identity, idempotency_key)


def derive_with(api_key: bytes, idempotency_key: bytes) -> Seal:
    """The seal of a request that came with an API key: random, so it needs no slowness."""
    derived = hmac.digest(api_key, b"credit-gateway call\0" + idempotency_key, "sha512")
    return Seal(derived[:32], derived[32:])


def derive(identity: str, idempotency_key: bytes) -> Seal:
    """The identity is the salt: the same key of two callers is two requests."""
    salt = hashlib.sha256(b"credit-gateway idempotency\0" + identity.encode("utf-8")).digest()
    derived = hashlib.scrypt(idempotency_key, salt=salt, n=SCRYPT_COST, r=SCRYPT_BLOCK, p=1, dklen=64)
    return Seal(derived[:32], derived[32:])
