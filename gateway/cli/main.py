"""The `gateway` command. One file per command group; here they come together.

Exit codes: 0 done, 1 failed (one line on standard error says why), 2 the config or the command line is wrong.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache
from io import TextIOWrapper

import typer.main

from gateway import __version__
from gateway.build import build
from gateway.cli import config, keys, orders
from gateway.cli import credits as credits_group
from gateway.cli.dev import dev
from gateway.cli.doctor import doctor
from gateway.cli.failure import FAILED, exit_code_of
from gateway.cli.migrate import migrate
from gateway.cli.moving import export, import_
from gateway.cli.options import AsJson, new_group
from gateway.cli.output import print_json
from gateway.cli.reconcile import reconcile
from gateway.cli.reload import reload
from gateway.cli.serve import serve
from gateway.cli.top import top
from gateway.cli.wiring import Wiring

app = new_group("The gateway that sells API calls: checks the key, takes the credits, forwards, settles.")
app.command()(serve)
app.command()(dev)
config.add_commands(app)
app.command()(reload)
app.command()(top)
app.command()(doctor)
app.command()(migrate)
app.add_typer(keys.group, name="keys")
app.add_typer(credits_group.group, name="credits")
app.add_typer(orders.group, name="orders")
app.command()(reconcile)
app.command()(export)
app.command("import")(import_)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version, whether the hot path is compiled, and the Python that runs it."""
    python = platform.python_version()
    if as_json:
        print_json({"version": __version__, "build": build(), "python": python})
    else:
        print(f"{__version__} ({build()}, Python {python})")


@cache
def command_line() -> Callable[..., object]:
    """All commands and their options, read from the functions once: it takes longer than most commands."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str], wiring: Wiring | None = None) -> int:
    """Run one command; its exit code."""
    return exit_code_of(
        lambda: command_line()(list(arguments), obj=wiring or Wiring(), prog_name="gateway", standalone_mode=False)
    )


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)
