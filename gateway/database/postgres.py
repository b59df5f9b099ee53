"""PostgreSQL as the database of any number of replicas.

A few threads, each with a connection of a pool; no wait without an end: for a lock, a statement, the server's answer or
a connection. A transaction that others were in the way of, or whose connection broke before COMMIT was sent, is run
again: it is a function of its connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import sqlalchemy
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.database.engine import Database, DatabaseError, Result
from gateway.database.failure import Kind
from gateway.database.schema import check_schema, migrate
from gateway.database.worker import Worker
from gateway.errors import CreditsUnavailable

logger = logging.getLogger("gateway.database")

THREADS = 4
"""Transactions of the control plane at once, and so the connections of its pool."""
WAITING_MAX = 1_000
"""Transactions that may wait for a thread."""
LOCK_TIMEOUT_MS = 500
"""Below PostgreSQL's deadlock_timeout of 1 s: whoever waits so long lets go, and tries again."""
STATEMENT_TIMEOUT_MS = 1_500
"""Below the 2 s in which a caller is answered."""
ANSWER_SECONDS = 1.8
"""How long the server's answer to one statement is waited for, whatever keeps it. Then the connection is given up."""
CONNECT_SECONDS = 2
IDLE_IN_TRANSACTION_MS = 5_000
"""A process that was stopped in the middle of a transaction keeps its locks no longer."""
TRIES_MAX = 6
TRY_SECONDS = 1.5
"""A transaction that failed for others' sake is not begun again after that."""
PAUSE_SECONDS = 0.02
CLOSE_SECONDS = 4.0
MIGRATE_TIMEOUT_MS = 600_000
BY_INDEX = {
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    "plan_cache_mode": "force_generic_plan",
}
"""How the journal's statements are planned. Holds come and go, so after a vacuum their table is empty. A plan made then
reads all of it, or of its index, and is kept until the next vacuum, whatever has died in it meanwhile: within a minute
4,700 calls/s became 1,900, for which the server took 0.29 ms each and not 0.08. And where a plan by index looks dearer
than one for just these values, each batch would be planned anew, which takes longer than all else about it."""

AWAY = (
    errors.OperatorIntervention,  # 57…: shut down, starting up, cancelled for its length
    errors.InsufficientResources,  # 53…: too many connections, disk full
    errors.ReadOnlySqlTransaction,  # a replica, or a server that was told so
    errors.SystemError,  # 58…
)
BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)


class PostgresConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever: the kernel of a server that hangs goes on acknowledging."""

    answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except errors._WaitTimeout as error:  # noqa: SLF001 - psycopg has no other name for it
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer from the server within {self.answer_seconds} s") from error


class PostgresDatabase(Database):
    """A server, and the threads that speak to it for everything but spending. `parameters` are libpq's."""

    is_remote = True

    def __init__(self, parameters: dict[str, Any], engine: Engine) -> None:
        self._parameters = parameters
        self._engine = engine
        self._snapshots = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._statements = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._worker = Worker("database", threads=THREADS)

    async def transaction(self, work: Callable[[Connection], Result]) -> Result:
        return await self._run(self._engine, work)

    async def read(self, work: Callable[[Connection], Result]) -> Result:
        return await self._run(self._snapshots, work)

    async def ask(self, work: Callable[[Connection], Result]) -> Result:
        """One way to the server and back. BEGIN and COMMIT would each be another."""
        return await self._run(self._statements, work)

    def connect(self, *, lock_timeout_ms: int) -> PostgresConnection:
        """A plain driver connection, for the journal. Blocks. Raises psycopg.Error."""
        return connect(self._parameters, lock_timeout_ms, STATEMENT_TIMEOUT_MS, **BY_INDEX)

    def close(self) -> None:
        if self._worker.close(CLOSE_SECONDS):
            self._engine.dispose()
        else:
            logger.warning("the database does not answer; leaving without closing it")

    async def _run(self, engine: Engine, work: Callable[[Connection], Result]) -> Result:
        if self._worker.waiting >= WAITING_MAX:
            raise CreditsUnavailable(cause=f"{WAITING_MAX} transactions are waiting already")
        return await self._worker.run(partial(self._try, engine, work))

    def _try(self, engine: Engine, work: Callable[[Connection], Result]) -> Result:
        give_up_at = time.monotonic() + TRY_SECONDS
        tries = 0
        while True:
            tries += 1
            attempt = _Attempt(engine)
            try:
                return attempt.run(work)
            except (SQLAlchemyError, psycopg.Error, UnicodeEncodeError) as error:
                if not attempt.may_repeat(error) or tries >= TRIES_MAX or time.monotonic() >= give_up_at:
                    raise CreditsUnavailable(cause=f"database: {public(error)}") from error
            time.sleep(PAUSE_SECONDS * tries)


