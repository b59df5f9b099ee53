"""export and import: everything in one database to another, over a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from gateway.cli.failure import MISUSED, CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, ConfigFile, load, wiring_of

if TYPE_CHECKING:
    from gateway.config.tree import Config
    from gateway.database.engine import Database
    from gateway.database.moving.exporting import OnRows
    from gateway.database.moving.totals import Totals

STANDARD_OUTPUT = "-"


def export(
    context: typer.Context,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A new file; - is standard output.")
    ] = STANDARD_OUTPUT,
    live: Annotated[
        bool,
        typer.Option("--live", help="Also while a gateway serves: a backup. What it sells from then on is not in."),
    ] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write everything in the database to a file, for `gateway import`.

    JSON Lines, as of one moment, with totals and a checksum. No API keys are in it, only their hashes; users, orders
    and the ledger are. Open holds are exported too: at the destination they end as those of a process that died.
    Refuses while a gateway serves, unless --live.
    """
    import asyncio

    from gateway.database.moving.exporting import Export

    if output == STANDARD_OUTPUT and sys.stdout.isatty():
        raise CommandFailed("say where to: --output FILE", MISUSED)
    loaded = load(context, config)

    async def run() -> Totals:
        async with wiring_of(context).open_for_moving(loaded) as database:
            if not live:
                await _refuse_living(database, loaded)
            with _open_output(output) as file, _progress("export") as on_rows:
                return await database.read(Export(file, on_rows).run)

    with _told():
        totals = asyncio.run(run())
    _tell("exported", totals, output)


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `gateway export` has written.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Read an export into an empty database.

    Whatever stops it, run it again: it goes on where it was. Until it has come to its end, with the totals of the
    export and with balances that fit the ledger, no gateway serves from this database.
    """
    import asyncio

    from gateway.database.moving.archive import Archive
    from gateway.database.moving.importing import Import

    loaded = load(context, config)

    async def run(archive: Archive) -> int:
        async with wiring_of(context).open_for_moving(loaded) as database:
            with _progress("import") as on_rows:
                return await Import(archive, database, lambda done: on_rows(done, archive.header.rows)).run()

    with _told():
        archive = Archive(file)
        try:
            before = asyncio.run(run(archive))
        finally:
            archive.close()
    if before:
        print(f"gateway: {before} rows had been imported before", file=sys.stderr)
    _tell("imported", archive.totals, str(file))


async def _refuse_living(database: Database, config: Config) -> None:
    """Whoever is alive beats while we watch."""
    from gateway.database.moving.exporting import has_living

    if await has_living(database, config.credits.heartbeat_seconds * 2 + 1):
        raise CommandFailed(
            "a gateway serves from this database: what it sells from now on would not be in the export. Stop it first,"
            " or say --live for a backup"
        )


@contextmanager
def _open_output(output: str) -> Iterator[BinaryIO]:
    """A file that has its name only when it is complete. Nobody else may read it."""
    if output == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    if Path(output).exists():
        raise CommandFailed(f"{output} is there already: name a new file")
    unfinished = Path(f"{output}.part")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            yield file
            file.flush()
            os.fsync(descriptor)
        unfinished.rename(output)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _progress(what: str) -> Iterator[OnRows]:
    """A bar on the terminal; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    with typer.progressbar(length=1, label=what, file=sys.stderr, show_pos=True) as bar:

        def tell(done: int, of: int) -> None:
            bar.length = max(1, of)
            bar.update(done)

        yield tell


@contextmanager
def _told() -> Iterator[None]:
    from gateway.database.moving.failure import MovingFailed

    try:
        yield
    except MovingFailed as error:
        raise CommandFailed(str(error)) from error


def _tell(done: str, totals: Totals, where: str) -> None:
    """On standard error: standard output may be the export."""
    rows = sum(totals.rows.values())
    facts = (f"{totals.rows['keys']} keys", f"{totals.rows['entries']} entries", f"balances {totals.balances}")
    print(f"gateway: {done} {rows} rows ({', '.join(facts)}): {where}", file=sys.stderr)
