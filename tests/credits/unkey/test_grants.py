"""Grants on their way to Unkey, which has no idempotency keys: each takes effect once, or is in doubt until the books
or a person tell. Each grant here has an amount of its own, by which its effects are counted in Unkey's books."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from sqlalchemy import event

from gateway.credits.unkey import grants
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.errors import Conflict, CreditsUnavailable, Invalid
from tests.credits.conftest import until
from tests.credits.unkey.harness import UnkeyLedger

QUICK = {"resolve_seconds": 0.3}
LOST = [
    ("reset", {}),
    ("closed", {}),
    ("silent", {}),
    ("error", {"status": 500}),
    ("error", {"status": 503}),
    ("error", {"status": 408}),
    ("malformed", {"how": "truncated"}),
    ("malformed", {"how": "html"}),
    ("malformed", {"how": "missing_data"}),
]
"""Answers that leave open whether a grant took effect."""


@pytest.fixture
def ledger(tmp_path):
    ledger = UnkeyLedger(tmp_path / "gateway.db")
    ledger.section = {"write_timeout_seconds": 0.4}
    return ledger


def effects(ledger, amount):
    """How often Unkey carried out the change of so many credits."""
    bodies = [json.loads(one.asked.raw_body) for one in ledger.server.books.updates if one.carried_out]
    return sum(body["value"] == abs(amount) for body in bodies)


def states(ledger):
    return [state for (state,) in ledger.rows("SELECT state FROM grants ORDER BY id")]


async def grant(provider, key, amount, reference="order:1"):
    return await provider.grant(key.key_id, amount, "purchase", "pack", reference)


@pytest.mark.parametrize("takes_effect", [True, False], ids=["applied", "not-applied"])
@pytest.mark.parametrize(("kind", "switches"), LOST, ids=str)
def test_a_grant_whose_answer_is_lost_takes_effect_once_by_what_the_books_tell(
    ledger, run, kind, switches, takes_effect
):
    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            secret, key = await one.create("u", credits=20)
            ledger.fail(kind, "updateCredits", takes_effect=takes_effect, times=1, **switches)
            await asyncio.gather(grant(one, key, 1000), grant(two, key, 1000))
            await until(lambda: states(ledger) == ["applied"])
            assert effects(ledger, 1000) == 1
            assert len(ledger.server.books.updates) == (1 if takes_effect else 2)
            assert (await one.balance(key.key_id)).available == 1020
            assert await one.list_movements(unsettled=True) == []
            await one.settle(await one.hold(secret.encode(), 5, "/x", "r1"), 5)
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 429])
def test_a_grant_that_unkey_surely_did_not_apply_is_sent_again_or_fails_and_never_twice(
    ledger, run, monkeypatch, status
):
    monkeypatch.setattr("gateway.credits.unkey.outbox.RETRY_SECONDS_MAX", 0.1)

    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=20)
            ledger.fail("error", "updateCredits", status=status, times=1)
            if status in (400, 404, 412):
                with pytest.raises(Conflict):
                    await grant(provider, key, 1000)
                assert (states(ledger), effects(ledger, 1000)) == (["failed"], 0)
            else:
                await grant(provider, key, 1000)
                assert (states(ledger), effects(ledger, 1000)) == (["applied"], 1)
        ledger.audit({})

    run(main())


def test_a_grant_that_failed_for_good_is_told_as_failed_to_every_repeat(ledger, run):
    """Else whoever fulfils an order anew would take it for fulfilled."""

    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=20)
            ledger.fail("error", "updateCredits", status=412, times=1)
            for _ in range(2):
                with pytest.raises(Conflict):
                    await grant(provider, key, 1000)
            assert len(ledger.server.books.updates) == 1
            assert (await provider.balance(key.key_id)).available == 20
        ledger.audit({})

    run(main())


def test_two_processes_that_look_at_one_doubt_at_once_send_it_again_once(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=20)
            ledger.fail("error", "updateCredits", times=1)
            await grant(one, key, 1000)
            assert states(ledger) == ["in_doubt"]
            looking = []
            for number, provider in enumerate((one, two)):
                _meet(provider._client, looking, number * 0.4)
            await until(lambda: states(ledger) == ["applied"])
            await asyncio.sleep(0.8)
            assert len(looking) >= 2
            assert effects(ledger, 1000) == 1
            assert states(ledger) == ["applied"]
        ledger.audit({})

    run(main())


def _meet(client, looking, late_seconds):
    """Its first answer about a key comes when another process has asked too, and so much later."""
    real = client.get_key

    async def get_key(unkey_id):
        answer = await real(unkey_id)
        client.get_key = real
        looking.append(unkey_id)
        await until(lambda: len(looking) > 1)
        await asyncio.sleep(late_seconds)
        return answer

    client.get_key = get_key


def test_a_process_that_can_not_ask_unkey_does_not_call_back_what_another_is_sending(ledger, run):
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=20)

            async def fail_while_it_is_sent(_):
                await until(lambda: states(ledger) == ["sending"])
                raise UnkeyUnavailable(cause="test", possibly_executed=False)

            two._client.get_key = fail_while_it_is_sent
            ledger.fail("slow", "updateCredits", seconds=1.6, takes_effect=True, times=1)
            ledger.fail("slow", "getKey", seconds=0.2, times=2)
            sending = asyncio.create_task(grant(one, key, 1000))
            await until(lambda: states(ledger) == ["pending"])
            two.kick()
            await until(lambda: states(ledger) == ["sending"])
            del two._client.get_key
            await sending
            assert (states(ledger), effects(ledger, 1000)) == (["applied"], 1)
        ledger.audit({})

    run(main())


def test_a_process_that_was_taken_for_dead_while_it_sent_changes_nothing_that_was_decided_since(ledger, run):
    """It wakes up to no answer, when the grant has been resolved and sent anew by another."""

    async def main():
        async with ledger.provider(**QUICK) as survivor:
            _, key = await survivor.create("u", credits=20)
            ledger.section = {"write_timeout_seconds": 2.5}
            async with ledger.provider(resolve_seconds=60) as sleeper:
                ledger.fail("silent", "updateCredits", times=1)
                sending = asyncio.create_task(grant(sleeper, key, 1000))
                await until(lambda: states(ledger) == ["sending"])
                await _bury(survivor, sleeper)
                await until(lambda: states(ledger) == ["applied"])
                assert await sending
                await until(lambda: not ledger.server.faults._faults[0].left)
                await asyncio.sleep(1)
            assert states(ledger) == ["applied"]
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


async def _bury(survivor, other):
    number = other.heart.instance
    await survivor._database.transaction(
        lambda connection: connection.exec_driver_sql("DELETE FROM instances WHERE id = ?", (number,))
    )


def test_a_late_yes_counts_though_the_process_that_hears_it_was_taken_for_dead(ledger, run):
    async def main():
        async with ledger.provider(resolve_seconds=60) as survivor:
            _, key = await survivor.create("u", credits=20)
            ledger.section = {"write_timeout_seconds": 5}
            async with ledger.provider(resolve_seconds=60) as sleeper:
                ledger.fail("slow", "updateCredits", seconds=1.5, takes_effect=True, times=1)
                sending = asyncio.create_task(grant(sleeper, key, 1000))
                await until(lambda: states(ledger) == ["sending"])
                await _bury(survivor, sleeper)
                await until(lambda: states(ledger) == ["in_doubt"])
                await until(lambda: states(ledger) == ["applied"])
                await sending
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


def test_calls_that_unkey_was_asking_about_when_a_grant_was_sent_do_not_pass_for_it(ledger, run):
    """They were taken before what Unkey had was read, and come into the pool after."""

    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=2000)
            ledger.fail("slow", seconds=0.6, takes_effect=True, times=1)
            asking = asyncio.create_task(provider.hold(secret.encode(), 1000, "/x", "r1"))
            await until(lambda: len(ledger.verifies()) == 1)
            ledger.fail("error", "updateCredits", takes_effect=False, times=1)
            await grant(provider, key, 1000)
            await provider.release(await asking, "5xx")
            await asyncio.sleep(1.5)
            await _resolve(provider, ledger, applied=False)
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


def test_spending_that_unkey_has_not_written_down_yet_does_not_hide_a_grant(tmp_path, run):
    ledger = UnkeyLedger(tmp_path / "gateway.db", replay_lag_seconds=0.25)
    ledger.section = {"write_timeout_seconds": 0.4}

    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=2000)
            await provider.settle(await provider.hold(secret.encode(), 1000, "/x", "r1"), 1000)
            ledger.fail("reset", "updateCredits", takes_effect=True, times=1)
            await grant(provider, key, 1000)
            await asyncio.sleep(1.5)
            await _resolve(provider, ledger, applied=True)
            assert effects(ledger, 1000) == 1

    run(main())


async def _resolve(provider, ledger, *, applied):
    """A person's word, where it is still asked for."""
    for movement in await provider.list_movements(unsettled=True):
        if movement.state == "in-doubt":
            await provider.resolve_movement(movement.id, "applied" if applied else "not-applied")
    provider.kick()
    await until(lambda: states(ledger) == ["applied"])