class _Attempt:
    """One run of a transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_connected = False
        self._is_committing = False

    def run(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.connect() as connection:
            self._has_connected = True
            with connection.begin() as transaction:
                result = work(connection)
                self._is_committing = True
                transaction.commit()
        return result

    def may_repeat(self, error: Exception) -> bool:
        """Whether it surely was not committed, and may be another time."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, (*BUSY, errors.UniqueViolation)):
            return True  # a row that was not there when it was looked for: it is found now
        if isinstance(cause, AWAY) or isinstance(error, PoolTimeout):
            return False
        # A pooled connection may have broken long ago. What could not be connected just now can't be in a moment.
        return self._has_connected and not self._is_committing and isinstance(cause, psycopg.OperationalError)


def open_postgres(url: str, *, migrates: bool = False) -> PostgresDatabase:
    """Connect, and see that the schema is this version's (or make it so). Raises DatabaseError."""
    parameters = read_parameters(url)
    if migrates:
        migrate_postgres(url)
    engine = _engine(parameters)
    try:
        with engine.connect() as connection:
            check_schema(connection)
    except (SQLAlchemyError, psycopg.Error) as error:
        engine.dispose()
        raise DatabaseError(f"{shown(parameters)}: {public(error)}") from error
    return PostgresDatabase(parameters, engine)


def migrate_postgres(url: str) -> str | None:
    """Bring the schema up to date, one process after the other. Returns the revision it had. Raises DatabaseError."""
    parameters = read_parameters(url)
    engine = _engine(parameters, statement_timeout_ms=MIGRATE_TIMEOUT_MS)
    try:
        with engine.begin() as connection:
            return migrate(connection)
    except (SQLAlchemyError, psycopg.Error) as error:
        raise DatabaseError(f"{shown(parameters)}: {public(error)}") from error
    finally:
        engine.dispose()


def read_parameters(url: str) -> dict[str, Any]:
    """libpq's parameters of a URL, in its own words (`sslmode`, `sslrootcert`, …). Raises DatabaseError."""
    scheme, _, rest = url.partition(":")
    try:
        return dict(conninfo_to_dict(f"{scheme.partition('+')[0]}:{rest}"))
    except psycopg.Error as error:
        # libpq's words may quote the URL, password and all.
        raise DatabaseError("not a postgresql:// URL, or with a parameter that libpq does not know") from error


def shown(parameters: dict[str, Any]) -> str:
    """Which database it is, without its password."""
    host, port = parameters.get("host", "localhost"), parameters.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{parameters.get('dbname', '')}"


def public(error: Exception) -> str:
    """What the server said, in one line, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(str(cause).split("DETAIL:")[0].split())
    return text or type(cause).__name__


def kind_of_postgres(error: Exception, *, is_broken: bool) -> Kind:
    """What may be done about an error of the driver's."""
    if is_broken or isinstance(error, AWAY):
        return Kind.away
    if isinstance(error, BUSY):
        return Kind.busy
    return Kind.away if isinstance(error, psycopg.OperationalError) else Kind.refused


def _engine(parameters: dict[str, Any], statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> Engine:
    def open_connection() -> PostgresConnection:
        connection = connect(parameters, LOCK_TIMEOUT_MS, statement_timeout_ms)
        if statement_timeout_ms > STATEMENT_TIMEOUT_MS:
            connection.answer_seconds = statement_timeout_ms / 1000
            connection.execute("SET lock_timeout = 0")
        connection.autocommit = False  # SQLAlchemy leaves BEGIN to the driver
        return connection

    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=open_connection,
        pool_size=THREADS,
        max_overflow=0,
        pool_timeout=STATEMENT_TIMEOUT_MS / 1000,
        hide_parameters=True,  # they would stand in the log: hashes of keys, ids of users
    )


def connect(
    parameters: dict[str, Any], lock_timeout_ms: int, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS, **more: str
) -> PostgresConnection:
    """A connection on which each statement commits by itself, with `more` settings. Raises psycopg.Error."""
    settings = {
        "lock_timeout": lock_timeout_ms,
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
        **more,
    }
    options = " ".join([parameters.get("options", ""), *(f"-c {name}={value}" for name, value in settings.items())])
    ours = {
        "application_name": "credit-gateway",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(ANSWER_SECONDS * 1000),
    }
    return PostgresConnection.connect(**{**ours, **parameters, "options": options.strip()}, autocommit=True)
