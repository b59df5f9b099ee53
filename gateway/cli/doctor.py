"""doctor: look at everything the gateway depends on, and say what is wrong and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from gateway.cli.config import fine, load_checked
from gateway.cli.failure import FAILED
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, wiring_of
from gateway.cli.output import print_json, shown

if TYPE_CHECKING:
    from gateway.cli.wiring import OnProgress
    from gateway.doctor.diagnosis import Diagnosis

_ERASE_LINE = "\r\x1b[K"


def doctor(context: typer.Context, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Look at the config, the database, Unkey, the upstreams and Stripe's keys. Changes nothing.

    A line for each thing: ok, warn or FAIL, what was found, and what to do. Takes 10 s at most, and can be run beside a
    gateway. Exit code 1 if anything FAILs, 2 if the config is broken.
    """
    from gateway.doctor.diagnosis import State, ok

    loaded = load_checked(context, config, as_json=as_json)
    with _progress() as on_progress:
        examined = wiring_of(context).examine(loaded, on_progress)
    found = [ok("config", f"{config} is {fine(loaded)}"), *examined]
    is_well = all(diagnosis.state is not State.FAIL for diagnosis in found)
    if as_json:
        print_json({"ok": is_well, "checks": [_document(diagnosis) for diagnosis in found]})
    else:
        _print(found)
    if not is_well:
        raise typer.Exit(FAILED)


def _print(found: Sequence[Diagnosis]) -> None:
    width = max(len(diagnosis.what) for diagnosis in found)
    for diagnosis in found:
        print(f"{diagnosis.state:<4}  {shown(diagnosis.what):<{width}}  — {shown(diagnosis.text)}")


def _document(diagnosis: Diagnosis) -> dict[str, str]:
    return {"state": diagnosis.state.lower(), "what": diagnosis.what, "text": diagnosis.text}


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """One line on the terminal that says what is waited for; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def tell(under_way: Sequence[str]) -> None:
        print(f"{_ERASE_LINE}examining {', '.join(under_way)} …"[:78], end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print(_ERASE_LINE, end="", file=sys.stderr, flush=True)
