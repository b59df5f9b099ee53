"""What every provider owes the proxy, whatever it is built on."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from gateway.credits.provider import NO_POLICY, Hold, HoldLost, Policy, RateLimit
from gateway.errors import (
    Conflict,
    GatewayError,
    Invalid,
    InvalidKey,
    KeyDisabled,
    KeyExpired,
    OutOfCredits,
    RateLimited,
)
from tests.credits.conftest import Ledger
from tests.credits.unkey.harness import UnkeyLedger
from tests.database.postgres import contents

HOLDS = 500 if os.environ.get("TORTURE") else 100
"""At once, of each of two processes."""


@pytest.fixture(params=["local-sqlite", "local-postgresql", "unkey-sqlite", "unkey-postgresql"])
def ledger(request, database_of):
    provider, kind = request.param.split("-")
    return {"local": Ledger, "unkey": UnkeyLedger}[provider](database_of(kind))


def test_hold_takes_the_cost_before_anything_else_happens(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            assert (hold.key_id, hold.user_id, hold.cost, hold.available) == (key.key_id, "u", 4, 6)
            balance = await provider.balance(key.key_id)
            assert (balance.available, balance.held) == (6, 4)
            ledger.audit()
            await provider.release(hold, "test")

    run(main())


def test_settling_keeps_the_credits_and_writes_one_spend_entry(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            await provider.settle(hold, 4)
            entry = (await provider.history(key.key_id))[0]
            assert (entry.kind, entry.amount, entry.balance_after, entry.route, entry.request_id) == (
                "spend",
                -4,
                6,
                "/x",
                "r1",
            )
            assert (await provider.balance(key.key_id)).held == 0
        ledger.audit()

    run(main())


def test_settling_for_less_gives_the_rest_back(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=20)
            hold = await provider.hold(secret.encode(), 20, "/x", "r1")
            await provider.settle(hold, 7)
            assert (await provider.balance(key.key_id)).available == 13
        ledger.audit()

    run(main())


def test_released_credits_come_back_and_history_has_the_reason(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            await provider.release(hold, "timeout")
            assert (await provider.balance(key.key_id)).available == 10
            entry = (await provider.history(key.key_id))[0]
            assert (entry.kind, entry.amount, entry.reason, entry.request_id) == ("spend", 0, "timeout", "r1")
        ledger.audit()

    run(main())


@pytest.mark.parametrize("second", ["settle", "release", "keep"])
@pytest.mark.parametrize("first", ["settle", "release"])
def test_a_hold_ends_once_and_the_second_end_is_told(ledger, run, first, second):
    async def end(provider, how, hold):
        await {"settle": lambda: provider.settle(hold, 4), "release": lambda: provider.release(hold, "r")}.get(
            how, lambda: provider.keep(hold)
        )()

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            await end(provider, first, hold)
            with pytest.raises(HoldLost):
                await end(provider, second, hold)
            assert (await provider.balance(key.key_id)).available == (6 if first == "settle" else 10)
        ledger.audit()

    run(main())


def test_no_more_is_held_than_there_is_at_any_concurrency(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=10)
            outcomes = await asyncio.gather(
                *(p.hold(secret.encode(), 3, "/x", f"r{p is one}{n}") for n in range(HOLDS) for p in (one, two)),
                return_exceptions=True,
            )
            holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
            assert len(holds) == 3
            assert [outcome for outcome in outcomes if not isinstance(outcome, (Hold, OutOfCredits))] == []
            assert (await one.balance(key.key_id)).available == 1
            ledger.audit()

    run(main())


def test_out_of_credits_tells_what_a_program_needs_to_know(ledger, run):
    async def main():
        async with ledger.provider(checkout="/checkout") as provider:
            secret, _ = await provider.create("u", credits=5)
            hold = await provider.hold(secret.encode(), 3, "/x", "r1")
            with pytest.raises(OutOfCredits) as caught:
                await provider.hold(secret.encode(), 4, "/x", "r2")
            problem = caught.value.problem("r2")
            told = {name: problem[name] for name in ("available", "held", "cost", "shortfall", "checkout")}
            assert told == {"available": 2, "held": 3, "cost": 4, "shortfall": 2, "checkout": "/checkout"}
            await provider.release(hold, "test")

    run(main())


def test_an_unlimited_key_is_never_refused_and_its_calls_are_still_in_the_history(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=None)
            hold = await provider.hold(secret.encode(), 1_000_000_000, "/x", "r1")
            assert hold.available is None
            await provider.settle(hold, 1_000_000_000)
            entry = (await provider.history(key.key_id))[0]
            assert (entry.amount, entry.balance_after) == (-1_000_000_000, None)

    run(main())


def test_a_free_call_checks_the_key_and_moves_nothing(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=0)
            hold = await provider.hold(secret.encode(), 0, "/x", "r1")
            assert (hold.id, hold.available) == (0, 0)
            await provider.settle(hold, 0)
            assert await provider.history(key.key_id) == []
            with pytest.raises(InvalidKey):
                await provider.hold(b"gw_" + b"0" * 49, 0, "/x", "r2")

    run(main())


def test_keys_that_may_not_be_used_are_refused_each_with_its_own_error(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            disabled, key = await provider.create("u", credits=5)
            await provider.enable(key.key_id, False)
            expired, _ = await provider.create("u", credits=5, expires_at=int(time.time() * 1000) - 1)
            revoked, key = await provider.create("u", credits=5)
            assert await provider.revoke(key.key_id)
            for secret, error in [
                (disabled, KeyDisabled),
                (expired, KeyExpired),
                (revoked, InvalidKey),
                ("gw_unknown", InvalidKey),
                ("sk_other", InvalidKey),
            ]:
                with pytest.raises(error):
                    await provider.hold(secret.encode(), 1, "/x", "r")

    run(main())


def test_rotating_keeps_key_id_balance_and_history_and_stops_the_old_secret_at_once(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            old, key = await provider.create("u", credits=5)
            hold = await provider.hold(old.encode(), 2, "/x", "r1")
            new, rotated = await provider.rotate(key.key_id)
            assert (rotated.key_id, rotated.available, rotated.held) == (key.key_id, 3, 2)
            with pytest.raises(InvalidKey):
                await provider.hold(old.encode(), 1, "/x", "r2")
            await provider.settle(hold, 2)
            assert (await provider.hold(new.encode(), 0, "/x", "r3")).available == 3
            await provider.revoke(key.key_id)
            assert await provider.rotate(key.key_id) is None
            assert await provider.rotate("key_none") is None
        ledger.audit()

    run(main())


@pytest.mark.parametrize("prefix", ["failed:", "short:", "first-seen:", "create:"])
def test_a_reference_of_the_ledgers_own_is_refused_to_others(ledger, run, prefix):
    """It would keep the ledger from writing what it must."""

    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=10)
            with pytest.raises(Invalid) as refused:
                await provider.grant(key.key_id, 5, "promo", "test", f"{prefix}x")
            assert set(refused.value.members["errors"]) == {"reference"}
            with pytest.raises(Invalid):
                await provider._database.transaction(
                    lambda db: provider.grant_in(db, key.key_id, 5, "purchase", "test", f"{prefix}x")
                )
            assert (await provider.balance(key.key_id)).available == 10

    run(main())


def test_a_grant_is_applied_once_per_reference(ledger, run):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            _, key = await one.create("u", credits=0)
            entries = await asyncio.gather(
                *(p.grant(key.key_id, 50, "purchase", "starter", "order:1") for _ in range(20) for p in (one, two))
            )
            assert len({entry.id for entry in entries}) == 1
            assert (await one.balance(key.key_id)).available == 50
            with pytest.raises(Conflict):
                await one.grant(key.key_id, 51, "purchase", "starter", "order:1")
        ledger.audit()

    run(main())


@pytest.mark.parametrize("amount", [0, -1, 2**63, 1.5, "10", True, None])
def test_amounts_that_are_no_credits_are_refused_by_name(ledger, run, amount):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=0)
            with pytest.raises(Invalid) as caught:
                await provider.grant(key.key_id, amount, "promo", "test", "ref")
            assert "amount" in caught.value.members["errors"]
            assert (await provider.balance(key.key_id)).available == 0

    run(main())


def test_an_adjustment_never_takes_what_is_held_or_not_there(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 8, "/x", "r1")
            with pytest.raises(Invalid):
                await provider.grant(key.key_id, -3, "adjustment", "test", "a:1")
            entry = await provider.grant(key.key_id, -2, "adjustment", "test", "a:2")
            assert entry.balance_after == 8
            await provider.settle(hold, 8)
        ledger.audit()

    run(main())


def test_history_pages_newest_first_and_shows_only_the_keys_own_entries(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            keys = [await provider.create("u", credits=100) for _ in range(3)]
            for n in range(30):
                secret, _ = keys[n % 3]
                await provider.settle(await provider.hold(secret.encode(), 1, "/x", f"r{n}"), 1)
            seen: list[int] = []
            before = None
            while page := await provider.history(keys[1][1].key_id, before=before, limit=4):
                seen += [entry.id for entry in page]
                assert all(entry.request_id is None or int(entry.request_id[1:]) % 3 == 1 for entry in page)
                before = page[-1].id
            assert len(seen) == 11
            assert seen == sorted(seen, reverse=True)
            assert await provider.history("key_none") == []
            other = (await provider.history(keys[0][1].key_id))[0].id
            assert await provider.history(keys[1][1].key_id, before=other) == []

    run(main())


MONTH = 2_592_000
"""The longest window there is: none of these tests will ever see one end."""


def limited(limit, permission="", **more):
    return Policy(permission, RateLimit(limit, MONTH, **more))


async def outcomes_of(provider, secret, policy, calls, *, cost=1, route="/x"):
    """What becomes of so many calls, one after the other: "" for a hold, else the error's name."""
    found = []
    for n in range(calls):
        try:
            await provider.hold(secret.encode(), cost, route, f"{route}{policy!r}{n}", policy)
        except GatewayError as error:
            found.append(type(error).__name__)
        else:
            found.append("")
    return found


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("personas.write", True),
        ("personas.read", False),
        ("personas.write AND eu", True),
        ("personas.write and (us or eu)", True),
        ("us AND personas.write OR eu", True),
        ("us AND (personas.write OR eu)", False),
        ("personas.*", False),
        ("Personas.write", False),
        ("any.*", True),
        ("any.thing", False),
    ],
)
def test_a_key_without_the_permissions_that_are_asked_for_is_forbidden_and_pays_nothing(ledger, run, query, allowed):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=5, permissions=["personas.write", "eu", "any.*"])
            assert await outcomes_of(provider, secret, Policy(query), 1) == ["" if allowed else "Forbidden"]
            assert (await provider.balance(key.key_id)).available == (4 if allowed else 5)
            assert await outcomes_of(provider, secret, Policy(query), 1, cost=0) == ["" if allowed else "Forbidden"]
            none, _ = await provider.create("v", credits=5)
            assert await outcomes_of(provider, none, Policy(query), 1) == ["Forbidden"]

    run(main())


