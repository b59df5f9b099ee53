"""What is refused before it becomes a call is counted, once each, under the problem's slug."""

import pytest

from tests.server.harness import serving, wait_until

GET = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"NONSENSE\r\n\r\n", "bad-request"),
        (GET.replace(b"/1", b"/" + b"a" * 9_000), "uri-too-long"),
        (GET.replace(b"Host: a", b"Host: a\r\nA: " + b"b" * 20_000), "head-too-large"),
        (GET[:20], "request-timeout"),
        (POST + b"1", "request-timeout"),
        (POST + b"1\r\na\r\nX", "bad-request"),
    ],
)
def test_a_refusal_is_counted_by_its_slug(data, slug):
    with serving(head_timeout_seconds=0.2, body_idle_timeout_seconds=0.2) as server:
        caller = server.call(data)
        assert caller.response()[0] >= 400
        assert server.listener.refusals == {slug: 1}


def test_a_failing_application_is_counted():
    async def app(scope, receive, send):
        raise OSError("no")

    with serving(app) as server:
        assert server.call(GET).response()[0] == 500
        assert server.listener.refusals == {"internal-error": 1}


def test_connections_over_the_limit_are_counted_also_those_that_are_not_told():
    with serving(connections_max=1) as server:
        callers = [server.caller() for _ in range(100)]
        wait_until(lambda: server.listener.refusals == {"overloaded": 99})
        assert callers[1].response()[0] == 503


def test_what_is_served_is_no_refusal():
    with serving() as server:
        assert server.call(GET).response()[0] == 200
        server.caller().close()
        wait_until(lambda: len(server.connections) == 1)
        assert server.listener.refusals == {}