@pytest.mark.parametrize("applied", [True, False])
def test_what_the_books_can_not_tell_waits_for_a_person_and_is_never_sent_blindly(ledger, run, monkeypatch, applied):
    monkeypatch.setattr("gateway.credits.unkey.outbox.LOOKS_MAX", 2)

    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=2000)
            ledger.fail("silent", "updateCredits", takes_effect=applied, times=1)
            sending = asyncio.create_task(grant(provider, key, 1000))
            await until(lambda: len(ledger.server.books.updates) == 1)
            # Somebody changes the count at Unkey by hand, so that it tells nothing.
            ledger.server.call("keys.updateCredits", {"keyId": key.key_id, "operation": "decrement", "value": 500})
            await sending
            await asyncio.sleep(2.5)
            assert states(ledger) == ["in_doubt"]
            assert len(ledger.server.books.updates) == 1
            (movement,) = await provider.list_movements(unsettled=True)
            assert (movement.state, movement.amount, movement.reference) == ("in-doubt", 1000, "order:1")
            done = await provider.resolve_movement(movement.id, "applied" if applied else "not-applied")
            assert done.state == ("applied" if applied else "pending")
            await _resolve(provider, ledger, applied=applied)
            assert effects(ledger, 1000) == 1
            with pytest.raises(Conflict):
                await provider.resolve_movement(movement.id, "not-applied")

    run(main())


