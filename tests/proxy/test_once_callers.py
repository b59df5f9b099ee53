"""A call with an Idempotency-Key goes on without its caller, keeps its route, and ends with the process."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.proxy.once import Apart, Once
from gateway.proxy.route import Route
from gateway.proxy.routes import RouteTable
from tests.proxy.harness import Gate, response, section
from tests.proxy.once import KEY, is_replay, post, wait_kept
from tests.server.harness import wait_until
from tests.upstreams import hostile


def test_a_caller_who_leaves_finds_the_answer_when_he_comes_back(account, script, counted, proxy):
    gate = script("it", Gate(response(body=b"late")))
    caller = account.send("/once/it", "POST", headers=(KEY,), body=b'{"n":1}')
    gate.wait_entered()
    caller.close()
    wait_until(lambda: not proxy.tasks)
    assert post(account, "/once/it").status == 409
    gate.open()
    wait_kept(account)
    again = post(account, "/once/it")
    assert (again.status, again.body, is_replay(again)) == (200, b"late", True)
    assert counted() == 1
    account.ended(5, None)


@pytest.mark.parametrize("route", ["once", "once-told", "once-lenient"])
def test_a_caller_who_leaves_in_the_middle_of_a_short_answer_finds_all_of_it(account, script, counted, proxy, route):
    go_on = threading.Event()

    def in_two_halves(peer, seen):
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert go_on.wait(30)
        peer.send(b"6\r\nsecond\r\n0\r\nX-Credits-Used: 5\r\n\r\n")
        return True

    script("it", in_two_halves)
    caller = account.send(f"/{route}/it", "POST", headers=(KEY,), body=b'{"n":1}')
    caller.until(b"first")
    caller.close()
    wait_until(lambda: not proxy.tasks)
    go_on.set()
    wait_kept(account)
    again = post(account, f"/{route}/it")
    assert (again.body, is_replay(again)) == (b"firstsecond", True)
    assert counted() == 1
    account.ended(5, None)


def test_a_caller_who_leaves_a_stream_ends_it_by_the_routes_policy(account, script, upstream, proxy):
    """Released, nothing is left of the call, though its answer had begun."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    script("it", hostile.says(head))
    caller = account.send("/once-lenient/it", "POST", headers=(KEY,), body=b'{"n":1}')
    caller.until(b"hello")
    assert post(account, "/once-lenient/it").status == 409
    caller.close()
    account.ended(0, "client_abort")
    script("it", response(b"X-Credits-Used: 1"))
    assert post(account, "/once-lenient/it").credits[0] == "1"


def test_a_caller_who_leaves_before_anything_is_asked_leaves_nothing(account, script, counted, proxy):
    script("it", response())
    caller = proxy.call(account.request("/once/it", "POST", headers=(KEY, b"Content-Length: 10")) + b"half")
    wait_until(lambda: proxy.tasks)
    caller.close()
    wait_until(lambda: not proxy.tasks)
    assert counted() == 0
    assert post(account, "/once/it").credits[0] == "5"


def test_what_a_caller_left_behind_is_bounded(account, script, counted, proxy, monkeypatch):
    monkeypatch.setattr("gateway.proxy.once.UNATTENDED_MAX", 0)
    script("it", hostile.says(b""))
    caller = account.send("/once-strict/it", "POST", headers=(KEY,), body=b'{"n":1}')
    wait_until(lambda: account.books[1])
    wait_until(lambda: proxy.endpoint._apart._tasks)
    wait_until(counted)
    caller.close()
    account.ended(5, "client_abort")
    wait_until(lambda: not proxy.endpoint._apart._tasks)


def plain_routes(proxy) -> RouteTable:
    """The same without the option."""
    entry = section("/once/{script}", cost=7)
    route = Route(entry, proxy.transports["scripted"], proxy.endpoint._routes.routes[0].metrics, body_max_bytes=1_000)
    return RouteTable([(entry, route)])


def test_a_call_keeps_the_route_with_which_it_began(account, script, counted, proxy, monkeypatch):
    """Another config comes between its first step and its task, or while it runs."""
    endpoint, former, plain = proxy.endpoint, proxy.endpoint._routes, plain_routes(proxy)
    run_apart = Apart.run

    async def reload_first(self, once, call):
        monkeypatch.setattr(endpoint, "_routes", plain)
        await run_apart(self, once, call)

    monkeypatch.setattr(Apart, "run", reload_first)
    gate = script("it", Gate(response()))
    caller = account.send("/once/it", "POST", headers=(KEY,), body=b'{"n":1}')
    gate.wait_entered()
    assert endpoint._routes is plain
    gate.open()
    assert caller.response()[1]["x-credits-cost"] == "5"
    assert post(account, "/once/it").credits[0] == "7"  # now the header means nothing
    monkeypatch.setattr(endpoint, "_routes", former)
    assert is_replay(post(account, "/once/it"))
    assert counted() == 2


class Behind:
    """A call that goes on for as long as it may, in an Apart; its `outer` is the task of whoever sent it."""

    def __init__(self):
        self.apart, self.told = Apart(), []
        self._once = Once(b"k", None)
        self._once.must_finish = True

    async def begin(self):
        begun = asyncio.Event()
        self.outer = asyncio.ensure_future(self.apart.run(self._once, self._go_on(begun)))
        await begun.wait()

    async def _go_on(self, begun):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self.told.append(error.args)
            raise


def test_a_drain_at_its_limit_cuts_a_call_at_once_and_not_as_one_whose_caller_left():
    async def main():
        call = Behind()
        await call.begin()
        call.outer.cancel("the drain's limit")
        await asyncio.wait([call.outer])
        assert call.told == [("the drain's limit",)]
        assert not call.apart._tasks

    asyncio.run(main())


def test_closing_waits_and_then_cuts_what_callers_left_behind(monkeypatch):
    monkeypatch.setattr("gateway.proxy.once.LEAVE_SECONDS", 0.05)

    async def main():
        call = Behind()
        await call.begin()
        call.outer.cancel()
        await asyncio.wait([call.outer])
        assert call.apart._unattended == 1
        await call.apart.aclose()
        assert call.told == [("closing",)]  # not as one whose caller has left: he did nothing wrong
        assert call.apart._unattended == 0

    asyncio.run(main())
