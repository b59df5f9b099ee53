"""The file of an export. JSON Lines, ASCII:

    {"format": "credit-gateway export", "version": 1, "schema": …, "tables": [{"name", "columns", "rows"}, …], …}
    ["keys", 1, "key_…", …]        every row of every table, in the header's order, each table by primary key
    {"totals": {…}}                what the destination must come to
    {"sha256": "…"}                of every byte before this line

Bytes are base64. The same books give the same rows, byte for byte, whichever database they are in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gateway.database.moving.failure import MovingFailed
from gateway.database.moving.totals import Totals

FORMAT = "credit-gateway export"
VERSION = 1
CHUNK_BYTES = 1 << 20
LAST_LINE_BYTES_MAX = 200
LINE_BYTES_MAX = 64 << 20
"""Longer than any row that fits into the gateway's tables."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table's rows."""

    name: str
    columns: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Header:
    """`schema` is the revision of the tables, `numbers` the highest number given so far by those that count by
    themselves, `made_at` Unix milliseconds."""

    schema: str
    gateway: str
    made_at: int
    numbers: Mapping[str, int]
    tables: tuple[Part, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.tables)


class ArchiveWriter:
    """Writes to `file`, and keeps the checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write_header(self, header: Header) -> None:
        self._write(_line({"format": FORMAT, "version": VERSION} | asdict(header)))

    def write_rows(self, name: str, rows: Sequence[Sequence[Any]], binary: Sequence[int]) -> None:
        """`binary` says at which places there are bytes."""
        self._write(b"".join([_line([name, *(_without_bytes(row, binary) if binary else row)]) for row in rows]))

    def close(self, totals: Totals) -> None:
        """The lines that say that it is whole."""
        self._write(_line({"totals": totals.document()}))
        self._file.write(_line({"sha256": self._hash.hexdigest()}))
        self._file.flush()

    def _write(self, lines: bytes) -> None:
        self._hash.update(lines)
        self._file.write(lines)


class Archive:
    """A file that has been looked through: it is whole, and nothing in it was changed. Close it."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        """Reads all of it once; `on_bytes` is told of progress. Raises MovingFailed, OSError."""
        self.path = path
        self._file = path.open("rb")
        try:
            self.header = self._read_header()
            self._first_row = self._file.tell()
            self.sha256, end = self._read_checksum()
            if self._hash(end, on_bytes) != self.sha256:
                raise MovingFailed(f"{path} was changed, or damaged on its way: its checksum is another. Export anew")
            self.totals = self._read_totals(end)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def read_rows(self, after: int) -> Iterator[tuple[Part, bytes]]:
        """The lines of rows, with the table each is of, from behind the first `after` rows."""
        self._file.seek(self._first_row)
        for part in self.header.tables:
            for _ in range(part.rows):
                line = self._file.readline(LINE_BYTES_MAX)
                if after:
                    after -= 1
                else:
                    yield part, line

    def _read_header(self) -> Header:
        line = _document(self._file.readline(LINE_BYTES_MAX))
        if line.get("format") != FORMAT:
            raise MovingFailed(f"{self.path} is no export of a gateway")
        if line.get("version") != VERSION:
            raise MovingFailed(
                f"{self.path} has the format {line.get('version')}, this gateway reads {VERSION}: use the version that"
                f" made it ({line.get('gateway')}), or a newer one"
            )
        try:
            parts = tuple(Part(part["name"], tuple(part["columns"]), int(part["rows"])) for part in line["tables"])
            numbers = {str(name): int(number) for name, number in line["numbers"].items()}
            return Header(str(line["schema"]), str(line["gateway"]), int(line["made_at"]), numbers, parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MovingFailed(f"{self.path}: its first line is not as an export's is") from error

    def _read_checksum(self) -> tuple[str, int]:
        """The last line's, and where that line begins."""
        size = self._file.seek(0, 2)
        start = max(0, size - LAST_LINE_BYTES_MAX)
        self._file.seek(start)
        tail = self._file.read()
        at = tail.rstrip(b"\n").rfind(b"\n") + 1
        checksum = _document(tail[at:]).get("sha256") if at and tail.endswith(b"\n") else None
        if not isinstance(checksum, str):
            raise MovingFailed(f"{self.path} is not whole: its last line is missing. Export anew, or copy it again")
        return checksum, start + at

    def _hash(self, end: int, on_bytes: Callable[[int], None]) -> str:
        found, left = hashlib.sha256(), end
        self._file.seek(0)
        while left and (chunk := self._file.read(min(left, CHUNK_BYTES))):
            found.update(chunk)
            left -= len(chunk)
            on_bytes(len(chunk))
        return found.hexdigest()

    def _read_totals(self, end: int) -> Totals:
        start = max(0, end - CHUNK_BYTES)
        self._file.seek(start)
        tail = self._file.read(end - start)
        found = _document(tail[tail.rstrip(b"\n").rfind(b"\n") + 1 :]).get("totals")
        try:
            totals = Totals(**found)  # type: ignore[arg-type]
        except TypeError as error:
            raise MovingFailed(f"{self.path}: it does not say what it comes to. Export anew") from error
        return totals


def read_row(part: Part, line: bytes, binary: Sequence[int]) -> list[Any]:
    """The row's values. Raises ValueError."""
    row: list[Any]
    name, *row = json.loads(line)
    if name != part.name or len(row) != len(part.columns):
        raise ValueError(f"not a row of {part.name}")
    for place in binary:
        if row[place] is not None:
            try:
                row[place] = base64.b64decode(row[place], validate=True)
            except (TypeError, binascii.Error) as error:
                raise ValueError(f"{part.columns[place]} is not base64") from error
    return row


def _without_bytes(row: Sequence[Any], binary: Sequence[int]) -> list[Any]:
    plain = list(row)
    for place in binary:
        if plain[place] is not None:
            plain[place] = base64.b64encode(plain[place]).decode("ascii")
    return plain


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _line(document: object) -> bytes:
    return _encode(document).encode("ascii") + b"\n"


def _document(line: bytes) -> dict[str, Any]:
    """A line's object; an empty one where it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
