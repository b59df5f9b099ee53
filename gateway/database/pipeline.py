"""Statements that are sent to PostgreSQL together and answered together: one round trip, whatever their number.

On libpq's own functions, as psycopg hands them through, with each statement prepared once: a cursor for each of them
took more of the processor than all else that the journal does for a batch. The event loop watches the socket, so nobody
blocks: a run is awaited, and woken once, when its last answer is there.

https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
https://www.postgresql.org/docs/current/libpq-async.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from gateway.database.postgres import PostgresConnection

Rows = list[tuple[Any, ...]]

DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Pipeline:
    """One connection's, for one run at a time. The connection's own methods may be used too, between two runs; but it
    is closed here, for the loop has to let go of its socket first.

    `on_answer` is called when a run's last answer is there: who waits for it need not wait for the loop's next turn.
    """

    def __init__(
        self,
        connection: PostgresConnection,
        loop: asyncio.AbstractEventLoop,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection = connection
        self._loop = loop
        self._on_answer = on_answer
        self._libpq = connection.pgconn
        self._transformer = Transformer.from_context(connection)
        self._added: list[tuple[str, list[bytes]]] = []
        self._names: dict[str, bytes] = {}
        self._names_given = 0
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[None] | None = None
        self._socket = self._libpq.socket
        loop.add_reader(self._socket, self._read)

    @property
    def is_idle(self) -> bool:
        """Whether a transaction can begin: the connection stands, and nothing is left open on it."""
        return self._libpq.transaction_status == TransactionStatus.IDLE

    def add(self, statement: str, *values: str) -> int:
        """Where its rows will be in what `run` gives. `values` are the texts of $1, $2, …

        Raises psycopg.DataError or UnicodeEncodeError for characters that no text in PostgreSQL can have.
        """
        encoded = [value.encode() for value in values]
        for value in encoded:
            if b"\0" in value:
                raise psycopg.DataError("PostgreSQL text can't contain NUL")  # for libpq the value would end there
        self._added.append((statement, encoded))
        return len(self._added) - 1

    def forget(self) -> None:
        """What was added, and is not to be sent after all."""
        self._added.clear()

    async def run(self) -> list[Rows]:
        """Send what was added; the rows of each.

        Raises psycopg.Error for the first that fails. Those behind it are then not run. Broken off, by a cancellation
        or because the server does not answer, it closes the connection: the next run would find this one's results.
        """
        added, self._added = self._added, []
        fresh = {statement for statement, _ in added}.difference(self._names)
        results: list[PGresult] = []
        self._results = results
        self._answer = answer = self._loop.create_future()
        seconds = self.connection.answer_seconds
        timer = None if seconds is None else self._loop.call_later(seconds, self._be_late, answer, seconds)
        try:
            self._send(added, fresh)
            await answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None
            if timer is not None:
                timer.cancel()
        for result in results:
            if result.status not in DONE:
                for statement in fresh:
                    del self._names[statement]  # nobody has looked whether they were prepared
                raise error_from_result(result)
        return [self._rows(result) for result in results[len(fresh) :]]

    def close(self) -> None:
        """At once: neither the server nor who awaits a run is waited for.

        The loop lets go first. Once the socket is closed, its number may be another's.
        """
        if self._socket >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)
            self._socket = -1
        self._libpq.finish()

    def _send(self, added: list[tuple[str, list[bytes]]], fresh: set[str]) -> None:
        libpq = self._libpq
        libpq.enter_pipeline_mode()
        for statement in fresh:
            self._prepare(statement)
        for statement, values in added:
            libpq.send_query_prepared(self._names[statement], values, result_format=Format.BINARY)
        libpq.pipeline_sync()
        if self._has_more_to_send():
            self._loop.add_writer(self._socket, self._write)

    def _prepare(self, statement: str) -> None:
        self._names_given += 1  # never a name twice
        self._names[statement] = name = b"journal%d" % self._names_given
        self._libpq.send_prepare(name, statement.encode())

    def _has_more_to_send(self) -> bool:
        """Send what the socket takes. It reads too, lest both sides wait for the other to read: what it finds may be
        the end of the connection, of which the loop hears nothing then."""
        is_left = self._libpq.flush() != 0
        if self._libpq.status == ConnStatus.BAD:
            raise psycopg.OperationalError(self._libpq.get_error_message())
        return is_left

    # What the loop calls

    def _write(self) -> None:
        try:
            if not self._has_more_to_send():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._break(error)

    def _read(self) -> None:
        """Also between two runs: then it is most likely the server's farewell."""
        try:
            self._libpq.consume_input()
            if self._answer is not None and not self._answer.done():
                self._take_results(self._answer)
        except psycopg.Error as error:
            self._break(error)

    def _take_results(self, answer: asyncio.Future[None]) -> None:
        """Those that are there. The pipeline's end is the answer."""
        libpq = self._libpq
        while not libpq.is_busy():
            result = libpq.get_result()
            if result is None:  # one statement has no more
                if libpq.status == ConnStatus.BAD:
                    raise psycopg.OperationalError(libpq.get_error_message())
            elif result.status == ExecStatus.PIPELINE_SYNC:
                libpq.exit_pipeline_mode()
                answer.set_result(None)
                self._on_answer()
                return
            else:
                self._results.append(result)

    def _be_late(self, answer: asyncio.Future[None], seconds: float) -> None:
        if not answer.done():
            self._break(psycopg.OperationalError(f"no answer from the server within {seconds} s"))

    def _break(self, error: psycopg.Error) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _rows(self, result: PGresult) -> Rows:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)
