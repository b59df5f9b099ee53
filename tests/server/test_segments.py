"""However a stream is cut into segments, and whatever a byte of it is changed to: the same requests, never more."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.harness import serving, wait_until

CHUNKS = b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nX-T: 1\r\n\r\n"
REQUESTS = [
    b"GET /get?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /head HTTP/1.1\r\nhost: b:1\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
    b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nGET /BODY HTTP/1.1 Host: x",
    b"POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    b"PUT http://c/absolute HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"\r\nDELETE /empty-line HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
]
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


def requests_of(server, *pieces):
    """The requests that the application gets when each piece is read by itself, and the stream ends after them."""
    server.app.requests.clear()
    caller = server.caller()
    (connection,) = wait_until(lambda: server.connections)
    for piece in pieces:
        server.in_loop(connection.data_received, piece)
    wait_until(lambda: server.in_loop(is_at_rest, connection))
    caller.socket.shutdown(1)
    caller.rest()
    caller.close()
    server.callers.remove(caller)
    wait_until(lambda: not server.connections and not server.tasks)
    return list(server.app.requests)


def is_at_rest(connection):
    """Nothing happens any more unless the caller sends more."""
    return connection.exchange is None or not connection.exchange.body_complete


bytes_put_in = st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"0"]))


@given(picks=st.lists(st.sampled_from(REQUESTS), max_size=4), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_segments_change_nothing(server, picks, cuts):
    stream = b"".join(picks) + LAST
    ends = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(ends) if start < end]
    whole = requests_of(server, stream)
    assert len(whole) == len(picks) + 1
    assert requests_of(server, *pieces) == whole


@given(
    request=st.sampled_from(REQUESTS),
    edits=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 3), bytes_put_in), min_size=1, max_size=3),
    cut=st.integers(0, 150),
)
def test_a_changed_request_is_at_most_one_request_and_always_ends(server, request, edits, cut):
    for position, removed, added in edits:
        at = position % len(request)
        request = request[:at] + added + request[at + removed :]
    assert len(requests_of(server, *filter(None, (request[:cut], request[cut:])))) <= 1