def test_a_grant_that_is_being_sent_reaches_the_key_though_it_is_rotated(ledger, run):
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=20)
            ledger.fail("slow", "updateCredits", seconds=0.5, times=1)  # carried out when the key would be rotated
            sending = asyncio.create_task(grant(one, key, 1000))
            await until(lambda: states(ledger) == ["sending"])
            await two.rotate(key.key_id)
            await sending
            assert (await one.balance(key.key_id)).available == 1020
        ledger.audit({})

    run(main())


def test_a_grant_that_comes_while_its_key_is_rotated_goes_to_the_new_one(ledger, run):
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=20)
            ledger.fail("slow", "rerollKey", seconds=0.6, takes_effect=True, times=1)
            rotating = asyncio.create_task(one.rotate(key.key_id))
            await until(lambda: ledger.server.books.calls["keys.rerollKey"] == 1)
            await grant(two, key, 1000)
            await rotating
            await until(lambda: states(ledger) == ["applied"])
            assert (await one.balance(key.key_id)).available == 1020
        ledger.audit({})

    run(main())


def test_a_grant_that_finds_its_key_rotated_meanwhile_does_not_fail(ledger, run):
    """What Unkey called it before is gone there."""

    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=20)
            real = one._client.get_key
            count = 0

            async def get_key(unkey_id):
                nonlocal count
                count += 1
                if count == 2:  # when the grant is about to be sent
                    await two.rotate(key.key_id)
                return await real(unkey_id)

            one._client.get_key = get_key
            await grant(one, key, 1000)
            await until(lambda: states(ledger) == ["applied"])
            assert (await one.balance(key.key_id)).available == 1020
        ledger.audit({})

    run(main())


