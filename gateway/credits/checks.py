"""What may be asked of any provider: amounts, kinds, user ids, permissions. Each raises Invalid, naming the field."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.credits.provider import CREDITS_MAX, CapChanges
from gateway.errors import Invalid
from gateway.permissions import is_permission

GRANT_KINDS = frozenset({"signup", "purchase", "promo", "adjustment", "clawback", "reinstate"})
TAKING_KINDS = frozenset({"adjustment", "clawback"})
"""Kinds that may also take credits away."""
USER_ID = re.compile(r"[!-~]{1,128}")
"""It becomes a header's value on every call, and two spellings that look alike would be two users."""

OWN_REFERENCES = ("failed:", "short:", "first-seen:", "create:")
"""How the ledger begins the references of what it writes by itself. Taken before, they would keep it from doing so."""

CAP_PERIODS = ("day", "month")

NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,100}")
"""It is shown in one line. Unkey takes 255 characters."""
EXPIRES_MAX = 4_102_444_800_000
"""Unkey takes no later time: 2100-01-01."""
PERMISSIONS_MAX = 1_000
"""What Unkey takes for a key."""


def check_credits(field: str, credits: int, least: int = 0) -> None:
    if type(credits) is not int or not least <= credits <= CREDITS_MAX:  # True is an int, but no number of credits
        raise Invalid("Not a number of credits.", errors={field: f"a whole number from {least} to {CREDITS_MAX}"})


def check_spend_caps(spend_caps: CapChanges) -> None:
    for period, cap in spend_caps.items():
        if period not in CAP_PERIODS:
            raise Invalid("No such cap.", errors={"spend_caps": f"one of {', '.join(CAP_PERIODS)}"})
        if cap is not None:
            check_credits(f"spend_caps.{period}", cap)


def check_grant(amount: int, kind: str, reference: str) -> None:
    if kind not in GRANT_KINDS:
        raise Invalid("No such kind.", errors={"kind": f"one of {', '.join(sorted(GRANT_KINDS))}"})
    if amount == 0:
        raise Invalid("Nothing would change.", errors={"amount": "must not be 0"})
    check_credits("amount", amount, -CREDITS_MAX if kind in TAKING_KINDS else 1)
    if reference.startswith(OWN_REFERENCES):
        raise Invalid("Choose another reference.", errors={"reference": "begins with a word of the ledger's own"})


def check_user_id(user_id: str) -> None:
    if USER_ID.fullmatch(user_id) is None:
        raise Invalid("Not a user id.", errors={"user_id": "1 to 128 visible ASCII characters, without spaces"})


def check_name(name: str | None) -> None:
    if name and NAME.fullmatch(name) is None:
        raise Invalid("Not a name for a key.", errors={"name": "1 to 100 characters, without control characters"})


def check_expiry(expires_at: int | None) -> None:
    """Unix milliseconds."""
    if expires_at is not None and not 0 < expires_at <= EXPIRES_MAX:
        raise Invalid("Not a time at which a key can end.", errors={"expires_at": "not after the year 2099"})


def check_permissions(permissions: Sequence[str]) -> None:
    if len(permissions) > PERMISSIONS_MAX:
        raise Invalid("Too many permissions.", errors={"permissions": f"a key may have {PERMISSIONS_MAX} at most"})
    for permission in permissions:
        if not is_permission(permission):
            wanted = "1 to 100 letters, digits, and _ : . * -"
            raise Invalid("Not a permission.", errors={"permissions": f"each has {wanted}"})
