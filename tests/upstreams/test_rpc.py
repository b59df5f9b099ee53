"""Small calls to a remote API: one deadline for all of it, nothing sent twice, no exchange lost with its caller."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.tree import TlsSection
from gateway.deadlines import Deadlines
from gateway.errors import InternalError
from gateway.upstreams import rpc
from gateway.upstreams.rpc import ANSWER_MAX_BYTES, RpcClient
from gateway.wire import Answer, WireError
from tests.upstreams.conftest import run, until
from tests.upstreams.hostile import (
    BEHAVIOURS,
    CHUNKED,
    GOOD,
    OK,
    Behaviour,
    Peer,
    Script,
    ScriptedUpstream,
    Seen,
    answers,
    blackhole_port,
    drips,
    headed,
    refusing_port,
    says,
)

TICK_SECONDS = 0.1
"""As in production: the deadlines under test reckon with it."""


def sized(count: int) -> Script:
    return answers(OK + b"Content-Length: %d\r\n\r\n" % count + bytes(count))


def chunks(count: int) -> Script:
    return answers(CHUNKED + b"%x\r\n" % count + bytes(count) + b"\r\n0\r\n\r\n")


def half_then(then: Script) -> Script:
    """Head and half a body, 50 ms of silence, and then the rest."""

    def script(peer: Peer, seen: Seen) -> bool | None:
        peer.send(OK + b"Content-Length: 4\r\n\r\nab")
        time.sleep(0.05)
        return then(peer, seen)

    return script


def sips(peer: Peer, seen: Seen) -> bool:
    """Takes the body a little at a time, for long."""
    while not peer.upstream.stopping.wait(0.01) and peer.sock.recv(262_144):
        pass
    return False


LATE_SECONDS = 5.0
"""Without its deadline an exchange lasts for 20 and more: this leaves room for a busy machine."""

SAYS: dict[str, Script] = {
    "early-open": sips,  # a name whose body is left to the script
    "body-drips": drips(OK + b"Content-Length: 100000\r\n\r\n", b"a", 0.03),
    "chunks-drip": drips(CHUNKED, b"1\r\na\r\n", 0.03),
    "halves": half_then(answers(b"cd")),
    "half-then-silence": half_then(says(b"")),
    "whole-mebibyte": sized(ANSWER_MAX_BYTES),
    "whole-mebibyte-chunked": chunks(ANSWER_MAX_BYTES),
    "mebibyte-and-one": sized(ANSWER_MAX_BYTES + 1),
    "mebibyte-and-one-chunked": chunks(ANSWER_MAX_BYTES + 1),
    "gzip": answers(headed(b"Content-Encoding: gzip", b"Content-Length: 22", body=gzip.compress(b"ok", mtime=0))),
    "identity": answers(headed(b"Content-Encoding: identity", b"Content-Length: 2")),
}


@pytest.fixture
def remote() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(scripts=SAYS) as scripted:
        yield scripted


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[RpcClient]:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, tick_seconds=TICK_SECONDS)
    client = RpcClient(url, deadlines, loop, **settings)
    try:
        yield client
    finally:
        await client.aclose()
        deadlines.close()


async def ask(client: RpcClient, name: str, seconds: float = 5, **rest: Any) -> Answer:
    return await client.post(b"/" + name.encode(), [(b"authorization", b"Bearer s3cret")], b"{}", seconds, **rest)


def is_at_rest(client: RpcClient) -> bool:
    open_count, idle_count, waiting_count = client.count_connections()
    return open_count == idle_count and waiting_count == 0


class Successor:
    """Takes exchanges over, as the caller of `post` must."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Answer]] = []

    def __call__(self, rest: Coroutine[Any, Any, Answer]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(rest))

    async def answer(self) -> Answer:
        assert len(self.tasks) == 1
        return await self.tasks[0]


