"""A process beside the test, for what must not share the test's processor time, open files or lock.

It is a module of tests/e2e that is given its words as JSON, says a line of JSON when it is ready, and answers each line
that it is asked with another one. It ends when nobody can ask any more, and may say a last one then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self


class Beside:
    def __init__(self, module: str, **words: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.e2e.{module}", json.dumps(words)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It is gone, whatever it does."""
        with self._process:
            self._process.kill()

    def read(self) -> dict[str, Any]:
        """What it says next. There is nothing if it has failed: its own words are on standard error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended with {self._process.wait()}"
        return dict(json.loads(line))

    def ask(self, word: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> dict[str, Any]:
        """Nobody asks any more; its last words."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.read()


def words() -> dict[str, Any]:
    """In that process: what it was given."""
    return dict(json.loads(sys.argv[1]))


def say(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)
