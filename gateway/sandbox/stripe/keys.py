"""API keys: any secret key of test mode is good, restricted ones may do what they were given."""

from __future__ import annotations

import base64
import binascii
import re

from gateway.sandbox.stripe.answers import Refusal

_TEST_KEY = re.compile(r"(sk|rk)_test_[A-Za-z0-9_]{1,200}")
_SHOWN = 4


class Keys:
    """Who may do what. A restricted key that was never limited may do everything."""

    def __init__(self) -> None:
        self._permissions: dict[str, frozenset[str]] = {}

    def limit(self, key: str, *permissions: str) -> None:
        """Let a restricted key do only this: "checkout_session_write", "charge_read"; write includes read."""
        self._permissions[key] = frozenset(permissions)

    def check(self, authorization: str, resource: str, method: str) -> None:
        """Raises Refusal: 401 for no good key, 403 for one that lacks the permission."""
        key = _secret_of(authorization)
        if key.startswith("pk_"):
            message = "This API call cannot be made with a publishable API key. Please use a secret API key."
            raise Refusal(401, message, code="secret_key_required")
        if not _TEST_KEY.fullmatch(key):
            raise Refusal(401, f"Invalid API Key provided: {_masked(key)}")
        granted = self._permissions.get(key)
        write, read = f"{resource}_write", f"{resource}_read"
        enough = {write} if method != "GET" else {write, read}
        if granted is not None and enough.isdisjoint(granted):
            wanted = read if method == "GET" else write
            raise Refusal(
                403,
                f"The provided key '{_masked(key)}' does not have the required permissions for this endpoint on "
                f"account 'acct_sandbox'. Having the 'rak_{wanted}' permission would allow this request to continue.",
                code="more_permissions_required",
            )


def _secret_of(authorization: str) -> str:
    """The key of a Bearer header, or the user name of a Basic one. Raises Refusal."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise Refusal(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer "
        "auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    )


def _masked(key: str) -> str:
    kind = re.match(r"[a-z]{2}_(?:test|live)_", key)
    shown = kind[0] if kind else ""
    return shown + "*" * max(4, len(key) - len(shown) - _SHOWN) + key[-_SHOWN:]
