"""Where the config comes from: a file, the secret files that it names, the environment; and whether they have changed.

A file has changed when its device, inode, size or time is another one. `stat` follows links, so a file replaced whole
(a rename) and Kubernetes' swap of a link to a directory are seen alike. What is still being written is left alone: a
change counts once it looks the same twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.config.load import load_config
from gateway.config.tree import Config

Look = tuple[int, ...] | None
"""What a file looks like from outside; None where there is none."""


class ConfigSource:
    """`adjust` puts in what the command line says instead of the file; it may raise ConfigError."""

    def __init__(self, path: Path, environ: Mapping[str, str], adjust: Callable[[Config], Config]) -> None:
        # A relative path means the same file for as long as the process runs.
        self.path = path
        self._absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would pin what a link points to now
        self._environ = environ
        self._adjust = adjust
        self._read: dict[str, Look] = {}
        """The files of the last load, and how each looked before it was read."""
        self._changing: dict[str, Look] | None = None

    def load(self) -> Config:
        """Read the file and its secret files. Raises ConfigError."""
        looks = {str(self._absolute): _look(self._absolute)}
        try:
            config = load_config(
                self._absolute, self._environ, shown=str(self.path), on_file=lambda file: _note(looks, file)
            )
            return self._adjust(config)
        except BaseException:
            # What a broken file does not name any more, or not yet, may be what is mended next.
            looks = {file: _look(file) for file in self._read} | looks
            raise
        finally:
            self._read, self._changing = looks, None

    def has_changed(self) -> bool:
        """Whether a file of the last load is another one now, and at rest. Ask about once a second."""
        looks = {file: _look(file) for file in self._read}
        if looks == self._read:
            self._changing = None
            return False
        at_rest = looks == self._changing
        self._changing = looks
        return at_rest


def _note(looks: dict[str, Look], file: str) -> None:
    looks[file] = _look(file)


def _look(file: str | Path) -> Look:
    try:
        status = os.stat(file)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
