"""Statements that are sent to PostgreSQL together and answered together: one round trip, whatever their number.

On libpq's own functions, as psycopg hands them through, with each statement prepared once: a cursor for each of them
took more of the processor than all else that the journal does for a batch.

https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

from __future__ import annotations

import select
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from gateway.database.postgres import PostgresConnection

Rows = list[tuple[Any, ...]]

DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Pipeline:
    """One connection's. The connection's own methods may be used too, between two runs."""

    def __init__(self, connection: PostgresConnection) -> None:
        self.connection = connection
        self._libpq = connection.pgconn
        self._transformer = Transformer.from_context(connection)
        self._readable, self._either = select.poll(), select.poll()
        self._readable.register(self._libpq.socket, select.POLLIN)
        self._either.register(self._libpq.socket, select.POLLIN | select.POLLOUT)
        self._added: list[tuple[str, list[bytes]]] = []
        self._names: dict[str, bytes] = {}
        self._names_given = 0

    def add(self, statement: str, *values: str) -> int:
        """Where its rows will be in what `run` gives. `values` are the texts of $1, $2, …

        Raises psycopg.DataError or UnicodeEncodeError for characters that no text in PostgreSQL can have.
        """
        encoded = [value.encode() for value in values]
        if any(b"\0" in value for value in encoded):
            raise psycopg.DataError("PostgreSQL text can't contain NUL")  # for libpq the value would end there
        self._added.append((statement, encoded))
        return len(self._added) - 1

    def forget(self) -> None:
        """What was added, and is not to be sent after all."""
        self._added.clear()

    def run(self) -> list[Rows]:
        """Send what was added; the rows of each.

        Raises psycopg.Error for the first that fails. Those behind it are then not run.
        """
        added, self._added = self._added, []
        fresh = {statement for statement, _ in added}.difference(self._names)
        try:
            results = self._exchange(added, fresh)
        except BaseException:
            self._libpq.finish()  # or the next run would find this one's results
            raise
        for result in results:
            if result.status not in DONE:
                for statement in fresh:
                    del self._names[statement]  # nobody has looked whether they were prepared
                raise error_from_result(result)
        return [self._rows(result) for result in results[len(fresh) :]]

    def _exchange(self, added: list[tuple[str, list[bytes]]], fresh: set[str]) -> list[PGresult]:
        libpq = self._libpq
        libpq.enter_pipeline_mode()
        for statement in fresh:
            self._prepare(statement)
        for statement, values in added:
            libpq.send_query_prepared(self._names[statement], values, result_format=Format.BINARY)
        libpq.pipeline_sync()
        results = self._receive()
        libpq.exit_pipeline_mode()
        return results

    def _prepare(self, statement: str) -> None:
        self._names_given += 1  # never a name twice
        self._names[statement] = name = b"journal%d" % self._names_given
        self._libpq.send_prepare(name, statement.encode())

    def _receive(self) -> list[PGresult]:
        """The results up to the pipeline's end."""
        libpq = self._libpq
        results: list[PGresult] = []
        while libpq.flush():
            self._wait(self._either)
        while True:
            while libpq.is_busy():
                self._wait(self._readable)
            result = libpq.get_result()
            if result is None:  # one statement has no more
                if libpq.status == ConnStatus.BAD:
                    raise psycopg.OperationalError(libpq.get_error_message())
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)

    def _wait(self, poll: select.poll) -> None:
        """Until the server says something (or takes something), and read it."""
        seconds = self.connection.answer_seconds
        if not poll.poll(None if seconds is None else seconds * 1000):
            raise psycopg.OperationalError(f"no answer from the server within {seconds} s")
        self._libpq.consume_input()

    def _rows(self, result: PGresult) -> Rows:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)
