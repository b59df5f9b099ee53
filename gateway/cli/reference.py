"""docs/cli.md: the help of every command on one page. `python -m gateway.cli.reference` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import typer

from gateway.cli.main import app, run

_INTRODUCTION = """\
# The command line

Exit codes: 0 done, 1 failed, 2 the config or the command line is wrong. Errors are one line on standard error; a config
has one for each problem, as `config.yaml:12:5: routes[1].upstream: …`. `--json` prints one JSON document; its times are
Unix milliseconds. Secrets come from the environment or from files (docs/config.md), never from arguments; a new key's
secret is printed once, on a line `API_KEY=…`.

This page is made by `python -m gateway.cli.reference`.
"""


def cli_reference() -> str:
    """The whole page, in Markdown."""
    commands = [[], *_commands(typer.main.get_command(app))]
    return "\n".join([_INTRODUCTION, *map(_page, commands)])


def _page(arguments: list[str]) -> str:
    return f"## {' '.join(('gateway', *arguments))}\n\n```text\n{_help(arguments)}\n```\n"


def _commands(group: Any) -> Iterator[list[str]]:
    for name, command in group.commands.items():
        yield [name]
        if hasattr(command, "commands"):
            for inner in _commands(command):
                yield [name, *inner]


def _help(arguments: list[str]) -> str:
    with redirect_stdout(StringIO()) as output:
        run([*arguments, "--help"])
    return output.getvalue().strip()


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
