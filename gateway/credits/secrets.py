"""API keys: how a secret is made, recognised and stored.

`gw_` + 43 base-62 digits (256 random bits) + 6 digits of CRC-32: the prefix and the checksum let secret scanners find
a leaked key without asking anybody (GitHub's scheme). Only the SHA-256 is stored: the secret is random enough that a
slow hash would add nothing but load.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

PREFIX = "gw_"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_DIGITS = 43
CHECKSUM_DIGITS = 6
START_LENGTH = len(PREFIX) + 4


def new_secret() -> str:
    body = "".join(secrets.choice(DIGITS) for _ in range(BODY_DIGITS))
    return PREFIX + body + checksum(body)


def checksum(body: str) -> str:
    """CRC-32 of the body in base 62, six digits."""
    number = zlib.crc32(body.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_DIGITS):
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def hash_secret(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def new_key_id() -> str:
    """A key's public name."""
    return "key_" + secrets.token_hex(10)
