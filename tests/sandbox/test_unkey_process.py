"""The stand-in for Unkey as a process: its line, its control paths, its books."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from gateway.sandbox.unkey.server import API_ID, ROOT_KEY
from gateway.sandbox.unkey.settings import Settings
from tests import preloaded
from tests.sandbox.exchange import exchange
from tests.sandbox.unkey_caller import tell

STOP_SECONDS = 10


@pytest.fixture
def start():
    """Starts a process with these arguments and gives it with the URL that it tells."""
    running = []

    def run(*arguments):
        command = [sys.executable, "-m", "gateway.sandbox.unkey", "--port", "0", *arguments]
        process = preloaded.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stdout.readline()
        return process, re.fullmatch(r"unkey sandbox on (http://127\.0\.0\.1:\d+)\n", line)[1]

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def post(url, body, root_key=ROOT_KEY):
    headers = {"Authorization": f"Bearer {root_key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as response:
        return json.load(response)


def test_the_process_says_where_it_listens_and_ends_when_told(start):
    process, url = start()
    made = post(f"{url}/v2/keys.createKey", {"apiId": API_ID, "credits": {"remaining": 2}})["data"]
    assert post(f"{url}/v2/keys.verifyKey", {"key": made["key"]})["data"]["credits"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0


def test_the_process_takes_its_root_keys_apis_and_lags_from_the_command_line(start):
    _, url = start(
        *("--root-key", "data=api.*.verify_key", "--root-key", "billing", "--api-id", "api_one"),
        *("--replay-lag-seconds", "60", "--key-cache-seconds", "10", "--key-cache-stale-seconds", "600"),
        *("--workspace-limit-per-minute", "9"),
    )
    made = post(f"{url}/v2/keys.createKey", {"apiId": "api_one", "credits": {"remaining": 2}}, "billing")["data"]
    assert post(f"{url}/v2/keys.verifyKey", {"key": made["key"]}, "data")["data"]["credits"] == 1
    with pytest.raises(urllib.error.HTTPError, match="403"):
        post(f"{url}/v2/keys.getKey", {"keyId": made["keyId"]}, "data")
    with urllib.request.urlopen(f"{url}/_sandbox/settings") as response:
        assert json.load(response) == {
            **Settings().document(),
            "replay_lag_seconds": 60,
            "key_cache_seconds": 10,
            "key_cache_stale_seconds": 600,
            "workspace_limit_per_minute": 9,
        }


def test_faults_are_set_seen_and_removed_over_http():
    async def story(unkey):
        shown = await unkey.control("POST", "faults", {"kind": "error", "call": "verifyKey", "times": 2})
        assert (await unkey.ask("keys.verifyKey", {"key": "x"})).status == 500
        (left,) = await unkey.control("GET", "faults")
        assert {**left, "times": 2} == shown[0]
        assert left["times"] == 1
        assert await unkey.control("DELETE", "faults") == []
        assert (await unkey.ask("keys.verifyKey", {"key": "x"})).status == 200
        assert len(await unkey.control("POST", "faults", [{"kind": "slow"}, {"kind": "reset"}])) == 2

    tell(story)


def test_draws_are_repeated_over_http():
    async def story(unkey):
        await unkey.control("POST", "faults", {"kind": "error", "probability": 0.5})
        runs = []
        for _ in range(2):
            await unkey.control("POST", "seed", {"seed": 3})
            runs.append([(await unkey.ask("keys.verifyKey", {"key": "x"})).status for _ in range(20)])
        assert runs[0] == runs[1]

    tell(story)


def test_settings_change_over_http_and_only_to_what_they_can_be():
    async def story(unkey):
        settings = await unkey.control("POST", "settings", {"replay_lag_seconds": 2.5, "regions": 2})
        assert settings == Settings(replay_lag_seconds=2.5, regions=2).document()
        for wrong in ({"regions": 0}, {"novelty": 1}, [], {"regions": 3, "replay_lag_seconds": -1}):
            answer = await exchange(unkey.server.port, "POST", "/_sandbox/settings", body=wrong)
            assert answer.status == 400
        assert await unkey.control("GET", "settings") == settings

    tell(story)


def test_the_clock_is_advanced_over_http():
    async def story(unkey):
        _, key = await unkey.create(expires=(unkey.clock.now_ms() + 1000))
        assert (await unkey.verify(key))["code"] == "VALID"
        await unkey.control("POST", "clock", {"advance_seconds": 1})
        assert (await unkey.verify(key))["code"] == "EXPIRED"

    tell(story)


def test_root_keys_come_and_go_over_http():
    async def story(unkey):
        await unkey.control("POST", "root-keys", {"root_key": "new", "permissions": ["api.*.verify_key"]})
        assert (await unkey.ask("keys.verifyKey", {"key": "x"}, root_key="new")).status == 200
        assert (await unkey.ask("keys.getKey", {"keyId": "key_x"}, root_key="new")).status == 404
        await unkey.control("POST", "root-keys", {"root_key": "new", "enabled": False})
        assert (await unkey.ask("keys.verifyKey", {"key": "x"}, root_key="new")).status == 403
        await unkey.control("DELETE", "root-keys", {"root_key": "new"})
        assert (await unkey.ask("keys.verifyKey", {"key": "x"}, root_key="new")).status == 401

    tell(story)


def test_stored_values_are_brought_up_to_date_over_http():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.cost(key, 4)
        assert await unkey.stored(key_id) == 10
        await unkey.control("POST", "replay")
        assert await unkey.stored(key_id) == 6

    tell(story, settings=Settings(replay_lag_seconds=60))


@pytest.mark.parametrize(("method", "path"), [("GET", "nothing"), ("PUT", "faults"), ("GET", "clock")])
def test_what_is_no_control_path_is_not_there(method, path):
    async def story(unkey):
        assert (await exchange(unkey.server.port, method, f"/_sandbox/{path}")).status == 404

    tell(story)


def test_control_paths_are_no_calls_to_strike_or_count():
    async def story(unkey):
        await unkey.control("POST", "faults", {"kind": "reset"})
        assert (await unkey.control("GET", "books"))["calls"] == {}

    tell(story)


# Books.


def test_the_books_have_every_spend_and_each_keys_credits():
    async def story(unkey):
        key_id, key = await unkey.create(100)
        free, free_key = await unkey.create()
        await asyncio.gather(*(unkey.cost(key, cost) for cost in (5, 7, 1000)))
        await unkey.verify(free_key)
        books = await unkey.control("GET", "books")
        assert books["calls"] == {"keys.createKey": 2, "keys.verifyKey": 4}
        nothing = {"spent": 0, "spends": 0, "unreplayed": 0}
        assert books["keys"] == {
            key_id: {"stored": 100, "live": [88], "unreplayed": 12, "spent": 12, "spends": 2},
            free: {**nothing, "stored": None, "live": [None]},
        }
        spends = books["spends"]
        assert sorted(spend["cost"] for spend in spends) == [5, 7]
        assert {spend["key_id"] for spend in spends} == {key_id}
        assert spends[-1]["remaining"] == 88

    tell(story, settings=Settings(replay_lag_seconds=60))


def test_the_books_have_every_update_of_credits_as_it_was_received_and_whether_it_took_effect():
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        increment = {"keyId": key_id, "operation": "increment", "value": 5}
        await unkey.ask("keys.updateCredits", increment)
        unkey.faults.set(kind="closed", takes_effect=True, times=1)
        unkey.faults.set(kind="error", times=1)
        with pytest.raises(IndexError):
            await unkey.send("keys.updateCredits", increment)
        await unkey.ask("keys.updateCredits", increment)
        await unkey.ask("keys.updateCredits", {"keyId": key_id}, fits=False)
        updates = (await unkey.control("GET", "books"))["update_credits"]
        told = [(update["body"], update["fault"], update["carried_out"], update["status"]) for update in updates]
        assert told == [
            (increment, None, True, 200),
            (increment, "closed", True, 200),
            (increment, "error", False, None),
            ({"keyId": key_id}, None, True, 400),
        ]
        assert [update.status for update in unkey.server.books.updates] == [200, 200, None, 400]
        assert await unkey.stored(key_id) == 20

    tell(story)


def test_a_deleted_key_stays_in_the_books():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.cost(key, 4)
        await unkey.data("keys.deleteKey", keyId=key_id)
        assert (await unkey.control("GET", "books"))["keys"][key_id]["spent"] == 4

    tell(story)


def test_the_log_tells_requests_with_key_ids_and_never_a_key_or_a_root_key():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.verify(key, credits={"cost": 2})
        await unkey.verify("gw_unknown")
        log = await unkey.control("GET", "requests")
        assert [entry["call"] for entry in log] == ["keys.createKey", "keys.verifyKey", "keys.verifyKey"]
        assert log[1]["body"] == {"key": key_id, "credits": {"cost": 2}}
        assert log[2]["body"] == {"key": None}
        told = json.dumps([log, await unkey.control("GET", "books")])
        assert not any(secret in told for secret in (key, "gw_unknown", ROOT_KEY))
        await unkey.control("DELETE", "requests")
        assert await unkey.control("GET", "requests") == []

    tell(story)


def test_a_test_puts_keys_in_and_calls_without_a_socket():
    async def story(unkey):
        key_id, key = unkey.server.create_key(10, externalId="user-1")
        status, document = unkey.server.call("keys.verifyKey", {"key": key, "credits": {"cost": 4}})
        assert (status, document["data"]["credits"]) == (200, 6)
        assert unkey.balances.live(key_id) == 6
        assert unkey.server.call("keys.getKey", {"keyId": "key_none"})[0] == 404

    tell(story)