def test_a_process_that_is_told_to_stop_finishes_the_grant_that_it_is_sending(ledger, run):
    """Any command that opens the provider may be the one that sends."""
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(resolve_seconds=60) as one:
            _, key = await one.create("u", credits=20)
            ledger.fail("slow", "updateCredits", seconds=0.5, times=1)
            sending = asyncio.create_task(grant(one, key, 1000))
            await until(lambda: states(ledger) == ["sending"])
        assert states(ledger) == ["applied"]
        assert effects(ledger, 1000) == 1
        await asyncio.wait([sending])
        ledger.audit({})

    run(main())


def test_grants_of_one_key_are_sent_one_after_the_other_in_their_order(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as one, ledger.provider(**QUICK) as two:
            _, key = await one.create("u", credits=0)
            ledger.fail("error", "updateCredits", takes_effect=True, times=1)
            await asyncio.gather(
                *(grant((one, two)[n % 2], key, 1000 + n, f"order:{n}") for n in range(6)), return_exceptions=True
            )
            await until(lambda: set(states(ledger)) == {"applied"})
            assert [effects(ledger, 1000 + n) for n in range(6)] == [1] * 6
            numbers = [amount for (amount,) in ledger.rows("SELECT amount FROM grants ORDER BY id")]
            sent = [json.loads(one.asked.raw_body)["value"] for one in ledger.server.books.updates]
            assert sent == numbers
        ledger.audit({})

    run(main())


def test_a_grant_while_unkey_can_not_be_asked_is_refused_and_nothing_is_written(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=20)
            ledger.fail("error", "getKey", times=1)
            with pytest.raises(CreditsUnavailable):
                await grant(provider, key, 1000)
            assert ledger.count("grants") == 0
            await grant(provider, key, 1000)
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


def test_whoever_looks_for_work_does_not_read_all_that_was_ever_granted(ledger, run):
    """Every process does so several times a second, inside the one thread that speaks to the database."""

    def explain(connection):
        plans = []

        def note(_connection, cursor, statement, parameters, *_):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append([row[3] for row in rows if " grants" in row[3] or " older" in row[3]])

        event.listen(connection, "before_cursor_execute", note)
        grants.read_due(connection)
        grants.count_orphans(connection)
        grants.read_doubtful(connection, 1000)
        grants.is_sending(connection, 1)
        event.remove(connection, "before_cursor_execute", note)
        return plans

    async def main():
        async with ledger.provider() as provider:
            plans = await provider._database.read(explain)
        assert [len(plan) for plan in plans] == [2, 1, 1, 1]
        assert {line for plan in plans for line in plan if "grants_unsettled" not in line} == set()

    run(main())


def test_what_can_not_be_written_down_of_one_grant_does_not_stop_the_others(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=20)
            _, other = await provider.create("v", credits=20)
            await grant(provider, key, 1, "plain")
            await _rename(provider, "plain", "failed:x")
            ledger.fail("error", "updateCredits", status=412, times=1)
            sending = asyncio.create_task(grant(provider, key, 1000, "x"))
            await until(lambda: states(ledger) == ["applied", "in_doubt"])
            await sending
            await grant(provider, other, 2000, "order:2")
            assert states(ledger) == ["applied", "in_doubt", "applied"]
            await _rename(provider, "failed:x", "plain")
            (movement,) = await provider.list_movements(unsettled=True)
            assert (movement.reference, movement.state) == ("x", "in-doubt")
            await provider.resolve_movement(movement.id, "not-applied")
            provider.kick()
            await until(lambda: states(ledger) == ["applied"] * 3)
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


async def _rename(provider, reference, another):
    await provider._database.transaction(
        lambda db: db.exec_driver_sql("UPDATE entries SET reference = ? WHERE reference = ?", (another, reference))
    )


@pytest.mark.parametrize("ends", ["revoked", "rotated"])
def test_a_grant_that_waits_for_a_failed_rotation_says_so_and_does_not_wait_for_ever(ledger, run, ends):
    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=20)
            ledger.fail("error", "rerollKey", times=1)
            with pytest.raises(CreditsUnavailable):
                await provider.rotate(key.key_id)
            await provider._database.transaction(
                lambda db: provider.grant_in(db, key.key_id, 1000, "purchase", "pack", "order:1")
            )
            provider.kick()
            (movement,) = await provider.list_movements(unsettled=True)
            assert (movement.state, "rotation" in movement.cause) == ("pending", True)
            if ends == "revoked":
                await provider.revoke(key.key_id)
                provider.kick()
                await until(lambda: states(ledger) == ["failed"])
                assert ledger.rows("SELECT sum(amount) FROM entries") == [(20,)]
            else:
                await provider.rotate(key.key_id)
                provider.kick()
                await until(lambda: states(ledger) == ["applied"])
                assert effects(ledger, 1000) == 1

    run(main())


