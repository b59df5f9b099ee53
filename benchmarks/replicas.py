"""`python -m benchmarks.replicas`: the gateway on PostgreSQL, by replicas, by keys, and on a long ledger.

One replica has a core to itself; PostgreSQL, wrk and the upstream share the other. Several replicas may use both, for
there are no more: so what each call costs is told too, which does not depend on how many cores there are. Each case is
measured once a round. Exit status as that of `python -m benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.books import Books, connect, read_books, write_books
from benchmarks.contenders import Bench, gateway_command, gateway_setting, serve, start_upstream, target_of
from benchmarks.load import Load, Run, Target, check_answer, cores, run_wrk
from benchmarks.postgres import start_postgres
from benchmarks.processes import Server, Servers, Unusable, exit_status
from benchmarks.sold import check_spent
from benchmarks.tools import find_tools
from gateway.database.postgres import migrate_postgres

BEGIN, END = "<!-- replicas: begin -->", "<!-- replicas: end -->"
COLUMNS = ("", "calls/s", "×", "p50 ms", "p99 ms", "gateway, µs a call", "PostgreSQL, µs a call", "core 1", "core 2")
PATHS = ("/credits", "/credits/transactions")
READING = ("", "p50 ms", "p99 ms", "gateway, µs a call", "PostgreSQL, µs a call")


@dataclass(frozen=True, slots=True)
class Group:
    """Replicas on a database of theirs. `keys`: the file of the keys in it."""

    replicas: int
    entries: int
    url: str
    ports: tuple[int, ...]
    servers: tuple[Server, ...]
    first_key: str
    keys: Path
    books: Books
    runs: list[Run] = field(default_factory=list)
    """All that were made, with the warm-ups."""


@dataclass(slots=True)
class Case:
    """A group, and what is asked of it: calls with one key or with many, which are sold, or else something for nothing.
    A run each round, and the CPU that it took, in µs a call."""

    label: str
    group: Group
    load: Load
    targets: list[Target]
    keys: int = 0
    runs: list[Run] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    postgres_us: list[float] = field(default_factory=list)


class Rounds:
    """How a case is run. `everybody`: all servers there are."""

    def __init__(self, options: argparse.Namespace, postgres: Server, everybody: Sequence[Server]) -> None:
        self._options = options
        self._postgres = postgres
        self._everybody = everybody

    def run(self, case: Case) -> None:
        self._timed(case, self._options.warm_up)
        tries = [self._timed(case, self._options.seconds)]
        while tries[-1][0].others > report.DISTURBED_SHARE and len(tries) <= self._options.retries:
            tries.append(self._timed(case, self._options.seconds))
        run, gateway_us, postgres_us = min(tries, key=lambda each: each[0].others)
        case.runs.append(run)
        case.gateway_us.append(gateway_us)
        case.postgres_us.append(postgres_us)
        print(f"{case.label:52}{run.requests_per_second:9,.0f}/s  others {run.others:.0%}", file=sys.stderr)

    def _timed(self, case: Case, seconds: float) -> tuple[Run, float, float]:
        group = case.group
        before = self._cpu_seconds(group)
        run = run_wrk(case.load, case.targets, seconds, self._everybody)
        after = self._cpu_seconds(group)
        if case.keys:
            group.runs.append(run)
        elif run.errors:
            raise Unusable(f"{case.label}: {run.errors} were not answered")
        gateway, postgres = ((now - old) * 1e6 / max(run.requests, 1) for now, old in zip(after, before, strict=True))
        return run, gateway, postgres

    def _cpu_seconds(self, group: Group) -> tuple[float, float]:
        return sum(server.cpu_seconds() for server in group.servers), self._postgres.cpu_seconds()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    selling, reading = _measure(options)
    rows, pages = _rows(selling), [READING, *((one.label, *_times(one, 2), *_costs(one)) for one in reading)]
    print(report.aligned(rows), "One at a time, of random keys:\n" + report.aligned(pages), sep="\n\n")
    if note := report.disturbance_of([run for case in (*selling, *reading) for run in case.runs]):
        print(f"\nnote: {note}")
    if options.json:
        told = [{"label": case.label, "rounds": [asdict(run) for run in case.runs]} for case in (*selling, *reading)]
        Path(options.json).write_text(json.dumps(told, indent=2) + "\n")
    if options.write_docs:
        if note:
            raise Unusable(f"docs/ keeps its old figures: {note}")
        title = f"One at a time, of random keys of the ledger with {options.entries / 1e6:g} M entries:"
        said = [report.markdown(rows), "", _sentence(options), "", title, "", report.markdown(pages)]
        report.replace_between(report.DOCS / "performance.md", BEGIN, END, said)


def _measure(options: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Calls that are sold, and questions of the control plane's."""
    core_proxy, core_load = options.cores
    tools = find_tools(envoy=False)
    crowd = Load(tools.wrk, options.connections, core_proxy, core_load)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Servers(Path(folder)) as servers:
        directory = Path(folder)
        upstream, upstream_port, stub_port = start_upstream(servers, tools, directory, core_load)
        postgres, url = start_postgres(servers, directory / "postgres", core_load)
        command = gateway_command(options.gateway_command)
        bench = Bench(tools, servers, directory, core_proxy, core_load, upstream_port, stub_port, command)
        one, *more = [_start_group(bench, url, count, options.keys, options.keys) for count in options.replicas]
        long = _start_group(bench, url, 1, options.keys, options.entries)
        groups = [one, long, *more]
        rounds = Rounds(options, postgres, [upstream, postgres, *(each for group in groups for each in group.servers)])
        selling = [_selling(group, crowd, keys, options.keys) for keys in (options.keys, 1) for group in groups]
        reading = _reading(long, replace(crowd, connections=1), upstream_port)
        for number in range(options.rounds):
            # To and fro: what the machine does meanwhile should not always meet the same one.
            for case in (selling + reading)[:: 1 if number % 2 == 0 else -1]:
                rounds.run(case)
        for group in groups:
            _check(group, len(group.ports) * options.connections)
    return selling, reading


