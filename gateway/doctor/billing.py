"""Stripe's secrets by their shape. This version does not talk to Stripe; a later one will."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from gateway.config.tree import StripeSection
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn

_SECRET_KEY = re.compile(r"(?:sk|rk)_(test|live)_[A-Za-z0-9]{8,}")
_PUBLISHABLE_KEY = re.compile(r"pk_(test|live)_[A-Za-z0-9]{8,}")
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{8,}")
_BY_SHAPE = "by its shape; Stripe itself is not asked"


async def examine_stripe(section: StripeSection) -> AsyncIterator[Diagnosis]:
    """What can be said without asking Stripe."""
    secret_key = section.secret_key.get_secret_value()
    found = _SECRET_KEY.fullmatch(secret_key)
    yield _examine_secret_key(secret_key, found)
    yield _examine_webhook_secret(section.webhook_secret.get_secret_value())
    publishable_key = section.publishable_key.get_secret_value()
    if publishable_key:
        yield _examine_publishable_key(publishable_key, found)


def _examine_secret_key(key: str, found: re.Match[str] | None) -> Diagnosis:
    what = "stripe: secret_key"
    if found is not None:
        text = f"a {found[1]} key {_BY_SHAPE}"
        return ok(what, text if found[1] == "live" else f"{text}. Nobody pays with real money")
    if key.startswith("pk_"):
        return fail(what, "this is a publishable key (pk_…): take the secret one, sk_… or rk_…")
    if key.startswith("whsec_"):
        return fail(what, "this is a webhook's secret (whsec_…): take the secret key, sk_… or rk_…")
    return fail(what, "not a key of Stripe's: expected sk_test_…, sk_live_…, rk_test_… or rk_live_…")


def _examine_webhook_secret(secret: str) -> Diagnosis:
    what = "stripe: webhook_secret"
    if _WEBHOOK_SECRET.fullmatch(secret):
        return ok(what, f"fine {_BY_SHAPE}")
    return fail(what, "not the secret of a webhook: expected whsec_…, which Stripe shows beside the endpoint")


def _examine_publishable_key(key: str, secret_key: re.Match[str] | None) -> Diagnosis:
    what = "stripe: publishable_key"
    found = _PUBLISHABLE_KEY.fullmatch(key)
    if found is None:
        return fail(what, "not a publishable key: expected pk_test_… or pk_live_…")
    if secret_key is not None and secret_key[1] != found[1]:
        return warn(what, f"a {found[1]} key beside a {secret_key[1]} secret key: take both of one mode")
    return ok(what, f"a {found[1]} key {_BY_SHAPE}")
