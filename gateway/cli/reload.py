"""reload: let the running gateway read its config anew, and say what came of it."""

from __future__ import annotations

import sys

import typer

from gateway.cli.admin import Admin, ask
from gateway.cli.failure import MISUSED
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile
from gateway.cli.output import print_json, shown


def reload(
    context: typer.Context, config: ConfigFile = DEFAULT_CONFIG, admin: Admin = None, as_json: AsJson = False
) -> None:
    """Let the running gateway read its config anew, in all workers, and say what changed.

    It is asked over its admin listener, which the config names. Exit code 2 when it refuses the file: what was in
    force stays. The gateway reads its own file with its own environment; --admin spares this command reading it too.
    """
    answer = ask(context, config, admin, "POST", "/reload").json()
    refused = answer["result"] == "refused"
    if as_json:
        print_json(answer)
    else:
        for problem in answer["problems"]:
            print(shown(problem), file=sys.stderr)
        for change in answer["changes"]:
            print(shown(change))
        print(_summary(answer), file=sys.stderr if refused else sys.stdout)
    if refused:
        raise typer.Exit(MISUSED)


def _summary(answer: dict[str, list[str]]) -> str:
    if answer["problems"]:
        return f"refused: {len(answer['problems'])} problems; nothing has changed"
    if not answer["changes"]:
        return "nothing is different"
    return f"applied: {len(answer['changes'])} changes"
