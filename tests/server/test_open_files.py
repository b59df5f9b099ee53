"""A flood of connections never takes the last open file: neither from who is served, nor from ops."""

import contextlib
import logging
import socket

import psutil
import pytest

from gateway.config.tree import Config, UpstreamSection
from gateway.server.open_files import fit
from tests.server.harness import Caller, limits, wait_until
from tests.server.test_serve import running

GET = b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.contextmanager
def flood(port, count):
    """Connections that are opened and left alone."""
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.socket())
            sockets[-1].setblocking(False)
            sockets[-1].connect_ex(("127.0.0.1", port))
        yield
    finally:
        for one in sockets:
            one.close()


def status(port):
    """What a new caller is answered: a status, or 0 where the connection is dropped."""
    try:
        caller = Caller(port)
    except OSError:
        return 0
    try:
        return caller.send(GET).response()[0]
    except (OSError, AssertionError):
        return 0
    finally:
        caller.close()


def open_files(gateway):
    return psutil.Process(gateway.process.pid).num_fds()


def test_a_flood_leaves_files_for_those_who_are_served_and_for_ops():
    with running(admin=True, files=128) as gateway:
        good = gateway.call("/pid")
        assert good.response()[0] == 200
        with flood(gateway.port, 600):
            wait_until(lambda: status(gateway.port) in (0, 503))
            for _ in range(50):
                assert good.send(GET).response()[0] == 200
                assert status(gateway.port) in (0, 503)
                assert status(gateway.admin_port) == 200
                assert open_files(gateway) < 128 - 32
        wait_until(lambda: status(gateway.port) == 200)
        assert gateway.end() == 0


def test_who_is_over_the_limit_that_open_files_set_is_told_so():
    with running(files=128) as gateway:
        with contextlib.ExitStack() as stack:
            callers = []
            while not callers or callers[-1].send(GET).response()[0] == 200:
                callers.append(stack.enter_context(contextlib.closing(Caller(gateway.port))))
            assert 5 < len(callers) < 100
            callers[0].close()
            wait_until(lambda: status(gateway.port) == 200)
        assert gateway.end() == 0


def test_the_soft_limit_is_raised():
    with running(files=1_024, soft_files=64) as gateway, flood(gateway.port, 200):
        assert status(gateway.port) == 200
        wait_until(lambda: open_files(gateway) > 200)
        assert status(gateway.port) == 200


def config(connections, *, targets=1):
    upstream = UpstreamSection(targets=tuple(f"http://127.0.0.{number}" for number in range(targets)))
    return Config(upstreams={"a": upstream.model_copy(update={"connections_max": connections})})


@pytest.mark.parametrize(
    ("files", "connections", "targets", "at_least", "at_most"),
    [(100_000, 256, 1, 1000, 1000), (1_024, 100, 1, 600, 900), (1_024, 100, 4, 300, 550), (1_024, 5_000, 9, 300, 460),
     (256, 256, 1, 40, 80), (128, 256, 1, 10, 20), (64, 256, 1, 1, 10), (10, 256, 1, 1, 1)],
)  # fmt: skip
def test_callers_get_what_upstreams_and_the_gateway_leave(caplog, files, connections, targets, at_least, at_most):
    with caplog.at_level(logging.WARNING):
        fitted = fit(limits(connections_max=1000), config(connections, targets=targets), files)
    assert at_least <= fitted.connections_max <= at_most
    assert len(caplog.records) == (fitted.connections_max < 1000)
    if files > 64:
        assert fitted.connections_max + fitted.turned_away_max <= files