def _start_group(bench: Bench, server_url: str, replicas: int, keys: int, entries: int) -> Group:
    name = f"replicas{replicas}_{entries}"
    with connect(server_url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = f"{server_url.rpartition('/')[0]}/{name}"
    migrate_postgres(url)
    secrets = [key.secret for key in write_books(url, keys, entries)]
    file = bench.directory / f"{name}.keys"
    file.touch(mode=0o600)
    file.write_text("\n".join(secrets) + "\n")
    settings = [gateway_setting(bench, f"{name}_{n}", {"provider": "local"}, url) for n in range(replicas)]
    cores = str(bench.core_proxy) if replicas == 1 else f"{bench.core_proxy},{bench.core_load}"
    started = tuple(serve(bench, setting, cores) for setting in settings)
    ports = tuple(setting.port for setting in settings)
    return Group(replicas, entries, url, ports, started, secrets[0], file, read_books(url))


def _selling(group: Group, load: Load, keys: int, keys_of_all: int) -> Case:
    several = "1 replica" if group.replicas == 1 else f"{group.replicas} replicas"
    used = "1 key" if keys == 1 else f"{keys:,} keys"
    behind = "" if group.entries == keys_of_all else f", {group.entries / 1e6:g} M entries in the ledger"
    file = None if keys == 1 else group.keys
    targets = [target_of(port, group.first_key, file) for port in group.ports]
    return Case(f"{several}, {used}{behind}", group, load, targets, keys)


def _reading(group: Group, load: Load, upstream_port: int) -> list[Case]:
    """Beside what a call of the upstream takes, without the gateway."""
    base = f"http://127.0.0.1:{group.ports[0]}"
    pages = [Target(base + path, group.first_key, answer=b"", keys=group.keys) for path in PATHS]
    cases = [Case(f"`GET {path}`", group, load, [page]) for path, page in zip(PATHS, pages, strict=True)]
    return [*cases, Case("upstream without a proxy", group, load, [target_of(upstream_port)])]


def _check(group: Group, in_flight: int) -> None:
    """Raises Unusable when the figures of the group may not be quoted."""
    if errors := sum(run.errors for run in group.runs):
        raise Unusable(f"{group.replicas} replicas: {errors} calls failed")
    for server in group.servers:
        server.check_alive()
    check_spent(group.url, group.books, sum(run.requests for run in group.runs), len(group.runs) * in_flight)
    for port in group.ports:
        check_answer(f"one of {group.replicas} replicas", target_of(port, group.first_key))


def _rows(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """The table. × is the rate by that of the first case with as many keys: the median of each round's."""
    rows = [COLUMNS]
    for case in cases:
        base = next(other for other in cases if other.keys == case.keys)
        pairs = zip(case.runs, base.runs, strict=True)
        times = median(run.requests_per_second / one.requests_per_second for run, one in pairs)
        rate = median(run.requests_per_second for run in case.runs)
        busy = [median(getattr(run, name) for run in case.runs) for name in ("proxy_core_busy", "load_core_busy")]
        shares = (f"{share:.0%}" for share in busy)
        rows.append((case.label, f"{rate:,.0f}", f"{times:.2f}", *_times(case, 1), *_costs(case), *shares))
    return rows


def _times(case: Case, digits: int) -> tuple[str, str]:
    p50, p99 = (median(getattr(run, name) for run in case.runs) for name in ("p50_ms", "p99_ms"))
    return f"{p50:.{digits}f}", f"{p99:.{digits}f}"


def _costs(case: Case) -> tuple[str, str]:
    return f"{median(case.gateway_us):.0f}", f"{median(case.postgres_us):.0f}"


def _sentence(options: argparse.Namespace) -> str:
    return (
        f"Medians of {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections to each "
        f"replica, on {report.processor()}, measured on {datetime.now(UTC).date().isoformat()}. Python "
        f"{platform.python_version()}, PostgreSQL 18."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("--replicas", type=_counts, default=(1, 2, 4), metavar="N,…", help="default 1,2,4")
    parser.add_argument("--keys", type=int, default=10_000, help="keys beside the case of one (default 10000)")
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the long ledger (default 10000000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a timed run (default 4)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds of load before each (default 1)")
    parser.add_argument("--retries", type=int, default=1, help="of a run that others disturbed (default 1)")
    parser.add_argument("--connections", type=int, default=32, help="calls in flight at each replica (default 32)")
    parser.add_argument("--cores", type=cores, default=(0, 1), metavar="P,L", help="default 0,1")
    parser.add_argument("--gateway-command", metavar="COMMAND", help="how to run the gateway's command line")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to a file")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/")
    return parser.parse_args(arguments)


def _counts(text: str) -> tuple[int, ...]:
    """Ascending, and one replica among them: the others are compared with it."""
    return tuple(sorted({1, *(int(each) for each in text.split(","))}))


if __name__ == "__main__":
    sys.exit(main())