def test_one_call_more_than_the_limit_is_refused_told_why_and_pays_nothing(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            assert await outcomes_of(provider, secret, limited(3), 3) == ["", "", ""]
            with pytest.raises(RateLimited) as caught:
                await provider.hold(secret.encode(), 1, "/x", "r", limited(3))
            told = caught.value.members
            assert (told["limit"], told["remaining"]) == (3, 0)
            assert 0 < told["reset"] <= MONTH + 1
            assert (b"retry-after", b"%d" % told["reset"]) in caught.value.headers
            assert (await provider.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_a_limit_counts_each_key_and_each_route_for_itself(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            one, _ = await provider.create("u", credits=10)
            two, _ = await provider.create("u", credits=10)
            assert await outcomes_of(provider, one, limited(1), 2) == ["", "RateLimited"]
            assert await outcomes_of(provider, two, limited(1), 2) == ["", "RateLimited"]
            assert await outcomes_of(provider, one, limited(1), 2, route="/y") == ["", "RateLimited"]
            assert await outcomes_of(provider, one, limited(1, name="GET /x"), 2) == ["", "RateLimited"]
            assert await outcomes_of(provider, one, NO_POLICY, 2) == ["", ""]

    run(main())


def test_free_calls_count_too(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=0)
            assert await outcomes_of(provider, secret, limited(2), 3, cost=0) == ["", "", "RateLimited"]

    run(main())


def test_a_released_call_has_been_made_all_the_same(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            await provider.release(await provider.hold(secret.encode(), 1, "/x", "r", limited(1)), "5xx")
            assert await outcomes_of(provider, secret, limited(1), 1) == ["RateLimited"]

    run(main())


def test_refusals_come_in_their_order_and_only_the_last_has_used_up_a_call(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            poor, _ = await provider.create("u", credits=1, permissions=["read"])
            assert await outcomes_of(provider, poor, limited(2, "write"), 3, cost=2) == ["Forbidden"] * 3
            refused = await outcomes_of(provider, poor, limited(2, "read"), 3, cost=2)
            assert refused == ["OutOfCredits", "OutOfCredits", "RateLimited"]
            assert await outcomes_of(provider, poor, limited(2, "write"), 1, cost=2) == ["Forbidden"]
            disabled, key = await provider.create("u", credits=1)
            await provider.enable(key.key_id, False)
            assert await outcomes_of(provider, disabled, limited(2, "write"), 1, cost=2) == ["KeyDisabled"]
            assert await outcomes_of(provider, "gw_unknown", limited(2, "write"), 1, cost=2) == ["InvalidKey"]

    run(main())


def test_no_more_pass_than_the_limit_at_any_concurrency(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=1_000)
            outcomes = await asyncio.gather(
                *(
                    p.hold(secret.encode(), n % 2, "/x", f"r{p is one}{n}", limited(7))
                    for n in range(100)
                    for p in (one, two)
                ),
                return_exceptions=True,
            )
            holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
            assert len(holds) == 7
            assert [outcome for outcome in outcomes if not isinstance(outcome, (Hold, RateLimited))] == []
            held = sum(hold.cost for hold in holds)
            assert (await one.balance(key.key_id)).available == 1_000 - held
        ledger.audit()  # who was refused is told before it is written that nothing was taken

    run(main())


def test_a_secret_is_identified_without_spending_and_without_an_entry(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=7, name="mine")
            for _ in range(3):
                found = await provider.identify(secret.encode())
                assert (found.key_id, found.user_id, found.available, found.held) == (key.key_id, "u", 7, 0)
            empty, key = await provider.create("v", credits=0)
            assert (await provider.identify(empty.encode())).available == 0
            unlimited, key = await provider.create("w", credits=None)
            assert (await provider.identify(unlimited.encode())).available is None
            assert await provider.history(key.key_id) == []
        assert ledger.open_holds() == 0
        ledger.audit()

    run(main())


def test_a_secret_that_nobody_has_any_more_identifies_nobody(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            revoked, key = await provider.create("u", credits=5)
            await provider.revoke(key.key_id)
            rotated, key = await provider.create("u", credits=5)
            new, _ = await provider.rotate(key.key_id)
            assert (await provider.identify(new.encode())).key_id == key.key_id
            for secret in (revoked.encode(), rotated.encode(), b"gw_unknown", b"sk_other", b"", b"\xff" * 600):
                assert await provider.identify(secret) is None, secret

    run(main())


def test_a_disabled_and_an_expired_key_are_identified_as_such(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            disabled, key = await provider.create("u", credits=5)
            await provider.enable(key.key_id, False)
            assert (await provider.identify(disabled.encode())).enabled is False
            past = int(time.time() * 1000) - 1
            expired, _ = await provider.create("u", credits=5, expires_at=past)
            assert (await provider.identify(expired.encode())).expires_at == past

    run(main())


def test_a_keys_permissions_are_told_and_stay_when_it_is_rotated(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=1, permissions=["personas.read", "system:eu-1", "x" * 100])
            expected = {"personas.read", "system:eu-1", "x" * 100}
            _, rotated = await provider.rotate(key.key_id)
            (listed,) = await provider.list("u")
            for shown in (key, await provider.get(key.key_id), rotated, listed):
                assert isinstance(shown.permissions, tuple)
                assert set(shown.permissions) == expected
                assert len(shown.permissions) == 3
            _, plain = await provider.create("v", credits=1)
            assert plain.permissions == ()

    run(main())


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "a/b", "(a)", "x" * 101])
def test_a_name_that_is_no_permission_makes_no_key(ledger, run, name):
    async def main():
        async with ledger.provider() as provider:
            with pytest.raises(Invalid) as caught:
                await provider.create("u", credits=1, permissions=["fine", name])
            assert "permissions" in caught.value.members["errors"]
            assert await provider.list("u") == []

    run(main())


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\0", "\x85"])
def test_a_name_that_nobody_could_show_makes_no_key(ledger, run, name):
    async def main():
        async with ledger.provider() as provider:
            with pytest.raises(Invalid) as caught:
                await provider.create("u", credits=1, name=name)
            assert caught.value.members["errors"].keys() == {"name"}
            assert await provider.list("u") == []
            _, key = await provider.create("u", credits=1, name="ü" * 100)
            assert (await provider.get(key.key_id)).name == "ü" * 100

    run(main())


def test_only_the_hash_of_a_secret_is_stored(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=1)
            await provider.hold(secret.encode(), 1, "/x", "r1")
        return secret

    secret = run(main())
    for content in contents(ledger.url):
        assert secret.encode() not in content
        assert secret[10:].encode() not in content
