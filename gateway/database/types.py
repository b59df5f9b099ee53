"""The types of columns, in every database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer, Text, text

Id = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits. SQLite's INTEGER has them, and only INTEGER PRIMARY KEY is the row's own address."""

Word = Text().with_variant(Text(collation="C"), "postgresql")
"""Text, compared byte by byte, as SQLite does: what is sorted or begins with something is found by an index."""


def where(condition: str) -> dict[str, Any]:
    """Of a partial index: the rows that it is about."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}
