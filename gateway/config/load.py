"""From a file to a Config, or to the list of everything that is wrong with it.

Four passes, each over what the one before made of the file: read the YAML (document), put values from outside in
(interpolate), hold it against the tree (validate), and check across fields (check).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath

from gateway.config import document
from gateway.config.check import check
from gateway.config.document import Node, NotYaml, Scalar
from gateway.config.interpolate import interpolate
from gateway.config.problem import ConfigError, Finding, Path, Problem, dotted, quote
from gateway.config.tree import Config
from gateway.config.validate import Validation

FILE_MAX_BYTES = 1_048_576


def load_config(
    path: str | FilePath,
    environ: Mapping[str, str],
    *,
    shown: str | None = None,
    on_file: Callable[[str], None] = lambda _: None,
) -> Config:
    """The config in a file. Raises ConfigError with all problems, in the order of the file.

    `shown` is the file's name in the problems. `on_file` is told of each secret file just before it is read.
    """
    name = shown or str(path)
    content, wrong = _read(FilePath(path))
    if wrong:
        raise ConfigError([Problem(name, 0, 0, "", wrong)])
    return parse_config(content, environ, file=name, on_file=on_file)


def parse_config(
    content: bytes,
    environ: Mapping[str, str],
    *,
    file: str = "config.yaml",
    on_file: Callable[[str], None] = lambda _: None,
) -> Config:
    """The config in the content of a file. Raises ConfigError; `file` is the name that its problems carry."""
    loading = _Loading(file, on_file)
    config = loading.run(content, environ)
    if loading.problems or config is None:
        raise ConfigError(loading.problems)
    return config


def _read(path: FilePath) -> tuple[bytes, str]:
    """The file's content, or why it can't be had. Never reads more than a byte too much."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file name"
        return b"", f"can't be read: {reason.lower()}"
    if len(content) > FILE_MAX_BYTES:
        return b"", f"is larger than {FILE_MAX_BYTES} bytes"
    return content, ""


class _Loading:
    """One load: gathers problems from all passes."""

    def __init__(self, file: str, on_file: Callable[[str], None]) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._on_file = on_file
        self._reported: set[Path] = set()

    def run(self, content: bytes, environ: Mapping[str, str]) -> Config | None:
        root = self._parse(content)
        if root is None:
            return None
        unresolved = interpolate(root, environ, self._report, self._on_file)
        validation = Validation(root, self._reported | unresolved)
        config = validation.run()
        for finding in validation.findings:
            self._place(root, finding)
        if config is not None:
            for finding in check(config):
                if not _touches(finding, validation.broken):
                    self._place(root, finding)
        return config

    def _parse(self, content: bytes) -> Node | None:
        if b"\0" in content:
            line = content.count(b"\n", 0, content.index(b"\0")) + 1
            self._report(line, 1, (), "the file is not text: it has a NUL byte")
            return None
        try:
            return document.parse(content.decode("utf-8-sig"), self._report)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self._report(line, 1, (), "the file is not UTF-8 text")
        except NotYaml as error:
            self._report(error.line, error.column, (), error.message)
        return None

    def _report(self, line: int, column: int, path: Path, message: str) -> None:
        self._reported.add(path)
        self.problems.append(Problem(self._file, line, column, dotted(path), message))

    def _place(self, root: Node, finding: Finding) -> None:
        line, column = _position(root, finding.path, at_key=finding.at_key)
        path = dotted(finding.path)
        message = finding.message
        node = document.lookup(root, finding.path)
        if finding.shows and isinstance(node, Scalar) and not node.sources and "://" not in node.text:
            message += f": {quote(node.text)}"
        self.problems.append(Problem(self._file, line, column, path, message, finding.suggestion))


def _position(root: Node, path: Path, *, at_key: bool) -> tuple[int, int]:
    """Where to point: at a value that stands on its own, else at the key, else at what is nearest around it."""
    line, column = root.line, root.column
    node: Node | None = root
    for step in path:
        if isinstance(node, document.Mapping) and isinstance(step, str) and step in node.entries:
            entry = node.entries[step]
            node = entry.node
            shown: document.Entry | Node = node if isinstance(node, Scalar) and not node.empty and not at_key else entry
        else:
            node = document.lookup(node, (step,)) if node is not None else None
            if node is None:
                break
            shown = node
        line, column = shown.line, shown.column
    return line, column


def _touches(finding: Finding, broken: set[Path]) -> bool:
    """Whether the finding rests on a value that is not the file's own."""
    for path in finding.depends or (finding.path,):
        for other in broken:
            shorter = min(len(path), len(other))
            if path[:shorter] == other[:shorter]:
                return True
    return False
