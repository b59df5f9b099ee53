"""What the gateway sold during a benchmark: a speed that loses a credit does not count."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.books import Books, read_books
from benchmarks.processes import Unusable
from gateway.app import open_provider
from gateway.config.load import load_config

CREDITS = 1_000_000_000
SETTLE_TIMEOUT_SECONDS = 5.0


def create_key(gateway_command: Sequence[str], config: Path) -> str:
    """A new key with a thousand million credits, made by the gateway's own command."""
    command = [*gateway_command, "keys", "create", "--user", "bench", "--credits", str(CREDITS), "--json"]
    done = subprocess.run([*command, "-c", str(config)], capture_output=True, text=True, timeout=60, check=False)
    try:
        api_key: str = json.loads(done.stdout)["api_key"]
    except (ValueError, KeyError, TypeError) as error:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise Unusable(f"`gateway keys create` exited with status {done.returncode}:\n{said}") from error
    return api_key


def create_keys(config: Path, count: int, file: Path) -> None:
    """So many keys, in a file of theirs. By one process: the command takes a second for each."""

    async def create() -> list[str]:
        async with open_provider(load_config(config, os.environ)) as provider:
            return [(await provider.create("bench", credits=CREDITS))[0] for _ in range(count)]

    file.touch(mode=0o600)
    file.write_text("\n".join(asyncio.run(create())) + "\n")


def check_spent(database: str, before: Books, answered: int, in_flight: int) -> int:
    """The credits spent since `before` according to the ledger, which must be those of the calls answered.

    Each call cost 1. wrk drops up to `in_flight` calls when its time is up: those may have been sold, but not counted.
    Raises Unusable when the books say anything else, or when a hold stays open.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
    while (books := read_books(database)).open_holds and time.monotonic() < deadline:
        time.sleep(0.05)
    spent = books.spent - before.spent
    if books.open_holds:
        raise Unusable(f"{books.open_holds} holds are still open {SETTLE_TIMEOUT_SECONDS:.0f} s after the last call")
    if not answered <= spent <= answered + in_flight:
        raise Unusable(
            f"{answered} calls were answered (and up to {in_flight} cut off), but {spent} credits were spent"
        )
    if books.is_local and books.left != before.left - spent:
        raise Unusable(f"the keys have {books.left} credits left of {before.left} after spending {spent}")
    return spent
