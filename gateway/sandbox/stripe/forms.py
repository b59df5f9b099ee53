"""Form-encoded parameters, nested by brackets: `line_items[0][price_data][currency]=usd`, `expand[]=line_items`.

A list is read as Stripe reads it, from empty brackets or from numbered ones. Every value is text until a shape
(parameters.py) reads it as something else.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

PAIRS_MAX = 5000
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")

Parameters = dict[str, Any]


class BadForm(ValueError):
    """Text that is no form, or whose names contradict each other; `parameter` is the one at fault."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


def read_form(encoded: bytes) -> Parameters:
    """The parameters as nested dictionaries, lists and text. Raises BadForm."""
    parameters: Parameters = {}
    pairs = [pair for pair in encoded.split(b"&") if pair]
    if len(pairs) > PAIRS_MAX:
        raise BadForm(f"There are more than {PAIRS_MAX} parameters.")
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        _put(parameters, _decoded(name), _decoded(value))
    return parameters


def flatten(parameters: Parameters) -> list[tuple[str, str]]:
    """The same as name and value, lists numbered: what two spellings of one request have in common."""
    found: list[tuple[str, str]] = []
    for name, value in parameters.items():
        _flatten(name, value, found)
    return found


def _decoded(encoded: bytes) -> str:
    try:
        return unquote_to_bytes(encoded.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadForm("The request is not valid UTF-8.") from None


def _put(parameters: Parameters, name: str, value: str) -> None:
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadForm(f"Invalid parameter name: {name}", name)
    here: Any = parameters
    step = match[1]
    for key in _BRACKET.findall(match[2]):
        here = _inside(here, step, list if key == "" else dict, name)
        step = key
    if isinstance(here, list):
        here.append(value)
    elif isinstance(here.get(step), (dict, list)):
        raise BadForm(f"Invalid parameter: {name} is given both as a value and as a hash", name)
    else:
        here[step] = value


def _inside(here: Any, step: str, kind: type, name: str) -> Any:
    """The container at that step, made if it is not there yet."""
    if isinstance(here, list):
        # a[][b]: each repetition of a pair of brackets adds a member
        here.append(kind())
        return here[-1]
    found = here.setdefault(step, kind())
    if not isinstance(found, kind):
        raise BadForm(f"Invalid parameter: {name} contradicts another one", name)
    return found


def _flatten(name: str, value: Any, found: list[tuple[str, str]]) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            _flatten(f"{name}[{key}]", member, found)
    elif isinstance(value, list):
        for number, member in enumerate(value):
            _flatten(f"{name}[{number}]", member, found)
    else:
        found.append((name, value))