async def cancelled(call: asyncio.Task[Answer]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


# Answers.


@pytest.mark.parametrize("name", [name for name in GOOD if name in ("ok", "empty", "chunked", "204", "302", "echo")])
def test_every_status_is_an_answer_and_nothing_is_followed(name: str, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            for _ in range(3):
                status = {"204": 204, "302": 302}.get(name, 200)
                assert (await ask(client, name)).status == status
            assert len(remote.seen) == 3
            assert remote.connection_count == 1

    run(main)


def test_a_request_is_what_was_given_and_what_frames_it(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url + "/base/") as client:
            await client.post(b"/v2/ok", [(b"accept", b"application/json")], b'{"a":1}', 5)
        (seen,) = remote.seen
        assert (seen.method, seen.target, seen.body) == ("POST", "/base/v2/ok", b'{"a":1}')
        assert seen.head.decode().split("\r\n")[1:] == [
            f"host: 127.0.0.1:{remote.port}",
            "accept: application/json",
            "accept-encoding: identity",
            "content-length: 7",
        ]

    run(main)


def test_two_headers_never_share_a_head(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            for i in range(2 * rpc.HEADS_MAX):
                await client.post(b"/ok", [(b"authorization", b"Bearer %d" % (i % 70))], b"", 5)
            told = [seen.header("authorization") for seen in remote.seen]
            assert told == [[f"Bearer {i % 70}"] for i in range(2 * rpc.HEADS_MAX)]
            assert len(client._heads) <= rpc.HEADS_MAX

    run(main)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7), (b"0", 0), (b"-1", None), (b"1.5", None), (b"Fri, 01 Jan 2027 00:00:00 GMT", None), (b"9" * 40, None)],
)
def test_retry_after_is_told_where_it_is_a_number_of_seconds(value: bytes, seconds: int | None) -> None:
    async def main() -> None:
        busy = answers(b"HTTP/1.1 429 Busy\r\nContent-Length: 0\r\nRetry-After: " + value + b"\r\n\r\n")
        with ScriptedUpstream(scripts={"429": busy}) as remote:
            async with opened(remote.url) as client:
                answer = await ask(client, "429")
                assert (answer.status, answer.retry_after_seconds) == (429, seconds)

    run(main)


