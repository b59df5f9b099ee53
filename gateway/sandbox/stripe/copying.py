"""Copies of JSON documents. copy.deepcopy looks for what contains itself, which none of them does, and takes most of
the time of an answer to do so."""

from __future__ import annotations

from typing import Any


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}
    if isinstance(value, list):
        return [copied(each) for each in value]
    return value
