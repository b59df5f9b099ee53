"""Only what Stripe has signed is looked into, and nothing that it has not leaves a row behind."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stripe import WebhookSignature

from gateway.billing.stripe_api import is_signed
from gateway.billing.webhook import BODY_MAX_BYTES, EVENTS
from gateway.errors import BadRequest, BillingUnavailable, BodyTooLarge
from tests.billing.harness import SECRET, TORTURE

PAYLOADS = 5000 if TORTURE else 100


def event(**changed):
    members = {
        "id": "evt_1",
        "object": "event",
        "type": "checkout.session.completed",
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": {"id": "cs_test_1", "object": "checkout.session", "name": "Zoë 😀"}},
    }
    return {**members, **changed}


def sign(body: bytes, secret: str = SECRET, at: float = 0, scheme: str = "v1") -> str:
    return sign_at(int(time.time() + at), body, secret, scheme)


def sign_at(seconds: int, body: bytes, secret: str, scheme: str = "v1") -> str:
    """Written from Stripe's description, not with its SDK."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},{scheme}={digest}"


GOOD = json.dumps(event(), ensure_ascii=False).encode()


def forgeries():
    """Name, body, header. Each lacks a right signature over its very bytes."""
    good = sign(GOOD)
    seconds, digest = good[2:].split(",v1=")
    yield "no signature", GOOD, ""
    yield "only a time", GOOD, f"t={seconds}"
    yield "only a digest", GOOD, f"v1={digest}"
    yield "no time in it", GOOD, f"t=,v1={digest}"
    yield "a time in words", GOOD, f"t=now,v1={digest}"
    yield "a negative time", GOOD, f"t=-{seconds},v1={digest}"
    yield "a time of zero", GOOD, f"t=0,v1={digest}"
    yield "a huge time", GOOD, f"t={'9' * 400},v1={digest}"
    yield "another time", GOOD, f"t={int(seconds) - 1},v1={digest}"
    yield "two times", GOOD, f"t={int(seconds) - 1},t={seconds},v1={digest}"
    yield (
        "the time in other digits",
        GOOD,
        f"t={seconds.translate(str.maketrans('0123456789', '٠١٢٣٤٥٦٧٨٩'))},v1={digest}",
    )
    yield "old", GOOD, sign(GOOD, at=-301)
    yield "very old", GOOD, sign(GOOD, at=-86_400 * 365)
    yield "of the future", GOOD, sign(GOOD, at=400)
    yield "of a far future", GOOD, sign(GOOD, at=10**9)
    yield "another secret", GOOD, sign(GOOD, "whsec_guessed")
    yield "an empty secret", GOOD, sign(GOOD, "")
    yield "the secret without its prefix", GOOD, sign(GOOD, SECRET.removeprefix("whsec_"))
    yield "two wrong secrets", GOOD, sign(GOOD, "a") + "," + sign(GOOD, "b").split(",")[1]
    yield "another scheme", GOOD, sign(GOOD, scheme="v0")
    yield "a scheme of the future", GOOD, sign(GOOD, scheme="v2")
    yield "no scheme", GOOD, f"t={seconds},{digest}"
    yield "half a digest", GOOD, f"t={seconds},v1={digest[:32]}"
    yield "an empty digest", GOOD, f"t={seconds},v1="
    yield "a digest and more", GOOD, f"t={seconds},v1={digest}00"
    yield "a digest in capitals", GOOD, f"t={seconds},v1={digest.upper()}"
    yield "a digest of zeros", GOOD, f"t={seconds},v1={'0' * 64}"
    yield "a digest in quotes", GOOD, f't={seconds},v1="{digest}"'
    yield "a digest outside ASCII", GOOD, f"t={seconds},v1={digest[:-1]}é"
    yield "a digest with a NUL", GOOD, f"t={seconds},v1={digest}\0"
    yield "spaces between", GOOD, f"t={seconds}, v1={digest}"
    yield "semicolons between", GOOD, f"t={seconds};v1={digest}"
    yield "nothing but commas", GOOD, "," * 100
    yield "nothing but equals signs", GOOD, "=" * 100
    yield "a thousand digests", GOOD, f"t={seconds}" + ",v1=0" * 1000
    yield "a plain SHA-256", GOOD, f"t={seconds},v1={hashlib.sha256(GOOD).hexdigest()}"
    yield "signed without the time", GOOD, f"t={seconds},v1={hmac.new(SECRET.encode(), GOOD, 'sha256').hexdigest()}"
    yield "signed with SHA-1", GOOD, f"t={seconds},v1={hmac.new(SECRET.encode(), GOOD, 'sha1').hexdigest()}"
    yield "parsed and written again", json.dumps(json.loads(GOOD)).encode(), good
    yield "written with other spaces", json.dumps(json.loads(GOOD), separators=(",", ":")).encode(), good
    yield "indented", json.dumps(json.loads(GOOD), indent=2).encode(), good
    yield "a byte more", GOOD + b"\n", good
    yield "a byte less", GOOD[:-1], good
    yield "a byte before", b" " + GOOD, good
    yield "a byte order mark before", b"\xef\xbb\xbf" + GOOD, good
    yield "a NUL behind", GOOD + b"\0", good
    yield "one letter changed", GOOD.replace(b"evt_1", b"evt_2"), good
    yield "the amount changed", GOOD.replace(b"cs_test_1", b"cs_test_2"), good
    yield "twice", GOOD * 2, good
    yield "nothing at all", b"", good
    yield "an empty object", b"{}", good
    yield "no UTF-8", b"\xff\xfe" + GOOD, good
    yield "no UTF-8, signed with another secret", b"\xff" * 20, sign(b"\xff" * 20, "x")
    yield "half a letter", GOOD[: GOOD.index("😀".encode()) + 2], good
    yield "a surrogate", GOOD.replace("😀".encode(), b"\xed\xa0\x80"), good
    yield "UTF-16", GOOD.decode().encode("utf-16"), good
    yield "as large as may be", b" " * BODY_MAX_BYTES, good
    # Signed, but no event of ours: only somebody with the secret gets here.
    for name, document in {
        "a list": [event()],
        "a text": "evt_1",
        "a number": 7,
        "null": None,
        "a thin event": {"id": "evt_1", "object": "v2.core.event", "type": "v1.charge.refunded"},
        "no id": event(id=None),
        "an id that is a number": event(id=1),
        "an id with a NUL": event(id="evt_\0"),
        "an id of a megabyte's tenth": event(id="evt_" + "1" * 100_000),
        "an id of another kind": event(id="in_1"),
        "no type": event(type=None),
        "no mode": event(livemode=None),
        "a mode in words": event(livemode="false"),
        "money of the other mode": event(livemode=True),
        "no data": event(data=None),
        "an object that is a list": event(data={"object": []}),
        "an object that is a text": event(data={"object": "cs_1"}),
        "no time": event(created=None),
        "a time that is none": event(created=2**70),
        "a time that is true": event(created=True),
    }.items():
        body = json.dumps(document).encode()
        yield f"signed, {name}", body, sign(body)
    deep = b"[" * 100_000
    yield "signed, very deep", deep, sign(deep)
    yield "signed, no JSON", b"evt_1", sign(b"evt_1")
    nothing = json.dumps(event()).encode() + b"}"
    yield "signed, more than JSON", nothing, sign(nothing)


