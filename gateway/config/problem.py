"""What is wrong with a config file, and where: the words every other module of this package reports in.

A message never quotes a secret: not a value of a secret field, not one that came from the environment or a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and indexes from the top of the document: ("routes", 2, "upstream")."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_QUOTED_MAX = 60


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. `line` and `column` count from 1; line 0 means the file as a whole."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """As compilers write it, so that editors and terminals can jump there."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        where = f"{place}: {self.path}" if self.path else place
        hint = f"; did you mean {quote(self.suggestion)}?" if self.suggestion else ""
        return f"{where}: {self.message}{hint}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a path. `depends` are the values it was concluded from, when not from that path alone.

    `at_key` points at the key instead of its value.
    `shows` appends the value, where it stands in the file itself and is no URL: others may be secret.
    """

    path: Path
    message: str
    suggestion: str | None = None
    depends: tuple[Path, ...] = ()
    shows: bool = False
    at_key: bool = False


class ConfigError(Exception):
    """The config can't be used. `problems` are all that were found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Path) -> str:
    """The path as people write it: routes[2].upstream."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if _PLAIN_KEY.fullmatch(step) else quote(step)
            text += f".{key}" if text else key
    return text


def quote(text: str) -> str:
    """The text in double quotes, on one line, printable and short, whatever it was."""
    shown = text if len(text) <= _QUOTED_MAX else text[: _QUOTED_MAX - 1] + "…"
    safe = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in shown)
    return f'"{safe}"'


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to this one, if one is near; upper and lower case count as the same."""
    by_folded = {name.casefold(): name for name in known}
    nearest = difflib.get_close_matches(word[:_QUOTED_MAX].casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[nearest[0]] if nearest else None
