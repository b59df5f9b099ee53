"""Why the database did not take a transaction, whichever database it is.

away      it does not answer, or takes nothing from anybody: try again
busy      somebody else's transaction is in the way: try again, it will not last
stale     somebody else's transaction has changed what this one was decided by: try again, and look before
refused   this transaction is at fault: it will never be taken
"""

from __future__ import annotations

import sqlite3
from enum import Enum


class Kind(Enum):
    """What may be done about it."""

    away = "away"
    busy = "busy"
    stale = "stale"
    refused = "refused"


class DatabaseFailure(Exception):
    """A failure that is translated already, by the module that speaks to the driver."""

    def __init__(self, kind: Kind, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind


def kind_of(error: BaseException) -> Kind:
    """Of whatever a transaction raised. What no database says is our own defect: refused."""
    if isinstance(error, DatabaseFailure):
        return error.kind
    if isinstance(error, sqlite3.Error):
        # SQLITE_BUSY, or one of its extended codes: another process has the database.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return Kind.busy
        return Kind.away if isinstance(error, sqlite3.OperationalError) else Kind.refused
    return Kind.refused
