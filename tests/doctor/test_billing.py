"""Stripe's secrets by their shape, and never in what is told."""

from __future__ import annotations

import pytest

from gateway.config.tree import StripeSection
from gateway.doctor.billing import examine_stripe
from tests.doctor.conftest import told

RANDOM = "51HcAbCdEfGh1234"
SECRET = "stripe: secret_key"
WEBHOOK = "stripe: webhook_secret"
PUBLISHABLE = "stripe: publishable_key"


def examined(secret_key=f"sk_live_{RANDOM}", webhook_secret=f"whsec_{RANDOM}", publishable_key=""):
    section = {"secret_key": secret_key, "webhook_secret": webhook_secret, "publishable_key": publishable_key}
    found = told(examine_stripe(StripeSection.model_validate(section)))
    assert RANDOM not in str(found)
    return found


@pytest.mark.parametrize(
    ("key", "word"), [("sk_live", "live"), ("rk_live", "live"), ("sk_test", "test"), ("rk_test", "test")]
)
def test_a_key_of_either_mode_is_ok_and_its_mode_is_told(key, word):
    state, text = examined(secret_key=f"{key}_{RANDOM}")[SECRET]
    assert state == "ok"
    assert f"a {word} key" in text
    assert ("real money" in text) == (word == "test")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (f"pk_live_{RANDOM}", "publishable key"),
        (f"whsec_{RANDOM}", "webhook's secret"),
        (f"sk_{RANDOM}", "expected sk_test_"),
        (RANDOM, "expected sk_test_"),
        (f"sk_live_{RANDOM} ", "expected sk_test_"),
        ("sk_live_", "expected sk_test_"),
    ],
)
def test_what_is_no_secret_key_fails_with_what_it_is(key, text):
    state, said = examined(secret_key=key)[SECRET]
    assert state == "FAIL"
    assert text in said


@pytest.mark.parametrize("secret", [f"sk_live_{RANDOM}", RANDOM, f"whsec{RANDOM}", "whsec_"])
def test_what_is_no_webhook_secret_fails(secret):
    assert examined(webhook_secret=secret)[WEBHOOK][0] == "FAIL"


def test_keys_of_two_modes_do_not_go_together():
    assert PUBLISHABLE not in examined()
    assert examined(publishable_key=f"pk_live_{RANDOM}")[PUBLISHABLE][0] == "ok"
    assert examined(publishable_key=f"pk_test_{RANDOM}")[PUBLISHABLE][0] == "warn"
    assert examined(publishable_key=f"sk_live_{RANDOM}")[PUBLISHABLE][0] == "FAIL"
