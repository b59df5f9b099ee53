"""What the gateway sold during a benchmark: a speed that loses a credit does not count."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text

from benchmarks.processes import Unusable
from gateway.app import open_provider
from gateway.config.load import load_config

CREDITS = 1_000_000_000
SETTLE_TIMEOUT_SECONDS = 5.0
OPEN_HOLDS = "SELECT (SELECT count(*) FROM holds) + (SELECT count(*) FROM unkey_holds)"


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


def check_spent(database: str, answered: int, in_flight: int) -> int:
    """The credits spent according to the ledger, which must be those of the calls answered.

    Each call cost 1. wrk drops up to `in_flight` calls when its time is up: those may have been sold, but not counted.
    Raises Unusable when the books say anything else, or when a hold stays open.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
    url = make_url(database)
    engine = create_engine(url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while (open_holds := _number(connection, OPEN_HOLDS)) and time.monotonic() < deadline:
            time.sleep(0.05)
        spent = -_number(connection, "SELECT coalesce(sum(amount), 0) FROM entries WHERE kind = 'spend'")
        is_local = not _number(connection, "SELECT count(unkey_id) FROM keys")
        left = _number(connection, "SELECT sum(balance - held) FROM keys")
        given = _number(connection, "SELECT count(*) FROM keys") * CREDITS
    if open_holds:
        raise Unusable(f"{open_holds} holds are still open {SETTLE_TIMEOUT_SECONDS:.0f} s after the last call")
    if not answered <= spent <= answered + in_flight:
        raise Unusable(
            f"{answered} calls were answered (and up to {in_flight} cut off), but {spent} credits were spent"
        )
    if is_local and left != given - spent:
        raise Unusable(f"the keys have {left} credits left of {given} after spending {spent}")
    return spent


def _number(connection: Connection, query: str) -> int:
    return int(connection.execute(text(query)).scalar_one())
