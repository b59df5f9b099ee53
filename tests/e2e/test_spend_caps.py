"""Spend caps over real sockets: two workers, a crowd, kill -9, and who may change them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from tests.e2e.audit import audit, open_holds
from tests.e2e.caller import Caller, call, request
from tests.e2e.harness import allow_many_sockets, gateway, settings, until
from tests.e2e.test_control_plane import ADMIN_TOKEN, ask, crowd
from tests.e2e.test_kill import QUICK
from tests.e2e.upstream import Upstream

CALLS = 200


def open_gateway(directory, upstream, **sections):
    sections = {"server": {"workers": 2}, "identity": {"admin_token": ADMIN_TOKEN}, **sections}
    return gateway(directory, settings(directory, upstream.url, **sections))


def ask_now(running, method, path, credential, document=None):
    answer = asyncio.run(call(running.port, ask(method, path, credential, document)))
    return answer, json.loads(answer.body)


def month_of(running, key):
    answer, balance = ask_now(running, "GET", "/credits", key)
    assert answer.status == 200
    return balance["spend_caps"]["month"]


def test_a_crowd_at_two_workers_spends_exactly_what_the_cap_leaves(tmp_path):
    """The cap comes while the gateway serves, to a key that has spent already."""
    allow_many_sockets()
    with Upstream() as upstream, open_gateway(tmp_path, upstream) as running:
        key, key_id = running.create_key(1_000)
        running.start()
        answers = [asyncio.run(call(running.port, request(key))) for _ in range(4)]
        change = {"spend_caps": {"month": 14}}
        assert ask_now(running, "PATCH", f"/api-keys/{key_id}", key, change)[0].slug == "forbidden"
        answer, shown = ask_now(running, "PATCH", f"/api-keys/{key_id}", ADMIN_TOKEN, change)
        assert (answer.status, shown["spend_caps"]["month"]["spent"]) == (200, 4)
        asked = asyncio.run(crowd(running.port, [request(key, "slow")] * CALLS))
        assert Counter(answer.status for answer in asked) == {200: 10, 402: CALLS - 10}
        refused = next(answer for answer in asked if answer.status == 402)
        problem = json.loads(refused.body)
        assert refused.slug == "spend-cap-reached"
        assert "retry-after" not in refused.headers
        assert [problem[name] for name in ("cap", "limit", "spent", "cost")] == ["month", 14, 14, 1]
        assert month_of(running, key) == {"cap": 14, "spent": 14, "resets_at": problem["resets_at"]}
        assert ask_now(running, "PATCH", f"/api-keys/{key_id}", ADMIN_TOKEN, {"spend_caps": {"month": 15}})[1]
        asked += asyncio.run(crowd(running.port, [request(key)] * 5))
        assert Counter(answer.status for answer in asked)[200] == 11
        assert running.stop() == 0
        assert audit(running.database, upstream, [*answers, *asked]).available(key_id) == 985


def test_failed_calls_give_back_to_the_cap(tmp_path):
    with Upstream() as upstream, open_gateway(tmp_path, upstream) as running:
        key, _ = running.create_key(None, spend_caps={"month": 2})
        running.start()
        answers = [
            asyncio.run(call(running.port, request(key, what)))
            for what in ("fail", "reset", "fail", "ok", "fail", "ok")
        ]
        assert Counter(answer.status for answer in answers) == {503: 3, 502: 1, 200: 2}
        assert asyncio.run(call(running.port, request(key))).slug == "spend-cap-reached"
        assert running.stop() == 0
        audit(running.database, upstream, answers)


def test_what_was_held_at_a_kill_is_given_back_to_the_cap(tmp_path):
    with Upstream() as upstream, open_gateway(tmp_path, upstream, credits=QUICK) as running:
        key, _ = running.create_key(100, spend_caps={"month": 3})
        running.start()

        async def kill_while_three_calls_run():
            callers = [await Caller.open(running.port) for _ in range(3)]
            for caller in callers:
                caller.send(request(key, "hang"))
            while len(upstream.arrived) < 3:
                await asyncio.sleep(0.01)
            assert (await call(running.port, request(key))).slug == "spend-cap-reached"
            running.kill_group()
            for caller in callers:
                await caller.close()

        asyncio.run(kill_while_three_calls_run())
        running.start()
        until(lambda: open_holds(running.database) == 0)
        assert month_of(running, key)["spent"] == 0
        answers = asyncio.run(crowd(running.port, [request(key)] * 5))
        assert Counter(answer.status for answer in answers) == {200: 3, 402: 2}
        assert running.stop() == 0
        audit(running.database, upstream, answers)
