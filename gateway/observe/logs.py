"""Log records: one line each on a terminal, one JSON object each elsewhere, secrets never.

Every record of every logger leaves through the one handler made here, and its formatter redacts the finished
texts: message, fields, exception and stack alike. So no logger, level or library can go around it. Structured
values are given as `extra={"fields": {...}}`.

Log injection: what a caller sends may stand in a message. Line breaks and control characters are escaped, and the
lines of a traceback are indented, so that nobody can write a record of their own making.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, TextIO

from gateway.observe.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Iterable

LogFormat = Literal["auto", "line", "json"]

_LEVEL_WORDS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}

_QUIET = ("httpx", "httpcore", "hpack", "sqlalchemy", "alembic", "stripe", "asyncio", "urllib3")
"""Libraries that say too much below WARNING: URLs with queries, SQL with its values."""

_ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
"""Loggers that may bring handlers of their own."""

_INVISIBLE = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x2028, 0x2029),
    *(0x200E, 0x200F),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)
"""Controls, line and paragraph separators, marks that turn the direction of text, and lone surrogates."""

_ESCAPES = {
    **{code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _INVISIBLE},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def configure_logging(
    level: str,
    format: LogFormat,
    stream: TextIO,
    *,
    key_prefixes: Iterable[str] = ("gw_",),
    secrets: Iterable[str] = (),
) -> logging.Handler:
    """Send every logger's records of at least `level` to `stream`, and return the handler that does it.

    `key_prefixes` and `secrets` are what Redaction takes: pass every secret of the configuration.
    """
    handler = LogHandler(stream)
    redaction = Redaction(key_prefixes, secrets)
    handler.setFormatter(JsonFormatter(redaction) if is_json(format, stream) else LineFormatter(redaction))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in (*_ROUTED, *_QUIET):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    set_level(level)
    # The access log is our own (access_log.py): uvicorn's has query strings in it.
    logging.getLogger("uvicorn.access").propagate = False
    return handler


def set_level(level: str) -> None:
    """Write records of at least this level from now on: debug, info, warning or error."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def redact_anew(secrets: Iterable[str], *, key_prefixes: Iterable[str] = ("gw_",)) -> None:
    """Hide these secrets from now on, in place of those that `configure_logging` was given."""
    redaction = Redaction(key_prefixes, secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, RedactingFormatter):
            handler.formatter.redaction = redaction


def is_json(format: LogFormat, stream: TextIO) -> bool:
    """Whether records to this stream are JSON: `auto` means lines on a terminal only."""
    return format == "json" or (format == "auto" and not stream.isatty())


def escape(text: str) -> str:
    """The text on one line, with nothing in it that a terminal obeys."""
    return text.translate(_ESCAPES)


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes finished lines. The library's own way to report a failure would print the record unredacted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        kind = sys.exc_info()[0]
        try:
            self.stream.write(
                f"a log record from {record.pathname}:{record.lineno} was lost: {kind and kind.__name__}\n"
            )
        except (OSError, ValueError):
            pass  # the stream itself is gone: there is nowhere left to say so


class RedactingFormatter(logging.Formatter):
    """What both formats share: the texts of a record, redacted."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self.redaction = redaction

    def message(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 (any argument's __str__ may raise anything)
            text = f"{record.msg!s} [its arguments do not fit]"
        return self.redaction.text(text)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = getattr(record, "fields", None)
        return self.redaction.fields(fields) if fields else {}

    def trace(self, record: logging.LogRecord) -> str:
        """Exception and stack, or "". Not kept in `record.exc_text`, where others would find it unredacted."""
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(record.stack_info)
        return self.redaction.text("\n".join(parts))


class LineFormatter(RedactingFormatter):
    """`12:30:01.123 info  gateway.credits  message  key=value…`, local time; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        word = _LEVEL_WORDS.get(record.levelno, record.levelname.lower())
        line = f"{clock}.{record.msecs:03.0f} {word:<5} {record.name}  {escape(self.message(record))}"
        fields = self.fields(record)
        if fields:
            line += "  " + " ".join(f"{escape(name)}={_shown(value)}" for name, value in fields.items())
        for text in self.trace(record).splitlines():
            line += f"\n    {escape(text)}"
        return line


class JsonFormatter(RedactingFormatter):
    """One JSON object: time (UTC), level, logger, message, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        for name, value in self.fields(record).items():
            # A field can't pass itself off as one of the record's own members; JSON has no NaN and no infinity.
            finite = not isinstance(value, float) or math.isfinite(value)
            document[f"{name}_" if name in document else name] = value if finite else str(value)
        trace = self.trace(record)
        if trace:
            document["exception"] = trace
        return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")


def utc(seconds: float) -> str:
    """A Unix time as RFC 3339 with milliseconds."""
    milliseconds = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"


def _shown(value: object) -> str:
    text = escape(str(value))
    if text and not any(mark in text for mark in ' "='):
        return text
    return '"' + text.replace('"', '\\"') + '"'