FORGERIES = list(forgeries())


def test_forged_and_mutated_webhooks_are_refused_without_a_trace(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            accepted = []
            for name, body, _ in FORGERIES:
                header = next(header for other, _, header in forgeries() if other == name)
                try:
                    await gateway.billing.receive(body, header)
                except BadRequest:  # 400, and nothing else
                    continue
                accepted.append(name)
            assert accepted == []
            for size in (BODY_MAX_BYTES + 1, 10_000_000):
                body = b" " * size
                with pytest.raises(BodyTooLarge):
                    await gateway.billing.receive(body, sign(body))
            await gateway.billing.receive(GOOD, sign(GOOD))
            assert shop.rows("SELECT id, state FROM stripe_events") == [("evt_1", "new")]

    assert len(FORGERIES) >= 60
    run(main())


@settings(max_examples=PAYLOADS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=400), st.sampled_from([SECRET, "whsec_ünïcödé", "x"]), st.integers(-240, 240))
def test_our_verifier_agrees_with_the_sdks_signer_and_with_one_written_from_the_description(text, secret, at):
    try:
        body = json.dumps({"text": text}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        body = json.dumps({"text": text}).encode()
    seconds = int(time.time()) + at
    theirs = WebhookSignature.generate_signature_header(body.decode(), secret, seconds)
    assert theirs == sign_at(seconds, body, secret)
    assert is_signed(body, theirs, secret)
    assert not is_signed(body, theirs, secret + "x")
    assert not is_signed(body + b" ", theirs, secret)


def test_any_of_several_secrets_will_do_and_any_of_several_signatures(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            for number, secret in enumerate((SECRET, "whsec_of_another_endpoint")):
                await gateway.receive(event(id=f"evt_{number}"), secret)
            body = json.dumps(event(id="evt_rolled")).encode()
            new, old = sign(body, "whsec_not_known_here_yet"), sign(body)
            await gateway.billing.receive(body, new + "," + old.split(",")[1])
            assert len(shop.rows("SELECT id FROM stripe_events")) == 3

    run(main())


def test_an_event_is_stored_before_the_200_and_once(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as one, shop.gateway() as two:
            await asyncio.gather(*(g.receive(event()) for g in (one, two) for _ in range(25)))
            assert shop.rows("SELECT id, state, object_id FROM stripe_events") == [("evt_1", "new", "cs_test_1")]

    run(main())


def test_what_can_not_be_stored_is_not_acknowledged(local_shop, run):
    async def main():
        async with local_shop.open(), local_shop.gateway() as gateway:
            await gateway.database.transaction(lambda db: db.exec_driver_sql("DROP TABLE stripe_events"))
            with pytest.raises(BillingUnavailable):
                await gateway.receive(event())

    run(main())


@pytest.mark.parametrize("kind", ["customer.created", "invoice.paid", "payment_intent.succeeded", "x" * 200])
def test_events_that_nobody_asked_for_are_taken_and_ignored(local_shop, run, kind):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            await gateway.receive(event(type=kind))
            await gateway.work()
            assert shop.rows("SELECT state FROM stripe_events") == [("ignored",)]
            assert sum(shop.stripe.books.calls.values()) == 0

    run(main())


def test_live_money_is_refused_by_a_test_key_and_test_money_by_a_live_one(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open():
            for key, livemode in (("sk_test_sandbox", True), ("rk_live_x", False), ("sk_live_x", False)):
                async with shop.gateway(secret_key=key) as gateway:
                    with pytest.raises(BadRequest):
                        await gateway.receive(event(livemode=livemode))
                    await gateway.receive(event(id=f"evt_{key}", livemode=not livemode))
            assert len(shop.rows("SELECT id FROM stripe_events")) == 3

    run(main())


def test_the_documented_events_are_those_that_are_handled():
    page = Path(__file__).parents[2].joinpath("docs", "billing.md").read_text()
    for name in EVENTS:
        assert f"`{name}`" in page, name
