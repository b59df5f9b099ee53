"""https targets: verified, always."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import UpstreamUnreachable
from tests.upstreams.conftest import get, opened, read_all, run
from tests.upstreams.hostile import ScriptedUpstream


@pytest.fixture
def secure(certificate: Path) -> Iterator[ScriptedUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedUpstream(context) as upstream:
        yield upstream


def test_a_trusted_certificate_is_accepted(kind: str, secure: ScriptedUpstream, certificate: Path) -> None:
    async def main() -> None:
        async with opened(kind, secure.url, tls={"ca_file": str(certificate)}) as transport:
            for _ in range(3):
                response = await transport.send(get("echo", b"POST", body=bytes(100_000)))
                assert b'"bytes": 100000' in await read_all(response)

    run(main)


def test_an_unknown_certificate_is_refused_before_a_byte_is_sent(kind: str, secure: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened(kind, secure.url) as transport:
            with pytest.raises(UpstreamUnreachable) as caught:
                await transport.send(get("ok"))
            assert caught.value.possibly_executed is False
            assert "certificate" in caught.value.cause
            assert "certificate" not in caught.value.detail
        assert secure.seen == []

    run(main)


def test_another_name_than_the_certificates_is_refused(kind: str, secure: ScriptedUpstream, certificate: Path) -> None:
    async def main() -> None:
        tls = {"ca_file": str(certificate), "server_name": "somebody-else.test"}
        async with opened(kind, secure.url, tls=tls) as transport:
            with pytest.raises(UpstreamUnreachable) as caught:
                await transport.send(get("ok"))
            assert caught.value.possibly_executed is False
        assert secure.seen == []

    run(main)


def test_server_name_is_verified_instead_of_the_host(kind: str, secure: ScriptedUpstream, certificate: Path) -> None:
    async def main() -> None:
        url = secure.url.replace("127.0.0.1", "localhost")
        async with opened(kind, url, tls={"ca_file": str(certificate)}) as transport:
            with pytest.raises(UpstreamUnreachable):
                await transport.send(get("ok"))
        tls = {"ca_file": str(certificate), "server_name": "personas.test"}
        async with opened(kind, url, tls=tls) as transport:
            assert (await transport.send(get("ok"))).status == 200

    run(main)


def test_a_plain_port_is_no_https_target(kind: str, upstream: ScriptedUpstream, certificate: Path) -> None:
    async def main() -> None:
        url = upstream.url.replace("http:", "https:")
        settings = {"tls": {"ca_file": str(certificate)}, "connect_timeout_seconds": 0.3}
        async with opened(kind, url, **settings) as transport:
            with pytest.raises(Exception) as caught:
                await transport.send(get("ok"))
            assert caught.value.possibly_executed is False  # type: ignore[attr-defined]

    run(main)


def test_a_missing_ca_file_is_told_when_the_transport_is_made(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(OSError):
            async with opened(kind, "https://127.0.0.1:1", tls={"ca_file": str(tmp_path / "none.pem")}):
                pass

    run(main)