def test_what_happens_while_unkey_is_asked_about_a_doubt_does_not_pass_for_evidence(ledger, run):
    """A call as large as the grant is taken and ends between the two looks: the count goes down by it, as if the grant
    had not taken effect."""

    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=2000)
            real = provider._client.get_key

            async def get_key(unkey_id):
                if states(ledger) == ["in_doubt"] and len(ledger.verifies()) == 0:
                    await provider.settle(await provider.hold(secret.encode(), 1000, "/x", "r1"), 1000)
                return await real(unkey_id)

            provider._client.get_key = get_key
            ledger.fail("silent", "updateCredits", takes_effect=True, times=1)
            await grant(provider, key, 1000)
            await asyncio.sleep(2)
            await _resolve(provider, ledger, applied=True)
            assert effects(ledger, 1000) == 1
        ledger.audit({})

    run(main())


def test_a_doubt_that_a_person_decides_while_unkey_is_asked_stays_decided(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=2000)
            real = provider._client.get_key

            async def get_key(unkey_id):
                answer = await real(unkey_id)
                for movement in await provider.list_movements(unsettled=True):
                    if movement.state == "in-doubt":
                        await provider.resolve_movement(movement.id, "applied")
                return answer

            provider._client.get_key = get_key
            ledger.fail("error", "updateCredits", takes_effect=False, times=1)
            await grant(provider, key, 1000)
            await until(lambda: states(ledger) == ["applied"])
            await asyncio.sleep(1)
            assert (states(ledger), effects(ledger, 1000)) == (["applied"], 0)

    run(main())


def test_a_call_in_doubt_that_unkey_counts_late_does_not_hide_a_grant(tmp_path, run):
    """It was in doubt before the grant was sent, and no entry tells of it."""
    ledger = UnkeyLedger(tmp_path / "gateway.db", replay_lag_seconds=1.0)
    ledger.section = {"verify_timeout_seconds": 0.3, "write_timeout_seconds": 0.3}

    async def main():
        async with ledger.provider(resolve_seconds=1.5) as provider:
            secret, key = await provider.create("u", credits=2000)
            ledger.fail("silent", takes_effect=True, times=1)
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 1000, "/x", "r1")
            ledger.fail("silent", "updateCredits", takes_effect=True, times=1)
            await grant(provider, key, 1000)
            await asyncio.sleep(3)
            assert states(ledger) == ["in_doubt"]
            await _resolve(provider, ledger, applied=True)
            assert effects(ledger, 1000) == 1

    run(main())


