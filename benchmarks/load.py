"""One timed run: wrk on the load core, and how busy both cores were meanwhile."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.processes import Server, Unusable

BODY = b'{"id":"persona-1","name":"Ada Example","age":36,"city":"Lisbon","bio":"' + b"x" * 127 + b'"}'
"""What the upstream answers: 200 bytes of JSON."""

assert len(BODY) == 200

SCRIPT = Path(__file__).with_name("wrk.lua")


def cores(text: str) -> tuple[int, int]:
    """The proxy's and the load's, for an argument parser."""
    proxy, _, load = text.partition(",")
    available = os.sched_getaffinity(0)
    if not (proxy.isdigit() and load.isdigit()) or proxy == load or not {int(proxy), int(load)} <= available:
        raise argparse.ArgumentTypeError(f"two different cores of {sorted(available)}, such as 0,1")
    return int(proxy), int(load)


@dataclass(frozen=True, slots=True)
class Load:
    """How the load is made. Seconds are wall clock; `connections` calls are in flight all the time (closed loop)."""

    wrk: str
    connections: int
    core_proxy: int
    core_load: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one timed run gave. Latencies in milliseconds; the busy shares and `others` are 0..1 of one core.

    `others` is CPU time on either core that none of our processes used: a run with much of it was disturbed.
    """

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    proxy_core_busy: float
    load_core_busy: float
    others: float


@dataclass(frozen=True, slots=True)
class Target:
    """What is called, and with what: `body` is posted where there is one. `answer` is what must come back. `keys` is a
    file of further API keys, one a line: each call then carries one of them, picked at random."""

    url: str
    api_key: str = ""
    body: str = ""
    answer: bytes = BODY
    keys: Path | None = None


def check_answer(name: str, target: Target) -> None:
    """Raises Unusable unless one call is answered 200 with the body that is due."""
    address = urlsplit(target.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    try:
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        connection.request("POST" if target.body else "GET", address.path, target.body or None, headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unusable(f"{name} did not answer: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != target.answer:
        raise Unusable(f"{name} answered {answer.status} with {body[:300]!r} instead of 200 with the body that is due")


def run_wrk(load: Load, targets: Sequence[Target], seconds: float, servers: Sequence[Server]) -> Run:
    """Load each target with a wrk of its own, all at once, for so long. `servers` are all that work for this run: the
    rest of the CPU time was others'. Of several targets the rates are added; latencies are those of the slowest."""
    before = _Usage(load, servers)
    wrks = [_start_wrk(load, target, seconds) for target in targets]
    try:
        outputs = [wrk.communicate(timeout=seconds + 30)[0] for wrk in wrks]
    finally:
        for wrk in wrks:
            wrk.kill()
            wrk.wait()
    usage = before.until_now()
    results = [_read(output, len(target.answer)) for output, target in zip(outputs, targets, strict=True)]
    return Run(
        requests=sum(said["requests"] for said in results),
        requests_per_second=sum(said["requests"] / (said["duration_us"] / 1e6) for said in results),
        p50_ms=max(said["p50_us"] for said in results) / 1e3,
        p99_ms=max(said["p99_us"] for said in results) / 1e3,
        errors=sum(sum(said["errors"].values()) for said in results),
        proxy_core_busy=usage[0],
        load_core_busy=usage[1],
        others=usage[2],
    )


def _start_wrk(load: Load, target: Target, seconds: float) -> subprocess.Popen[str]:
    pinned = ["taskset", "-c", str(load.core_load), load.wrk, "-t1", f"-c{load.connections}", f"-d{seconds:g}s"]
    return subprocess.Popen(
        [*pinned, "--latency", "-s", str(SCRIPT), target.url],
        env={
            **os.environ,
            "BENCH_API_KEY": target.api_key,
            "BENCH_BODY": target.body,
            "BENCH_KEYS": str(target.keys or ""),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class _Usage:
    """CPU use of the two cores since this was made."""

    def __init__(self, load: Load, servers: Sequence[Server]) -> None:
        self._load = load
        self._servers = servers
        self._start = self._read()

    def _read(self) -> tuple[psutil._common.scputimes, psutil._common.scputimes, float]:  # type: ignore[name-defined]
        cores = psutil.cpu_times(percpu=True)
        children = psutil.Process().cpu_times()
        ours = sum(server.cpu_seconds() for server in self._servers)
        ours += children.user + children.system + children.children_user + children.children_system
        return cores[self._load.core_proxy], cores[self._load.core_load], ours

    def until_now(self) -> tuple[float, float, float]:
        """Busy share of the proxy's core and of the load's core, and others' share of one core."""
        start, now = self._start, self._read()
        shares, busy_seconds, total = [], 0.0, 1.0
        for old, new in ((start[0], now[0]), (start[1], now[1])):
            total = max(sum(new) - sum(old), 1e-9)
            idle = new.idle + new.iowait - old.idle - old.iowait
            shares.append(1 - idle / total)
            # Interrupt time belongs to nobody's account, so it can't be held against others.
            interrupts = new.irq + new.softirq - old.irq - old.softirq
            busy_seconds += total - idle - interrupts
        return shares[0], shares[1], max(0.0, (busy_seconds - (now[2] - start[2])) / total)


def _read(output: str, answer_bytes: int) -> dict[str, Any]:
    """What wrk.lua tells at the end."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise Unusable(f"wrk gave no result:\n{output[-2000:]}")
    said: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    if said["bytes"] < said["requests"] * answer_bytes:
        raise Unusable(f"wrk received {said['bytes']} bytes for {said['requests']} answers: bodies were missing")
    return said
