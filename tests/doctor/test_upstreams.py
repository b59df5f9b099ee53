"""Targets that can be connected to, and those that can't: each with its own reason."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest

from gateway.config.tree import TlsSection, UpstreamSection
from gateway.doctor.reach import OutOfReach, reach
from gateway.doctor.upstreams import examine_upstream
from tests.doctor.conftest import answering, told
from tests.upstreams.hostile import ScriptedUpstream, blackhole_port, refusing_port


def examined(*targets, **section):
    return told(examine_upstream("a", UpstreamSection(targets=targets, **section)))


def examined_one(target, **section):
    (found,) = examined(target, **section).values()
    return found


@contextlib.contextmanager
def secure(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedUpstream(context) as upstream:
        yield upstream


def test_a_target_that_listens_is_ok_and_is_sent_nothing():
    with ScriptedUpstream() as upstream:
        state, text = examined_one(f"{upstream.url}/base")
        assert state == "ok"
        assert "ms" in text
        assert upstream.seen == []


def test_each_target_is_told_by_itself():
    with ScriptedUpstream() as upstream, refusing_port() as port:
        found = examined(upstream.url, f"http://127.0.0.1:{port}")
    assert [state for state, _ in found.values()] == ["ok", "FAIL"]
    assert list(found) == [f"upstream a: {upstream.url}", f"upstream a: http://127.0.0.1:{port}"]


def test_nobody_listening_is_a_refused_connection():
    with refusing_port() as port:
        assert examined_one(f"http://127.0.0.1:{port}") == (
            "FAIL",
            "the connection is refused: nothing listens there",
        )


def test_silence_ends_at_the_connect_timeout():
    started = time.monotonic()
    with blackhole_port() as port:
        state, text = examined_one(f"http://127.0.0.1:{port}", connect_timeout_seconds=0.2)
    assert state == "FAIL"
    assert "no connection within 0.2 s" in text
    assert time.monotonic() - started < 5


def test_silence_in_the_handshake_ends_at_the_connect_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert "within 0.2 s" in examined_one(url, connect_timeout_seconds=0.2)[1]


def test_a_certificate_is_verified(certificate):
    trusted = {"ca_file": str(certificate)}
    with secure(certificate) as upstream:
        assert examined_one(upstream.url, tls=trusted)[0] == "ok"
        state, text = examined_one(upstream.url)
        assert (state, "certificate is not trusted" in text) == ("FAIL", True)
        state, text = examined_one(upstream.url, tls={**trusted, "server_name": "elsewhere.test"})
        assert (state, "certificate is not trusted" in text, "elsewhere.test" in text) == ("FAIL", True, True)
        assert upstream.seen == []


def test_https_to_a_server_that_speaks_http_is_told_so():
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        state, text = examined_one(f"https://127.0.0.1:{port}")
    assert (state, "does not speak TLS" in text) == ("FAIL", True)


def test_a_handshake_that_is_cut_is_a_failure():
    with answering() as port:
        assert examined_one(f"https://127.0.0.1:{port}")[0] == "FAIL"


def test_a_ca_file_that_is_not_there_is_told(tmp_path):
    state, text = examined_one("https://127.0.0.1:9", tls={"ca_file": str(tmp_path / "none.pem")})
    assert (state, "tls.ca_file" in text) == ("FAIL", True)


def test_what_goes_through_a_proxy_is_not_tried():
    for proxy in ({"proxy_url": "http://user:s3cret@127.0.0.1:9"}, {"trust_env": True}):
        state, text = examined_one("http://127.0.0.1:9", transport="httpx", **proxy)
        assert (state, "s3cret" in text) == ("warn", False)


def reached(resolve, timeout_seconds=2.0, url="http://a.test:9"):
    return asyncio.run(reach(url, TlsSection(), timeout_seconds, resolve))


def test_a_name_that_nobody_knows_is_told():
    def unknown(_host, _port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(OutOfReach, match="can't be resolved"):
        reached(unknown)


def test_a_resolver_that_hangs_keeps_nobody():
    release = threading.Event()
    started = time.monotonic()
    try:
        with pytest.raises(OutOfReach, match=r"the name is not resolved within 0\.1 s"):
            reached(lambda _host, _port: release.wait(30), 0.1)
        assert time.monotonic() - started < 5
    finally:
        release.set()


def test_of_several_addresses_one_that_answers_is_enough():
    with ScriptedUpstream() as upstream, refusing_port() as closed:
        port = int(upstream.url.rpartition(":")[2])
        assert reached(lambda _host, _port: [("127.0.0.1", closed), ("127.0.0.1", port)]) > 0
        with pytest.raises(OutOfReach):
            reached(lambda _host, _port: [("127.0.0.1", closed), ("127.0.0.1", closed)])
        with pytest.raises(OutOfReach, match="no address"):
            reached(lambda _host, _port: [])
