"""Real processes: binding, workers that die and come back, the drain."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from gateway.server.sockets import CannotListen, listen
from tests import preloaded
from tests.server.harness import Caller, wait_until

ROOT = pathlib.Path(__file__).parents[2]
both = pytest.mark.parametrize("workers", [1, 2])


class Gateway:
    def __init__(self, **options):
        self.process = preloaded.Popen(
            [sys.executable, "-m", "tests.server.gateway_process", json.dumps(options)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.callers = []
        self.said = ""
        self.port = self.admin_port = 0

    def ready(self):
        word, server, admin = self.process.stdout.readline().split()
        assert word == "ready"
        self.port = int(server.rpartition(":")[2])
        self.admin_port = int(admin.rpartition(":")[2]) if admin != "None" else 0
        return self

    def caller(self, port=0):
        self.callers.append(Caller(port or self.port))
        return self.callers[-1]

    def call(self, path, port=0):
        return self.caller(port).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    def worker(self):
        """The process id of the worker that answers."""
        caller = self.call("/pid")
        pid = int(caller.response()[2])
        caller.close()
        return pid

    def end(self, number=signal.SIGTERM, seconds=60):
        if number:
            self.process.send_signal(number)
        self.said, errors = self.process.communicate(timeout=seconds)
        assert "Traceback" not in errors, errors
        return self.process.returncode

    def refuses(self):
        try:
            Caller(self.port).close()
        except OSError:
            return True
        return False


@contextlib.contextmanager
def running(*, ready=True, **options):
    gateway = Gateway(**options)
    try:
        yield gateway.ready() if ready else gateway
    finally:
        for caller in gateway.callers:
            caller.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(gateway.process.pid).children():
                child.kill()
        gateway.process.kill()
        gateway.process.communicate()


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(workers, number):
    with running(workers=workers) as gateway:
        idle = gateway.call("/pid")
        idle.response()
        assert gateway.end(number) == 0
        assert gateway.said.count("lifespan ended") == workers
        assert idle.rest() == b""


@both
def test_a_drain_finishes_open_streams_and_refuses_new_connections(workers):
    with running(workers=workers) as gateway:
        streams = [gateway.call("/stream/20") for _ in range(20)]
        for stream in streams:
            stream.until(b"chunk 0")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(gateway.refuses)
        for stream in streams:
            assert stream.until(b"chunk 19\n")
            assert stream.rest().endswith(b"\r\n0\r\n\r\n")
        assert gateway.end(None) == 0


@both
def test_the_drain_limit_cuts_what_does_not_end_and_is_no_failure(workers):
    with running(workers=workers, drain=0.5) as gateway:
        stream = gateway.call("/endless")
        stream.until(b"chunk")
        before = time.monotonic()
        assert gateway.end() == 0
        assert 0.4 < time.monotonic() - before < 20
        assert not stream.rest().endswith(b"0\r\n\r\n")
        assert gateway.said.count("lifespan ended") == workers


@both
def test_a_second_signal_does_not_wait(workers):
    with running(workers=workers, drain=60) as gateway:
        gateway.call("/endless").until(b"chunk")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(gateway.refuses)
        assert gateway.end(signal.SIGTERM) == 0


def test_a_busy_connection_is_told_that_it_will_be_closed():
    with running() as gateway:
        fresh = gateway.caller()
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(gateway.refuses)
        status, headers, _ = fresh.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert (status, headers["connection"]) == (200, "close")
        assert gateway.end(None) == 0


@both
def test_no_call_is_lost_when_a_drain_begins(workers):
    """Connections are made as fast as possible; each that is accepted gets its answer."""
    with running(workers=workers) as gateway:
        lost, answered = [], 0
        threading.Timer(0.3, gateway.process.send_signal, [signal.SIGTERM]).start()
        give_up_at = time.monotonic() + 10
        while time.monotonic() < give_up_at:
            try:
                caller = Caller(gateway.port)
            except OSError:
                break
            try:
                caller.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
                answered += caller.response()[0] == 200
            except (OSError, AssertionError) as error:
                lost.append(error)
            finally:
                caller.close()
        assert answered > 10
        assert len(lost) <= 1, lost  # the one that came between the last accept and the close
        assert gateway.end(None) == 0


def test_the_admin_listener_is_separate_and_not_counted():
    with running(admin=True, connections=1) as gateway:
        assert gateway.call("/pid").response()[0] == 200
        assert gateway.caller().response()[0] == 503
        assert gateway.call("/", gateway.admin_port).response()[2] == b"admin"
        assert gateway.admin_port != gateway.port
        assert gateway.end() == 0


def test_several_workers_share_the_port():
    with running(workers=2) as gateway:
        assert len(wait_until(lambda: psutil.Process(gateway.process.pid).children())) == 2
        seen = set()
        wait_until(lambda: seen.add(gateway.worker()) or len(seen) == 2)
        assert gateway.process.pid not in seen
        assert gateway.end() == 0


@pytest.mark.parametrize("how", ["kill", "crash"])
def test_a_worker_that_dies_is_replaced(how):
    with running(workers=2) as gateway:
        first = {child.pid for child in psutil.Process(gateway.process.pid).children()}
        victim = gateway.worker()
        if how == "kill":
            os.kill(victim, signal.SIGKILL)
        else:
            gateway.call("/crash")
        wait_until(lambda: not psutil.pid_exists(victim) or len(now(gateway) - first) == 1)
        wait_until(lambda: len(now(gateway)) == 2 and len(now(gateway) - first) == 1)
        (replacement,) = now(gateway) - first
        wait_until(lambda: gateway.worker() == replacement)
        assert gateway.end() == 0


def now(gateway):
    return {child.pid for child in psutil.Process(gateway.process.pid).children()}


@both
def test_workers_do_not_outlive_their_supervisor(workers):
    with running(workers=workers) as gateway:
        workers_of_it = psutil.Process(gateway.process.pid).children()
        gateway.process.kill()
        gateway.process.wait()
        _, alive = psutil.wait_procs(workers_of_it, timeout=30)
        assert not alive
        listen("127.0.0.1", gateway.port, patience_seconds=0).close()


@both
def test_a_taken_port_is_told_and_is_exit_code_1(workers):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(ready=False, workers=workers, port=port) as gateway:
            said, errors = gateway.process.communicate(timeout=60)
            assert gateway.process.returncode == 1
            assert said == ""
            reason = "another process listens there; stop it or choose another port"
            assert errors == f"gateway: can't listen on 127.0.0.1 port {port}: {reason}\n"


def test_a_port_that_comes_free_is_waited_for():
    other = socket.create_server(("127.0.0.1", 0))
    threading.Timer(0.2, other.close).start()
    listen("127.0.0.1", other.getsockname()[1]).close()


def test_an_address_that_is_not_ours_is_told_at_once():
    before = time.monotonic()
    with pytest.raises(CannotListen, match=r"can't listen on 192\.0\.2\.1 port 0"):
        listen("192.0.2.1", 0)
    assert time.monotonic() - before < 10


@both
def test_an_application_that_does_not_start_is_exit_code_1(workers):
    with running(ready=False, workers=workers, fail=True) as gateway:
        said, _ = gateway.process.communicate(timeout=60)
        assert gateway.process.returncode == 1
        assert "ready" not in said


def test_workers_that_die_at_once_are_restarted_slower_and_slower():
    with running(ready=False, workers=2, die=True) as gateway:
        waits, ended_at = [], []
        while not waits or waits[-1] < 0.8:
            line = gateway.process.stderr.readline()
            assert line, "it has ended"
            if found := re.search(r"ended with 9; starting another in ([\d.]+) s", line):
                waits.append(float(found[1]))
                ended_at.append(time.monotonic())
        assert waits[0] == 0.2
        assert waits[-2] == waits[-1] / 2
        assert ended_at[-1] - ended_at[0] > 0.15, "it did not wait"
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.communicate(timeout=60)
