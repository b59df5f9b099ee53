"""`python -m benchmarks`: every contender on one pinned core, in one run, in interleaved rounds. Two loads:
calls that crowd the proxy, and one call at a time.

The proxy under test has one core; wrk, the upstream and the stub share the other. Exit status: 0 measured, 2 a tool is
missing or a contender can't be trusted (it did not start, answered wrongly, made errors, or its books don't balance).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import lonely, report
from benchmarks.contenders import NAMES, PROXIES, UNPROXIED, Bench, Running, gateway_command, start_upstream
from benchmarks.load import Load, Run, check_answer, cores, run_wrk
from benchmarks.processes import Server, Servers, Unusable, exit_status
from benchmarks.sold import check_spent
from benchmarks.tools import Tools, find_tools


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    tools = find_tools(envoy="envoy" in options.only)
    figures, alone = _measure(options, options.only, tools)
    setting = _setting(options, tools)
    tables = [report.table(figures)] if figures else []
    print("\n\n".join([*tables, lonely.table(alone)]))
    if note := report.disturbance([*figures, *alone]):
        print(f"\nnote: {note}")
    if options.json:
        document = report.document(figures, setting) | {"one_call_at_a_time": lonely.document(alone)}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    if options.write_docs:
        report.write_docs(figures, alone, lonely.rows(alone), setting, report.DOCS)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the gateway beside its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=8, help="length of a timed run (default 8)")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds of load before each timed run (default 2)")
    parser.add_argument("--connections", type=int, default=32, help="calls in flight (default 32)")
    parser.add_argument("--keys", type=int, default=1, help="API keys of the gateway's own that call (default 1)")
    parser.add_argument("--lonely-seconds", type=float, default=3, help="of one call at a time, a round (default 3)")
    parser.add_argument("--only-lonely", action="store_true", help="measure nothing but one call at a time")
    parser.add_argument("--retries", type=int, default=2, help="of a run that other programs disturbed (default 2)")
    parser.add_argument("--quick", action="store_true", help="one round of 4 s after 1 s: a first impression")
    parser.add_argument("--only", type=_names, default=NAMES, metavar="NAMES", help=f"of {','.join(NAMES)}")
    parser.add_argument("--cores", type=cores, default=(0, 1), metavar="P,L", help="proxy's and load's (default 0,1)")
    parser.add_argument("--gateway-command", metavar="COMMAND", help="how to run the gateway's command line")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to a file")
    parser.add_argument("--write-docs", action="store_true", help="put table and drawing into docs/")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.warm_up, options.retries = 1, 4.0, 1.0, 0
        options.lonely_seconds = min(options.lonely_seconds, 2.0)
    if options.only_lonely and options.write_docs:
        parser.error("--write-docs needs both tables: leave out --only-lonely")
    if options.write_docs and options.keys > 1:
        parser.error("--write-docs is for one key: leave out --keys")
    return options


def _names(text: str) -> tuple[str, ...]:
    wanted = [name.strip() for name in text.split(",")]
    if unknown := [name for name in wanted if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def _measure(
    options: argparse.Namespace, names: Sequence[str], tools: Tools
) -> tuple[list[report.Figures], list[report.Figures]]:
    """The figures of a crowd of calls (none if only one call at a time is wanted), and of one call at a time."""
    core_proxy, core_load = options.cores
    crowd = Load(tools.wrk, options.connections, core_proxy, core_load)
    alone = replace(crowd, connections=1)
    # From the proxies' core, as they ask: on one core with whom it asks, wrk has its answer in a sixth of the time.
    as_proxy = replace(alone, core_proxy=core_load, core_load=core_proxy)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Servers(Path(folder)) as servers:
        directory = Path(folder)
        upstream, upstream_port, stub_port = start_upstream(servers, tools, directory, core_load)
        command = (
            gateway_command(options.gateway_command)
            if {"gateway", "gateway-unkey", "gateway-postgres"} & set(names)
            else []
        )
        bench = Bench(tools, servers, directory, core_proxy, core_load, upstream_port, stub_port, command, options.keys)
        everybody = [PROXIES[name](bench) if name in PROXIES else UNPROXIED[name](bench, upstream) for name in names]
        for one in everybody:
            check_answer(one.label, one.target)
        crowded = _Rounds(options, crowd, crowd, options.seconds, upstream)
        lonely_ones = _Rounds(options, alone, as_proxy, options.lonely_seconds, upstream)
        for number in range(options.rounds):
            for one in everybody:
                if not options.only_lonely and one.name != "verify":
                    crowded.run(number, one)
            for one in everybody:
                lonely_ones.run(number, one)
        for one in everybody:
            _check_after(one, [*crowded.made.get(one.name, ()), *lonely_ones.made[one.name]], options.connections)
    labels = {one.name: one.label for one in everybody}
    return report.summarise(crowded.counted, labels), report.summarise(lonely_ones.counted, labels)


class _Rounds:
    """The runs of each contender under one load, `unproxied` for those that are no proxy: `counted`, one a round, and
    `made`, all of them with the warm-ups."""

    def __init__(
        self, options: argparse.Namespace, load: Load, unproxied: Load, seconds: float, upstream: Server
    ) -> None:
        self._options = options
        self._load = load
        self._unproxied = unproxied
        self._seconds = seconds
        self._upstream = upstream
        self.counted: dict[str, list[Run]] = {}
        self.made: dict[str, list[Run]] = {}

    def run(self, number: int, one: Running) -> None:
        servers = list({self._upstream, *one.servers})
        load = self._unproxied if one.name in UNPROXIED else self._load
        made = self.made.setdefault(one.name, [])
        made.append(run_wrk(load, [one.target], min(self._options.warm_up, self._seconds), servers))
        tries: list[Run] = []
        while not tries or (tries[-1].others > report.DISTURBED_SHARE and len(tries) <= self._options.retries):
            tries.append(run_wrk(load, [one.target], self._seconds, servers))
            for server in one.servers:
                server.check_alive()
        made += tries
        run = min(tries, key=lambda run: run.others)
        self.counted.setdefault(one.name, []).append(run)
        print(_progress(number, one, run, len(tries)), file=sys.stderr)


def _progress(number: int, one: Running, run: Run, tries: int) -> str:
    again = f"  ({tries} tries, others used {run.others:.0%})" if tries > 1 else ""
    return (
        f"round {number + 1}  {one.label:28}{run.requests_per_second:9,.0f}/s  "
        f"p50 {run.p50_ms:.3f}  p99 {run.p99_ms:.3f} ms{again}"
    )


def _check_after(one: Running, runs: Sequence[Run], connections: int) -> None:
    """Raises Unusable when the figures of a contender may not be quoted."""
    if errors := sum(run.errors for run in runs):
        raise Unusable(f"{one.label}: {errors} calls failed while it was measured")
    if one.database is not None and one.books is not None:
        answered = sum(run.requests for run in runs) + 1  # and the one that check_answer made
        spent = check_spent(one.database, one.books, answered, len(runs) * connections)
        print(f"{one.label}: {answered:,} calls answered, {spent:,} credits spent", file=sys.stderr)
    check_answer(one.label, one.target)


def _setting(options: argparse.Namespace, tools: Tools) -> dict[str, object]:
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "warm_up": options.warm_up,
        "connections": options.connections,
        "keys": options.keys,
        "lonely_seconds": options.lonely_seconds,
        "processor": report.processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"Python": platform.python_version(), **tools.versions()},
    }


if __name__ == "__main__":
    sys.exit(main())
