"""/readyz with Unkey: red while Unkey can't be relied on, green again by itself; and meanwhile 503, never 401.

/healthz is 200 throughout: a restart would not mend Unkey.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.cli.stand_in import stand_in
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY
from tests.e2e.harness import Gateway, gateway, settings, until
from tests.e2e.upstream import Upstream

VERIFIER = "unkey_sandbox_verifier"
VERIFY = f"api.{API_ID}.verify_key"
LOADED_SECONDS = 5
"""By how much the machine that runs this may be late."""
RED_SECONDS = 3 + LOADED_SECONDS
GREEN_SECONDS = 5 + LOADED_SECONDS
UNKEY = "gateway.sandbox.unkey"


class Seller:
    """A running gateway, asked from outside. `upstream` counts what is forwarded."""

    def __init__(self, running: Gateway, upstream: Upstream, key: str) -> None:
        self.running = running
        self.upstream = upstream
        self._key = key
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{running.port}", trust_env=False)

    def close(self) -> None:
        self._client.close()

    def call(self, key: str = "") -> httpx.Response:
        return self._client.post("/call/ok", headers={"authorization": f"Bearer {key or self._key}"})

    def is_ready(self) -> bool:
        """What /readyz says, which must be consistent; /healthz must be 200 whatever it says."""
        assert self._client.get("/healthz").status_code == 200
        answer = self._client.get("/readyz")
        checks = answer.json()["checks"]
        assert checks["database"]["ok"]
        assert answer.json()["ready"] is checks["unkey"]["ok"] is (answer.status_code == 200)
        return checks["unkey"]["ok"]

    def assert_refused(self, key: str = "") -> None:
        """One call, which is 503 with when to come again, and is not forwarded."""
        before = len(self.upstream.arrived)
        answer = self.call(key)
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"].endswith(":credits-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert len(self.upstream.arrived) == before


@contextlib.contextmanager
def selling(directory: Any, unkey: str, key: str = "", **more: str) -> Iterator[Seller]:
    """A gateway that keeps its keys at that Unkey, started; without a `key` it is given one first."""
    section = {"provider": "unkey", "unkey": {"api_id": API_ID, "root_key": ROOT_KEY, "base_url": unkey, **more}}
    with Upstream() as upstream, gateway(directory, settings(directory, upstream.url, credits=section)) as running:
        seller = Seller(running.start(), upstream, key or make_key(unkey))
        try:
            yield seller
        finally:
            seller.close()
        assert running.stop() == 0


def make_key(unkey: str, credits: int = 1_000) -> str:
    """A key made by hand at the stand-in: its secret."""
    asked = {"apiId": API_ID, "credits": {"remaining": credits}}
    made = httpx.post(f"{unkey}/v2/keys.createKey", json=asked, headers={"authorization": f"Bearer {ROOT_KEY}"})
    return made.json()["data"]["key"]


def tell(unkey: str, what: str, document: Any) -> None:
    assert httpx.post(f"{unkey}/_sandbox/{what}", json=document).status_code == 200


def permit(unkey: str, *permissions: str) -> None:
    """From now on the verifying root key may do this."""
    tell(unkey, "root-keys", {"root_key": VERIFIER, "permissions": list(permissions)})


def seconds_until(condition: Callable[[], bool]) -> float:
    started = time.monotonic()
    until(condition, seconds=30)
    return time.monotonic() - started


def test_readyz_follows_an_unkey_that_goes_away_and_comes_back(tmp_path):
    with contextlib.ExitStack() as first:
        unkey = first.enter_context(stand_in(UNKEY))
        port = int(unkey.rpartition(":")[2])
        with selling(tmp_path, unkey) as seller:
            assert seller.is_ready()
            assert seller.call().status_code == 200
            first.close()
            seller.assert_refused()
            assert seconds_until(lambda: seller.assert_refused() or not seller.is_ready()) < RED_SECONDS
            with stand_in(UNKEY, port=port) as again:
                assert again == unkey
                assert seconds_until(seller.is_ready) < GREEN_SECONDS
                assert seller.call(make_key(unkey)).status_code == 200, "and it sells again"


def test_readyz_is_red_from_the_start_where_unkey_is_down_and_green_when_it_comes(tmp_path):
    with stand_in(UNKEY) as unkey:
        port = int(unkey.rpartition(":")[2])
    with selling(tmp_path, unkey, key="gw_made_elsewhere") as seller:
        assert not seller.is_ready()
        with stand_in(UNKEY, port=port):
            assert seconds_until(seller.is_ready) < GREEN_SECONDS


@pytest.mark.parametrize("kind", ["silent", "reset", "error", "limited", "malformed"])
def test_readyz_is_red_while_unkey_gives_no_verdicts(tmp_path, kind):
    with stand_in(UNKEY) as unkey, selling(tmp_path, unkey, canary_key=make_key(unkey)) as seller:
        assert seller.call().status_code == 200
        tell(unkey, "faults", {"kind": kind, "call": "verifyKey"})
        # A silent one costs each call its deadline of 2 s; the third is refused unasked.
        assert seconds_until(lambda: seller.assert_refused() or not seller.is_ready()) < 2 * RED_SECONDS
        httpx.delete(f"{unkey}/_sandbox/faults")
        assert seconds_until(seller.is_ready) < GREEN_SECONDS
        assert seller.call().status_code == 200


def test_a_root_key_that_may_not_verify_is_never_the_callers_fault(tmp_path):
    with stand_in(UNKEY) as unkey:
        permit(unkey, f"api.{API_ID}.read_key")
        with selling(tmp_path, unkey, root_key=VERIFIER, canary_key=make_key(unkey)) as seller:
            assert not seller.is_ready()
            for key in ("", make_key(unkey), "gw_nobody_knows_this_one"):
                seller.assert_refused(key)
            permit(unkey, VERIFY)
            assert seconds_until(seller.is_ready) < GREEN_SECONDS, "though no call came"
            assert seller.call().status_code == 200
            assert seller.call("gw_nobody_knows_this_one").status_code == 401


def test_a_root_key_that_loses_its_permission_turns_no_good_key_away(tmp_path):
    with stand_in(UNKEY) as unkey:
        permit(unkey, VERIFY)
        with selling(tmp_path, unkey, root_key=VERIFIER, canary_key=make_key(unkey)) as seller:
            stranger = make_key(unkey)
            assert seller.call().status_code == 200
            assert seller.is_ready()
            permit(unkey)
            for key in ("", stranger, "", stranger):
                seller.assert_refused(key)
            assert not seller.is_ready()
            permit(unkey, VERIFY)
            assert seconds_until(seller.is_ready) < GREEN_SECONDS
            assert seller.call().status_code == seller.call(stranger).status_code == 200


def test_readiness_gives_no_reason_that_is_not_for_everybody(tmp_path):
    with stand_in(UNKEY) as unkey:
        permit(unkey)
        with selling(tmp_path, unkey, root_key=VERIFIER, canary_key=make_key(unkey)) as seller:
            said = httpx.get(f"http://127.0.0.1:{seller.running.port}/readyz").text
            assert "root key" in said
            for secret in (VERIFIER, unkey.removeprefix("http://"), API_ID):
                assert secret not in said
