"""The client over real sockets: what a hostile Unkey, a slow one and a caller who leaves make of a verify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.tree import UnkeySection
from gateway.credits.provider import NO_POLICY
from gateway.credits.unkey.client import UnkeyClient, Verdict
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.deadlines import Deadlines
from gateway.upstreams.rpc import RpcClient
from tests.credits.unkey.harness import UnkeyLedger
from tests.credits.unkey.wires import SECRET, said
from tests.upstreams.conftest import run, until
from tests.upstreams.hostile import BEHAVIOURS, OK, Behaviour, Peer, Script, ScriptedUpstream, Seen

SECONDS = 0.4
LOADED_SECONDS = 5
"""By how much the machine that runs this may be late; without a deadline the peer would hang for 20."""
VERIFY = "keys.verifyKey"
VALID = said({"valid": True, "code": "VALID", "keyId": "key_1", "credits": 95}).body
WHOLE = OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(VALID) + VALID


def says_valid(peer: Peer, seen: Seen) -> bool:
    peer.send(WHOLE)
    return True


def says_valid_late(peer: Peer, seen: Seen) -> bool:
    time.sleep(0.1)
    return says_valid(peer, seen)


def after(count: int, then: Script) -> Script:
    """Good for so many requests, and then as told."""
    served = iter(range(count))
    return lambda peer, seen: says_valid(peer, seen) if next(served, None) is not None else then(peer, seen)


@asynccontextmanager
async def asked(remote: ScriptedUpstream) -> AsyncIterator[UnkeyClient]:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    section = UnkeySection(api_id="api_1", root_key="unkey_x", base_url=remote.url)  # type: ignore[arg-type]
    client = UnkeyClient(
        RpcClient(section.base_url, deadlines, loop),
        RpcClient(section.base_url, deadlines, loop),
        api_id=section.api_id,
        root_key="unkey_x",
        admin_root_key="unkey_y",
        verify_timeout_seconds=SECONDS,
    )
    try:
        yield client
    finally:
        await client.aclose()
        deadlines.close()


def verify(client: UnkeyClient, left: Callable[[Coroutine[Any, Any, Verdict]], None] | None = None) -> Any:
    return client.verify(SECRET, 5, NO_POLICY, "/v1/x", "req_1", left)


@pytest.mark.parametrize("served", [0, 1], ids=["fresh", "reused"])
@pytest.mark.parametrize(
    "behaviour", [behaviour for behaviour in BEHAVIOURS if behaviour.sees != "whole"], ids=lambda each: each.name
)
def test_no_verify_is_sent_twice_whatever_becomes_of_it(behaviour: Behaviour, served: int) -> None:
    async def main() -> None:
        with ScriptedUpstream(scripts={VERIFY: after(served, behaviour.script)}) as remote:
            async with asked(remote) as client:
                for _ in range(served):
                    assert (await verify(client)).credits == 95
                started = time.monotonic()
                with pytest.raises(UnkeyUnavailable) as caught:
                    await verify(client)
                assert time.monotonic() - started < SECONDS + LOADED_SECONDS
                assert caught.value.possibly_executed
                assert len(remote.requests(VERIFY)) == served + 1

    run(main)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "reused"])
def test_what_unkey_took_for_a_caller_who_left_is_told_to_who_takes_over(warm: bool) -> None:
    async def main() -> None:
        late = after(1, says_valid_late) if warm else says_valid_late
        with ScriptedUpstream(scripts={VERIFY: late}) as remote:
            async with asked(remote) as client:
                if warm:
                    await verify(client)
                tasks: list[asyncio.Task[Verdict]] = []
                call = asyncio.create_task(verify(client, lambda rest: tasks.append(asyncio.create_task(rest))))
                await until(lambda: len(remote.requests(VERIFY)) == 1 + warm)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                (task,) = tasks
                assert (await task).credits == 95
                assert len(remote.requests(VERIFY)) == 1 + warm
                assert client.count_connections() == (1, 1, 0)

    run(main)


def test_unkeys_liveness_is_asked_without_a_root_key_and_told_from_no_answer(tmp_path) -> None:
    async def main() -> None:
        ledger = UnkeyLedger(tmp_path / "gateway.db")
        async with ledger.provider() as provider:
            assert await provider._client.is_live()
            seen = ledger.server.books.requests[-1]
            assert (seen.asked.call, seen.status, seen.asked.authorization) == ("liveness", 200, "")
            ledger.fail("error", "liveness", status=500)
            assert not await provider._client.is_live()
            ledger.server.faults.clear()
            assert await provider._client.is_live()
            ledger.fail("silent", "liveness")
            assert not await provider._client.is_live()
            ledger.server.faults.clear()

    run(main)
