"""The app's tokens (JWT, RFC 7519): whose they are, if they are what they say.

The algorithm is never the token's to choose: it must be asymmetric and one that the public key of that `kid` is for. So
`none`, and HS256 with a public key for a secret, fail before anything is computed (RFC 8725 section 3.1). Keys come
from the configured JWKS alone; `jku`, `x5u` and `jwk` in a token mean nothing.
"""

from __future__ import annotations

from typing import Any

import jwt

from gateway.api.jwks import ALGORITHMS, Jwks, PublicKey
from gateway.config.tree import JwtSection
from gateway.credits.checks import check_user_id
from gateway.errors import Invalid, InvalidKey

LEEWAY_SECONDS = 10
"""Clocks of two machines differ a little."""
KID_MAX_CHARACTERS = 256
REQUIRED = ["exp", "iss", "aud", "sub"]
_BROKEN = (jwt.InvalidTokenError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What a token that nobody honest made can provoke in reading it, beside the library's own errors."""


class TokenReader:
    """Reads tokens of one issuer for one audience."""

    def __init__(self, section: JwtSection, keys: Jwks) -> None:
        self._issuer = section.issuer
        self._audience = section.audience
        self._keys = keys

    async def read(self, token: str) -> str:
        """The user id. Raises InvalidKey; IdentityUnavailable where the public keys can't be had."""
        kid, algorithm = _read_header(token)
        candidates = await self._keys.find(kid, algorithm)
        if not candidates:
            raise InvalidKey("The token is signed with a key that the app does not publish.")
        return self._verify(token, candidates, algorithm)

    def _verify(self, token: str, candidates: list[PublicKey], algorithm: str) -> str:
        try:
            claims = self._decode(token, candidates, algorithm)
            user_id = claims["sub"]
            check_user_id(user_id)
        except jwt.ExpiredSignatureError:
            raise InvalidKey("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise InvalidKey("The token is not valid yet.") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise InvalidKey("The token is not for this gateway: see its `iss` and `aud`.") from None
        except jwt.MissingRequiredClaimError as error:
            raise InvalidKey(f"The token has no `{error.claim}`.") from None
        except Invalid:
            raise InvalidKey("The token's `sub` can't be a user id.") from None
        except _BROKEN as error:
            raise _broken(error) from None
        return str(user_id)

    def _decode(self, token: str, candidates: list[PublicKey], algorithm: str) -> dict[str, Any]:
        """The claims, signed by one of the keys: those of one `kid`, which are more than one only by a mistake."""
        for key in candidates[:-1]:
            try:
                return self._decode_with(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
        return self._decode_with(token, candidates[-1], algorithm)

    def _decode_with(self, token: str, key: PublicKey, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": REQUIRED},
        )
        return claims


def _read_header(token: str) -> tuple[str | None, str]:
    """The token's `kid` and algorithm, as it says. Raises InvalidKey for what can't be one of ours."""
    try:
        header = jwt.get_unverified_header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
        # Extensions that must be understood: none is (RFC 7515 section 4.1.11).
        strange = "crit" in header or "b64" in header
    except _BROKEN as error:
        raise _broken(error) from None
    if type(algorithm) is not str or algorithm not in ALGORITHMS or strange:
        raise InvalidKey("The token is not signed in a way that is accepted.")
    if kid is not None and (type(kid) is not str or not 0 < len(kid) <= KID_MAX_CHARACTERS):
        raise InvalidKey("The token's `kid` can't be one.")
    return kid, algorithm


def _broken(error: Exception) -> InvalidKey:
    return InvalidKey("The token is not valid.", cause=f"a token was refused: {type(error).__name__}")