@pytest.mark.parametrize("name", ["whole-mebibyte", "whole-mebibyte-chunked"])
def test_an_answer_may_be_a_mebibyte_long(name: str, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            assert len((await ask(client, name)).body) == ANSWER_MAX_BYTES
            assert client.count_connections() == (1, 1, 0)

    run(main)


@pytest.mark.parametrize("name", ["mebibyte-and-one", "mebibyte-and-one-chunked", "big", "endless"])
def test_an_answer_may_not_be_longer(name: str, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            with pytest.raises(WireError) as caught:
                await ask(client, name)
            assert caught.value.possibly_executed
            assert "bytes" in caught.value.cause
            assert is_at_rest(client)
            assert len(remote.seen) == 1

    run(main)


def test_an_encoded_answer_is_refused(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            with pytest.raises(WireError, match="encoded") as caught:
                await ask(client, "gzip")
            assert caught.value.possibly_executed
            assert (await ask(client, "identity")).body == b"ok"

    run(main)


def test_nothing_can_split_a_request(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            for target, headers in (
                (b"/ok", [(b"authorization", b"a\r\nX: y")]),
                (b"/ok", [(b"authorization", b"a\0b")]),
                (b"/ok HTTP/1.1\r\nX: y", []),
            ):
                with pytest.raises(InternalError):
                    await client.post(target, headers, b"{}", 1)
            assert remote.connection_count == 0

    run(main)


def test_a_proxy_of_the_environment_is_not_used(remote: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with refusing_port() as port:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
            async with opened(remote.url) as client:
                assert (await ask(client, "ok")).status == 200

    run(main)


def test_a_certificate_must_be_trusted_before_a_byte_is_sent(certificate: Path) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with ScriptedUpstream(context, SAYS) as remote:
            async with opened(remote.url) as client:
                with pytest.raises(WireError, match="certificate") as caught:
                    await ask(client, "ok")
                assert not caught.value.possibly_executed
                assert remote.seen == []
            async with opened(remote.url, tls=TlsSection(ca_file=str(certificate))) as client:
                for name in ("ok", "halves", "ok"):
                    assert (await ask(client, name)).status == 200
                assert len({seen.connection for seen in remote.seen}) == 1

    run(main)


def test_a_long_body_is_sent_whole(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            for _ in range(2):
                answer = await client.post(b"/echo", [], bytes(3_000_000), 5)
                assert b'"bytes": 3000000' in answer.body
            assert client.count_connections() == (1, 1, 0)

    run(main)


# Nothing is sent twice.


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_whatever_is_wrong_with_an_answer_the_request_was_sent_once_and_is_in_doubt(
    behaviour: Behaviour, warm: bool, remote: ScriptedUpstream
) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            if warm:
                await ask(client, "ok")
            (result,) = await asyncio.wait_for(
                asyncio.gather(ask(client, behaviour.name, 0.4), return_exceptions=True), 5
            )
            if behaviour.sees == "whole":
                assert isinstance(result, Answer), result
                assert result.body in (b"ok", b"")
            else:
                assert isinstance(result, WireError), result
                assert result.possibly_executed
                assert result.cause
                assert "s3cret" not in result.cause
            assert len(remote.requests(behaviour.name)) == 1
            assert is_at_rest(client)
            assert (await ask(client, "ok")).body == b"ok"

    run(main)


def test_a_reused_connection_that_closes_is_never_asked_again_by_another(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            assert (await ask(client, "closes-on-reuse")).body == b"ok"
            with pytest.raises(WireError) as caught:
                await ask(client, "closes-on-reuse")
            assert caught.value.possibly_executed
            assert len(remote.seen) == 2
            assert remote.connection_count == 1

    run(main)


def test_only_a_request_of_which_no_byte_was_written_gets_another_connection(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            await ask(client, "ok")
            (connection,) = client._pool._connections
            connection._transport.abort()  # the loop tells the connection only in its next turn
            assert connection.open
            assert (await ask(client, "ok")).body == b"ok"
            assert [seen.connection for seen in remote.seen] == [0, 1]
            assert client.count_connections() == (1, 1, 0)

    run(main)


@pytest.mark.pure
@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_closes_as_it_is_given_out_is_replaced_once(times: int, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            acquire, closed = client._acquire, 0

            async def acquire_closing(deadline: float, *, fresh: bool) -> Any:
                nonlocal closed
                connection = await acquire(deadline, fresh=fresh)
                if closed < times:
                    closed += 1
                    connection._transport.abort()
                return connection

            client._acquire = acquire_closing  # type: ignore[method-assign]
            if times == 1:
                assert (await ask(client, "ok")).body == b"ok"
            else:
                with pytest.raises(WireError) as caught:
                    await ask(client, "ok")
                assert not caught.value.possibly_executed
            assert len(remote.seen) == 2 - times

    run(main)


def test_a_connection_kept_too_long_by_a_stalled_process_is_not_used(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            await ask(client, "ok")
            (connection,) = client._pool._connections
            connection.deadline = asyncio.get_running_loop().time()
            await ask(client, "ok")
            assert [seen.connection for seen in remote.seen] == [0, 1]
            assert client.count_connections() == (1, 1, 0)

    run(main)


def test_idle_connections_go_before_unkeys_server_would_close_them(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            await ask(client, "ok")
            (connection,) = client._pool._connections
            assert connection.deadline <= asyncio.get_running_loop().time() + 9

    run(main)


# One deadline for everything.


@pytest.mark.parametrize(
    "name", ["no-head", "head-drips", "body-drips", "chunks-drip", "half-then-silence", "reads-nothing", "early-open"]
)
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "reused"])
def test_an_answer_comes_whole_in_time_or_not_at_all(name: str, warm: bool, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            if warm:
                await ask(client, "ok")
            body = bytes(30_000_000) if name in ("reads-nothing", "early-open") else b"{}"
            started = time.monotonic()
            with pytest.raises(WireError) as caught:
                await client.post(b"/" + name.encode(), [], body, 0.5)
            assert time.monotonic() - started < LATE_SECONDS
            assert caught.value.possibly_executed
            assert len(remote.requests(name)) == 1
            assert is_at_rest(client)

    run(main)


def test_the_deadline_of_the_quick_path_reckons_with_the_tick(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            started = loop.time()
            call = asyncio.create_task(ask(client, "no-head", 2))
            await until(lambda: bool(remote.requests("no-head")))
            (connection,) = client._pool._connections
            assert started < connection.deadline <= started + 2 - TICK_SECONDS
            await cancelled(call)

    run(main)


def test_waiting_for_a_connection_counts(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url, connections_max=1) as client:
            busy = asyncio.create_task(ask(client, "no-head", 20))
            await until(lambda: bool(remote.seen))
            started = time.monotonic()
            with pytest.raises(WireError) as caught:
                await ask(client, "ok", 0.4)
            assert time.monotonic() - started < LATE_SECONDS
            assert not caught.value.possibly_executed
            assert len(remote.seen) == 1
            await cancelled(busy)

    run(main)


def test_what_is_left_after_the_wait_is_all_an_answer_gets(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with opened(remote.url, connections_max=1) as client:
            first = asyncio.create_task(ask(client, "no-head", 1.2))
            await until(lambda: bool(remote.seen))
            started = loop.time()
            with pytest.raises(WireError) as caught:
                await ask(client, "body-drips", 1.6)
            assert caught.value.possibly_executed
            assert loop.time() - started < 2.6  # all of its time again would make 2.8
            with pytest.raises(WireError):
                await first

    run(main)


def test_who_can_not_be_reached_was_sent_nothing() -> None:
    async def main() -> None:
        with refusing_port() as port:
            async with opened(f"http://127.0.0.1:{port}") as client:
                with pytest.raises(WireError) as caught:
                    await ask(client, "ok")
                assert not caught.value.possibly_executed
        with blackhole_port() as port:
            async with opened(f"http://127.0.0.1:{port}", connect_timeout_seconds=20) as client:
                started = time.monotonic()
                with pytest.raises(WireError) as caught:
                    await ask(client, "ok", 0.4)
                assert time.monotonic() - started < LATE_SECONDS
                assert not caught.value.possibly_executed

    run(main)


# Callers who leave.


def test_a_caller_who_leaves_while_waiting_for_a_connection_leaves_nothing_behind() -> None:
    async def main() -> None:
        left = Successor()
        with blackhole_port() as port:
            async with opened(f"http://127.0.0.1:{port}") as client:
                call = asyncio.create_task(ask(client, "ok", left=left))
                await asyncio.sleep(0.02)
                await cancelled(call)
                assert left.tasks == []
                assert client.count_connections()[2] == 0

    run(main)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("name", ["slow", "halves"])
def test_an_exchange_outlives_its_caller(name: str, warm: bool, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        async with opened(remote.url) as client:
            if warm:
                await ask(client, "ok")
            call = asyncio.create_task(ask(client, name, left=left))
            await until(lambda: bool(remote.requests(name)))
            await asyncio.sleep(0.02)
            await cancelled(call)
            assert (await left.answer()).status == 200
            assert len(remote.requests(name)) == 1
            assert client.count_connections() == (1, 1, 0)

    run(main)


def test_a_caller_who_leaves_in_the_turn_of_the_answer_does_not_lose_it(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        loop = asyncio.get_running_loop()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            call = asyncio.create_task(ask(client, "slow", left=left))
            await asyncio.sleep(0)
            assert client.count_connections() == (1, 0, 0)

            def leave() -> None:
                # Runs before the task that the answer has woken.
                if client.count_connections() == (1, 1, 0):
                    assert not call.done()
                    call.cancel()
                else:
                    loop.call_soon(leave)

            loop.call_soon(leave)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await left.answer()).body == b"ok"
            assert len(remote.requests("slow")) == 1

    run(main)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in-parts"])
def test_an_answer_that_comes_between_leaving_and_gone_is_not_lost(whole: bool, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            call = asyncio.create_task(ask(client, "no-head", left=left))
            await until(lambda: bool(remote.requests("no-head")))
            (connection,) = client._pool._connections
            call.cancel()
            answer = OK + b"Content-Length: 2\r\n\r\nok"
            connection.data_received(answer if whole else answer[:-1])
            with pytest.raises(asyncio.CancelledError):
                await call
            if not whole:
                connection.data_received(answer[-1:])  # before the successor has begun
            assert (await left.answer()).body == b"ok"

    run(main)


def test_a_failure_that_comes_as_its_caller_leaves_is_told_to_the_successor(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            call = asyncio.create_task(ask(client, "no-head", left=left))
            await until(lambda: bool(remote.requests("no-head")))
            (connection,) = client._pool._connections
            call.cancel()
            connection.data_received(b"nonsense\r\n\r\n")
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(WireError) as caught:
                await left.answer()
            assert caught.value.possibly_executed

    run(main)


def test_a_caller_who_leaves_before_a_byte_was_written_leaves_nothing_behind(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            (connection,) = client._pool._connections
            connection._transport.abort()
            posting = ask(client, "slow", left=left)
            posting.send(None)  # to its first wait, within this turn of the loop
            with pytest.raises(asyncio.CancelledError):
                posting.throw(asyncio.CancelledError())
            assert left.tasks == []
            assert remote.requests("slow") == []

    run(main)


@pytest.mark.parametrize("name", ["no-head", "body-drips"])
def test_without_a_successor_the_connection_is_closed(name: str, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url) as client:
            await ask(client, "ok")
            call = asyncio.create_task(ask(client, name))
            await until(lambda: bool(remote.requests(name)))
            await asyncio.sleep(0.05)
            await cancelled(call)
            assert client.count_connections() == (0, 0, 0)
            await until(lambda: remote.open_connections == 0)

    run(main)


@pytest.mark.parametrize("name", ["no-head", "body-drips"])
def test_a_successor_has_no_more_time_than_its_caller_had(name: str, remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        loop = asyncio.get_running_loop()
        async with opened(remote.url) as client:
            await ask(client, "ok")
            started = loop.time()
            call = asyncio.create_task(ask(client, name, 0.6, left=left))
            await until(lambda: bool(remote.requests(name)))
            await asyncio.sleep(0.1)
            await cancelled(call)
            with pytest.raises(WireError) as caught:
                await left.answer()
            assert caught.value.possibly_executed
            assert loop.time() - started < LATE_SECONDS
            assert is_at_rest(client)

    run(main)


def test_a_successor_who_leaves_too_closes_the_connection(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        left = Successor()
        async with opened(remote.url) as client:
            call = asyncio.create_task(ask(client, "no-head", left=left))
            await until(lambda: bool(remote.seen))
            await cancelled(call)
            await asyncio.sleep(0)
            await cancelled(left.tasks[0])
            assert client.count_connections() == (0, 0, 0)

    run(main)


def test_closing_tells_everybody(remote: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(remote.url, connections_max=2) as client:
            calls = [asyncio.create_task(ask(client, name)) for name in ("no-head", "body-drips", "ok")]
            await until(lambda: len(remote.seen) == 2)
            await asyncio.sleep(0.05)
            await client.aclose()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert [(type(error), error.possibly_executed) for error in errors] == [  # type: ignore[union-attr]
                (WireError, True),
                (WireError, True),
                (WireError, False),
            ]
            with pytest.raises(WireError):
                await ask(client, "ok")

    run(main)


def test_whenever_callers_leave_each_request_has_one_outcome(remote: ScriptedUpstream) -> None:
    """The storm: every kind of answer, every moment, more callers than connections."""

    async def main() -> None:
        chance = random.Random(20261124)
        names = ("ok", "ok", "chunked", "slow", "halves", "close-announced", "close-before-head", "length-short")
        left = Successor()
        answered = failed = gone = unsent = 0
        async with opened(remote.url, connections_max=6) as client:
            for _ in range(60):
                calls = [asyncio.create_task(ask(client, chance.choice(names), left=left)) for _ in range(15)]
                while not all(call.done() for call in calls):
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.1:
                        await asyncio.sleep(0.001)
                    chance.choice(calls).cancel()
                for result in await asyncio.gather(*calls, return_exceptions=True):
                    if isinstance(result, WireError):
                        unsent += not result.possibly_executed
                        failed += result.possibly_executed
                    elif isinstance(result, asyncio.CancelledError):
                        gone += 1
                    else:
                        assert isinstance(result, Answer)
                        answered += 1
            late = await asyncio.gather(*left.tasks, return_exceptions=True)
            assert all(isinstance(result, Answer | WireError) for result in late)
            assert 0 < len(late) <= gone
            # The requests that the other side saw are those with an outcome, each once. (Of those that failed, the
            # other side may have closed before it read them.)
            failed += sum(isinstance(result, WireError) for result in late)
            answered += sum(isinstance(result, Answer) for result in late)
            assert answered <= len(remote.seen) <= answered + failed
            await until(lambda: is_at_rest(client))
            assert client.count_connections()[0] <= 6

    run(main)


def test_an_answer_shows_nothing_of_its_body() -> None:
    assert "s3cret" not in repr(Answer(200, None, b"s3cret"))


def test_a_socket_that_is_gone_is_no_answer(remote: ScriptedUpstream) -> None:
    """The other side's host vanishes: reset without a byte, on a connection that has served before."""

    async def main() -> None:
        async with opened(remote.url) as client:
            await ask(client, "ok")
            with remote._lock:
                (sock,) = remote._socks
            sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises(WireError):
                await ask(client, "ok")
            assert len(remote.seen) == 1
            assert (await ask(client, "ok")).body == b"ok"

    run(main)
