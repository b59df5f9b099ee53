"""Values from outside the file: `${VAR}`, `${VAR:-default}`, `${file:/path}`; `$${` stands for a plain `${`.

Only in values, never in keys. Whatever comes in this way counts as secret: no message shows it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping

from gateway.config import document
from gateway.config.document import Node, Report, Scalar, Sequence
from gateway.config.problem import Path, did_you_mean, quote

SECRET_FILE_MAX_BYTES = 65_536

_REFERENCE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class _Unresolved(Exception):
    """A reference that has no value; the message says why."""


def interpolate(
    root: Node, environ: Mapping[str, str], report: Report, on_file: Callable[[str], None] = lambda _: None
) -> set[Path]:
    """Put the values of all references into the tree's scalars. `on_file` is told of each file before it is read.

    Returns the paths of the values that could not be resolved; each has been reported.
    """
    unresolved: set[Path] = set()
    waiting: list[tuple[Path, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, document.Mapping):
            waiting += [((*path, key), entry.node) for key, entry in node.entries.items()]
        elif isinstance(node, Sequence):
            waiting += [((*path, index), item) for index, item in enumerate(node.items)]
        elif not _resolve(node, path, environ, report, on_file):
            unresolved.add(path)
    return unresolved


def _resolve(
    scalar: Scalar, path: Path, environ: Mapping[str, str], report: Report, on_file: Callable[[str], None]
) -> bool:
    """Replace the scalar's text and value; False (and a report) when that can't be done."""
    if "${" in scalar.text:
        sources: list[str] = []
        try:
            text = _REFERENCE.sub(lambda match: _replacement(match, environ, sources, on_file), scalar.text)
        except _Unresolved as problem:
            report(scalar.line, scalar.column, path, str(problem))
            scalar.sources = ("${…}",)
            return False
        scalar.text = scalar.value = text
        scalar.sources = tuple(sources)
    if _CONTROL.search(scalar.text):
        report(scalar.line, scalar.column, path, "control characters are not allowed")
        return False
    return True


def _replacement(
    match: re.Match[str], environ: Mapping[str, str], sources: list[str], on_file: Callable[[str], None]
) -> str:
    if match["escaped"]:
        return "${"
    inside: str = match["inside"]
    if not match["end"]:
        raise _Unresolved('"${" needs its "}" (and no other brace inside); write "$${" for a plain "${"')
    if inside.startswith("file:"):
        sources.append("${" + inside + "}")
        file = inside.removeprefix("file:")
        on_file(file)
        return _read_secret(file)
    variable = _VARIABLE.fullmatch(inside)
    if variable is None:
        raise _Unresolved("expected ${VARIABLE}, ${VARIABLE:-default} or ${file:/path}")
    name: str = variable["name"]
    default: str | None = variable["default"]
    sources.append("${" + name + "}")
    found = environ.get(name)
    if found is None and default is None:
        near = did_you_mean(name, environ)
        hint = f"; did you mean {near}?" if near else ""
        raise _Unresolved(f"the environment variable {name} is not set and has no default (${{{name}:-default}}){hint}")
    if default is not None and not found:
        return default
    return found or ""


def _read_secret(path: str) -> str:
    """The file's text without its last line end. Raises _Unresolved; what is in the file is never part of that."""
    if not path.startswith("/"):
        raise _Unresolved(f"the secret file {quote(path)} needs its whole path, from /")
    try:
        # Not blocking: a FIFO put there by mistake must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise _Unresolved(f"the secret file {quote(path)} can't be read: {why or 'not a file name'}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Unresolved(f"the secret file {quote(path)} is not a regular file")
        if status.st_mode & stat.S_IROTH:
            raise _Unresolved(f"the secret file {quote(path)} can be read by everyone: chmod o-r it")
        content = os.read(descriptor, SECRET_FILE_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > SECRET_FILE_MAX_BYTES:
        raise _Unresolved(f"the secret file {quote(path)} is larger than {SECRET_FILE_MAX_BYTES} bytes")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _Unresolved(f"the secret file {quote(path)} is not UTF-8 text") from None