def test_two_adjustments_never_take_more_than_is_there_together(ledger, run):
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as provider:
            _, key = await provider.create("u", credits=100)
            ledger.fail("slow", "updateCredits", seconds=0.5, times=1)
            taking = [provider.grant(key.key_id, -80, "adjustment", "r", f"a:{n}") for n in (1, 2)]
            outcomes = await asyncio.gather(*taking, return_exceptions=True)
            assert sum(isinstance(outcome, Invalid) for outcome in outcomes) == 1
            assert (states(ledger), ledger.remaining(key.key_id)) == (["applied"], 20)
        ledger.audit({})

    run(main())


def test_what_an_adjustment_does_not_find_at_unkey_any_more_goes_back_into_the_ledger(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=100)
            real = provider._client.get_key

            async def get_key(unkey_id):
                answer = await real(unkey_id)
                if not ledger.verifies():  # the adjustment is accepted by this answer, and sent after the call
                    await provider.settle(await provider.hold(secret.encode(), 70, "/x", "r1"), 70)
                return answer

            provider._client.get_key = get_key
            await provider.grant(key.key_id, -80, "adjustment", "r", "a:1")
            await until(lambda: states(ledger) == ["applied"])
            assert ledger.rows("SELECT amount FROM entries WHERE reference = 'short:a:1'") == [(50,)]
            assert ledger.remaining(key.key_id) == 0
        ledger.audit({})

    run(main())


def test_what_a_clawback_took_is_told_only_when_calls_that_may_have_been_quicker_have_ended(ledger, run):
    """A call is granted between the count that was read and the decrement, and is not written down as granted yet."""
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=50)
            real, holds = provider._client.update_credits, []

            async def update_credits(*asked):
                holds.append(await provider.hold(secret.encode(), 30, "/x", "r1"))
                return await real(*asked)

            provider._client.update_credits = update_credits
            await provider._database.transaction(lambda db: provider.claw_in(db, key.key_id, 50, "refund", "claw:1"))
            provider.kick()
            await until(lambda: states(ledger) == ["in_doubt"])
            (movement,) = await provider.list_movements(unsettled=True)
            with pytest.raises(Conflict):
                await provider.resolve_movement(movement.id, "not-applied")
            await provider.settle(holds[0], 30)
            await until(lambda: states(ledger) == ["applied"])
            assert ledger.rows("SELECT amount FROM entries WHERE reference = 'short:claw:1'") == [(30,)]
            assert len(ledger.server.books.updates) == 1
        ledger.audit({})

    run(main())


def test_a_stale_look_at_a_clawback_never_calls_back_what_is_known_to_have_taken_effect(ledger, run):
    """It would be sent again."""
    ledger.section = {"write_timeout_seconds": 5}

    async def main():
        async with ledger.provider(**QUICK) as provider:
            secret, key = await provider.create("u", credits=50)
            real, holds = provider._client.update_credits, []

            async def update_credits(*asked):
                holds.append(await provider.hold(secret.encode(), 30, "/x", "r1"))
                return await real(*asked)

            provider._client.update_credits = update_credits
            await provider._database.transaction(lambda db: provider.claw_in(db, key.key_id, 50, "refund", "claw:1"))
            provider.kick()
            await until(lambda: states(ledger) == ["in_doubt"])
            known = await provider._database.read(lambda db: grants.find(db, 1))
            stale = dataclasses.replace(known, remaining_after=None)
            await provider._database.transaction(lambda db: grants.postpone(db, stale, 0, "had not taken effect"))
            assert states(ledger) != ["pending"]
            await provider.settle(holds[0], 30)
            await until(lambda: states(ledger) == ["applied"])
            assert len(ledger.server.books.updates) == 1
        ledger.audit({})

    run(main())
