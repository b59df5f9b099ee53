"""keys.verifyKey of the stand-in: its verdicts, their order, and what they cost."""

from __future__ import annotations

import pytest

from tests.sandbox.unkey_caller import START_SECONDS, tell

START_MS = START_SECONDS * 1000
PAST_MS = START_MS - 1
LIMIT = {"name": "calls", "limit": 2, "duration": 60_000, "autoApply": True}


def test_a_valid_verdict_tells_everything_about_the_key():
    async def story(unkey):
        key_id, key = await unkey.create(
            10,
            name="mine",
            externalId="user-1",
            meta={"plan": "pro"},
            permissions=["read"],
            roles=["admin"],
            expires=START_MS + 1000,
        )
        verdict = await unkey.verify(key, credits={"cost": 4})
        identity = verdict.pop("identity")
        assert (identity["externalId"], identity["id"][:3]) == ("user-1", "id_")
        assert verdict == {
            "valid": True,
            "code": "VALID",
            "keyId": key_id,
            "name": "mine",
            "meta": {"plan": "pro"},
            "expires": START_MS + 1000,
            "credits": 6,
            "enabled": True,
            "permissions": ["read"],
            "roles": ["admin"],
        }

    tell(story)


def test_two_keys_of_one_owner_have_one_identity():
    async def story(unkey):
        keys = [(await unkey.create(externalId="user-1"))[1] for _ in range(2)]
        first, second = [(await unkey.verify(key))["identity"] for key in keys]
        assert first == second

    tell(story)


def test_an_unknown_key_is_told_nothing_about():
    async def story(unkey):
        assert await unkey.verify("gw_unknown") == {"valid": False, "code": "NOT_FOUND"}

    tell(story)


def test_a_deleted_key_is_not_found():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.data("keys.deleteKey", keyId=key_id)
        assert await unkey.verify(key) == {"valid": False, "code": "NOT_FOUND"}

    tell(story)


@pytest.mark.parametrize(
    ("fields", "wish", "code"),
    [
        ({"enabled": False}, {}, "DISABLED"),
        ({"expires": PAST_MS}, {}, "EXPIRED"),
        ({}, {"permissions": "write"}, "INSUFFICIENT_PERMISSIONS"),
        ({"ratelimits": [{**LIMIT, "limit": 1}]}, {"ratelimits": [{"name": "calls", "cost": 2}]}, "RATE_LIMITED"),
        ({}, {"credits": {"cost": 11}}, "USAGE_EXCEEDED"),
    ],
)
def test_no_verdict_but_valid_spends_credits_and_each_tells_what_is_left(fields, wish, code):
    async def story(unkey):
        key_id, key = await unkey.create(10, **fields)
        answer = await unkey.ask("keys.verifyKey", {"key": key, **wish})
        assert answer.status == 200
        verdict = answer.document["data"]
        assert (verdict["valid"], verdict["code"], verdict["credits"]) == (False, code, 10)
        assert verdict["keyId"] == key_id
        assert unkey.balances.spent[key_id] == 0
        assert await unkey.stored(key_id) == 10

    tell(story)


def test_checks_come_in_unkeys_order():
    wish = {
        "permissions": "write",
        "ratelimits": [{"name": "once", "limit": 1, "duration": 1000, "cost": 2}],
        "credits": {"cost": 9},
    }
    mend = [
        ("DISABLED", {"enabled": True}),
        ("EXPIRED", {"expires": None}),
        ("INSUFFICIENT_PERMISSIONS", {"permissions": ["write"]}),
    ]

    async def story(unkey):
        key_id, key = await unkey.create(1, enabled=False, expires=PAST_MS)
        for code, change in mend:
            assert (await unkey.verify(key, **wish))["code"] == code
            await unkey.data("keys.updateKey", keyId=key_id, **change)
        assert (await unkey.verify(key, **wish))["code"] == "RATE_LIMITED"
        wish["ratelimits"][0]["limit"] = 5
        assert (await unkey.verify(key, **wish))["code"] == "USAGE_EXCEEDED"
        assert (await unkey.verify(key, **{**wish, "credits": {"cost": 1}}))["code"] == "VALID"

    tell(story)


def test_omitted_credits_cost_one_on_a_limited_key():
    async def story(unkey):
        key_id, key = await unkey.create(3)
        assert (await unkey.verify(key))["credits"] == 2
        assert unkey.balances.spent[key_id] == 1

    tell(story)


def test_cost_zero_is_valid_with_nothing_left():
    async def story(unkey):
        key_id, key = await unkey.create(0)
        assert await unkey.cost(key, 0) == ("VALID", 0)
        assert await unkey.cost(key, 1) == ("USAGE_EXCEEDED", 0)
        assert unkey.balances.spend_count[key_id] == 1

    tell(story)


def test_too_dear_a_call_takes_nothing_and_tells_what_there_is():
    async def story(unkey):
        _, key = await unkey.create(5)
        assert await unkey.cost(key, 10) == ("USAGE_EXCEEDED", 5)
        assert await unkey.cost(key, 5) == ("VALID", 0)

    tell(story)


def test_an_unlimited_key_has_no_credits_to_tell_or_take():
    async def story(unkey):
        key_id, key = await unkey.create()
        assert "credits" not in await unkey.verify(key, credits={"cost": 1_000_000})
        assert key_id not in unkey.balances.spent

    tell(story)


