"""The app's user ids as Unkey's external ids, which may have only letters, digits, `_`, `.` and `-`.

An id made of these stands as it is. Any other becomes `u8.` + base64url of its UTF-8, without padding; so does one that
begins with `u8.` itself, so that no two ids become one.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from gateway.errors import Invalid

PREFIX = "u8."
LENGTH_MAX = 255
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_VISIBLE = re.compile(r"[!-~]+")


def encode_user_id(user_id: str) -> str:
    """The external id for one of our user ids. Raises Invalid where it is empty or too long to have one."""
    external_id = user_id
    if not _PLAIN.fullmatch(user_id) or user_id.startswith(PREFIX):
        external_id = PREFIX + _pack(user_id)
    if len(external_id) > LENGTH_MAX or not user_id:
        raise Invalid("Not a user id.", errors={"user_id": "empty, or too long for Unkey"})
    return external_id


def decode_user_id(external_id: str) -> str:
    """The user id for any external id, also one that we did not make. What it gives is safe as a header's value.

    An id of the form `u8.…` that we would not have made stands as it is. One that no header can carry (older keys may
    have such) goes by its encoded name.
    """
    if not _VISIBLE.fullmatch(external_id):
        return PREFIX + _pack(external_id) if external_id else ""
    if external_id.startswith(PREFIX):
        user_id = _unpack(external_id[len(PREFIX) :])
        if _VISIBLE.fullmatch(user_id) and len(external_id) <= LENGTH_MAX and encode_user_id(user_id) == external_id:
            return user_id
    return external_id


def _pack(text: str) -> str:
    # surrogatepass: JSON may spell half a surrogate pair, and no id may raise.
    return urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).rstrip(b"=").decode("ascii")


def _unpack(packed: str) -> str:
    """Empty where it is not base64url of UTF-8."""
    try:
        return urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode("utf-8")
    except ValueError:
        return ""
