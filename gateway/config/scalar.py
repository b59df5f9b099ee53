"""What an unquoted YAML word means: the JSON-like core of YAML 1.2 and nothing else.

YAML 1.1 reads `no` as false, `22:30` as 1350 and `010` as 8. Here those stay strings, so that a field that wants a
boolean or a number refuses them instead of taking another value than the one that was meant.
"""

from __future__ import annotations

import math
import re

Value = str | int | float | bool | None

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?(?:[eE][-+]?[0-9]{1,3})?")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


def typed(text: str) -> Value:
    """The value of an unquoted scalar. Infinity, NaN, octal, hexadecimal and sexagesimal are strings."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text