def test_tokens_of_a_rate_limit_are_spent_by_a_call_that_lacks_credits():
    async def story(unkey):
        _, key = await unkey.create(0, ratelimits=[LIMIT])
        verdict = await unkey.verify(key)
        assert (verdict["code"], verdict["ratelimits"][0]["remaining"]) == ("USAGE_EXCEEDED", 1)
        assert (await unkey.verify(key))["code"] == "USAGE_EXCEEDED"
        assert (await unkey.verify(key))["code"] == "RATE_LIMITED"

    tell(story)


def test_a_free_call_meets_rate_limits_too():
    async def story(unkey):
        _, key = await unkey.create(1, ratelimits=[LIMIT])
        codes = [(await unkey.cost(key, 0))[0] for _ in range(3)]
        assert codes == ["VALID", "VALID", "RATE_LIMITED"]

    tell(story)


def test_a_rate_limit_slides():
    """Full at the end of a window, it is half open in the middle of the next one."""
    wish = {"ratelimits": [{"name": "calls", "limit": 10, "duration": 10_000, "cost": 5}]}

    async def story(unkey):
        _, key = await unkey.create()
        unkey.clock.advance(9.999)
        assert [(await unkey.verify(key, **wish))["code"] for _ in range(3)] == ["VALID", "VALID", "RATE_LIMITED"]
        unkey.clock.advance(0.001)
        assert (await unkey.verify(key, **wish))["code"] == "RATE_LIMITED"
        unkey.clock.advance(5)
        verdicts = [await unkey.verify(key, **wish) for _ in range(2)]
        assert [verdict["code"] for verdict in verdicts] == ["VALID", "RATE_LIMITED"]
        unkey.clock.advance(20)
        assert (await unkey.verify(key, **wish))["ratelimits"][0]["remaining"] == 5

    tell(story)


def test_a_rate_limit_tells_its_state_and_the_time_it_resets():
    async def story(unkey):
        _, key = await unkey.create(ratelimits=[LIMIT])
        unkey.clock.advance(15)
        (limit,) = (await unkey.verify(key))["ratelimits"]
        assert limit.pop("id").startswith("rl_")
        assert limit == {**LIMIT, "remaining": 1, "reset": START_MS + 60_000, "exceeded": False}

    tell(story)


def test_of_several_rate_limits_one_that_is_exceeded_leaves_the_others_whole():
    roomy = {"name": "roomy", "limit": 5, "duration": 60_000}
    tight = {"name": "tight", "limit": 1, "duration": 60_000, "cost": 2}

    async def story(unkey):
        _, key = await unkey.create()
        verdict = await unkey.verify(key, ratelimits=[roomy, tight])
        assert [limit["exceeded"] for limit in verdict["ratelimits"]] == [False, True]
        assert (await unkey.verify(key, ratelimits=[roomy]))["ratelimits"][0]["remaining"] == 4

    tell(story)


def test_rate_limits_are_counted_for_each_key():
    async def story(unkey):
        keys = [(await unkey.create(ratelimits=[{**LIMIT, "limit": 1}]))[1] for _ in range(2)]
        assert [(await unkey.verify(key))["code"] for key in keys] == ["VALID", "VALID"]

    tell(story)


def test_a_kept_rate_limit_that_does_not_apply_by_itself_must_be_named():
    async def story(unkey):
        _, key = await unkey.create(ratelimits=[{**LIMIT, "autoApply": False}])
        assert "ratelimits" not in await unkey.verify(key)
        assert (await unkey.verify(key, ratelimits=[{"name": "calls", "cost": 2}]))["ratelimits"][0]["remaining"] == 0

    tell(story)


def test_naming_a_rate_limit_that_is_not_there_is_a_failed_precondition():
    async def story(unkey):
        _, key = await unkey.create(10)
        refusal = await unkey.refused("keys.verifyKey", key=key, ratelimits=[{"name": "none"}])
        assert refusal == (412, "unkey/application/precondition_failed")
        assert (await unkey.verify(key))["credits"] == 9

    tell(story)


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("a", True),
        ("x", False),
        ("a AND b", True),
        ("a AND x", False),
        ("x OR b", True),
        ("a and (x or b)", True),
        ("(a AND x) OR (b AND y)", False),
        ("x OR a AND b", True),
        ("x AND a OR b", True),
        ("docs.read:eu/*", True),
        ("android", False),
    ],
)
def test_a_permission_query_is_evaluated(query, allowed):
    async def story(unkey):
        _, key = await unkey.create(permissions=["a", "b", "docs.read:eu/*"])
        verdict = await unkey.verify(key, permissions=query)
        assert verdict["code"] == ("VALID" if allowed else "INSUFFICIENT_PERMISSIONS")

    tell(story)


@pytest.mark.parametrize("query", ["a AND", "AND a", "(a", "a)", "a b", "()", "a & b", " ", "(" * 20 + "a" + ")" * 20])
def test_a_permission_query_that_makes_no_sense_is_refused_and_costs_nothing(query):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        refusal = await unkey.refused("keys.verifyKey", key=key, permissions=query)
        assert refusal == (400, "user/bad_request/permissions_query_syntax_error")
        assert unkey.balances.spent[key_id] == 0

    tell(story)
