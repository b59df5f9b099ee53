"""Errors as the command line tells them: on standard error, one line for each, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from gateway.config.problem import ConfigError
from gateway.errors import GatewayError, Invalid

FAILED = 1
MISUSED = 2
"""The config or the command line is wrong."""
INTERRUPTED = 130


class CommandFailed(Exception):
    """The command can't do what was asked; the message says why and what to do."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def exit_code_of(command: Callable[[], object]) -> int:
    """Run the command and give its exit code; what it raises becomes lines on standard error."""
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except ConfigError as error:
        tell_problems(error)
        return MISUSED
    except TyperException as error:
        return _tell_misuse(error)
    except CommandFailed as error:
        _tell(str(error))
        return error.code
    except GatewayError as error:
        _tell(_explained(error))
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        _tell(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except Exception as error:
        if os.environ.get("GATEWAY_TRACEBACK"):
            raise
        # Its text may quote anything. Whoever asks for it gets it.
        _tell(f"a defect of the gateway: {type(error).__name__} (GATEWAY_TRACEBACK=1 shows where)")
    return FAILED


def tell_problems(error: ConfigError) -> None:
    """All problems, a line each, and how many they are."""
    for problem in error.problems:
        print(problem, file=sys.stderr)
    count = len(error.problems)
    file = error.problems[0].file if error.problems else "config"
    print(f"{file}: {count} problem{'' if count == 1 else 's'}", file=sys.stderr)


def _tell(message: str) -> None:
    line = " ".join(message.split())
    print(f"gateway: {line}", file=sys.stderr)


def _tell_misuse(error: TyperException) -> int:
    message = error.format_message()
    if "\n" in message:  # no command was named: the help is the answer
        print(message, file=sys.stderr)
    else:
        _tell(f"{message.rstrip('.')}. `--help` tells more.")
    return MISUSED


def _explained(error: GatewayError) -> str:
    """Who runs this command may read the log too, so the cause is shown instead of what a caller is told: its first
    line, without the SQL."""
    parts = [error.title]
    if isinstance(error, Invalid):
        parts += [f"{field}: {what}" for field, what in error.members["errors"].items()]
    elif error.cause:
        parts.append(error.cause.splitlines()[0])
    elif error.detail:
        parts.append(error.detail.rstrip("."))
    return ": ".join(parts)
