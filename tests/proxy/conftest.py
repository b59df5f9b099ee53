"""One data plane and one scripted upstream for all tests here; a key of its own and an audit for each."""

from __future__ import annotations

import pytest

from tests.credits.conftest import Ledger
from tests.proxy.harness import Proxy
from tests.server.harness import wait_until
from tests.upstreams import hostile


@pytest.fixture(scope="session")
def upstream():
    with hostile.ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def targets(upstream):
    with hostile.refusing_port() as port:
        yield {"scripted": upstream.url, "refusing": f"http://127.0.0.1:{port}"}


@pytest.fixture(scope="session")
def shared_proxy(targets, tmp_path_factory):
    with Proxy(tmp_path_factory.mktemp("proxy") / "gateway.db", targets) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy, upstream):
    """What a test leaves behind is checked: no hold is open, the books balance, no call still runs."""
    upstream.seen.clear()
    yield shared_proxy
    for caller in shared_proxy.callers:
        caller.close()
    shared_proxy.callers.clear()
    ledger = Ledger(shared_proxy.path)
    wait_until(lambda: not shared_proxy.tasks and not ledger.open_holds())
    ledger.audit()
    assert not shared_proxy.errors


@pytest.fixture
def account(proxy):
    """A key with 100 credits."""
    return proxy.account()


@pytest.fixture
def script(monkeypatch):
    """`script(name, what)` teaches the upstream what to do on /name."""

    def teach(name, what):
        monkeypatch.setitem(hostile.SCRIPTS, name, hostile.answers(what) if isinstance(what, bytes) else what)
        return what

    return teach


@pytest.fixture
def counted(upstream):
    """How many requests the upstream has seen."""
    return lambda: len(upstream.seen)
