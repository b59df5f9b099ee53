"""The paths under /_sandbox: what a test of a running process sets and reads.

GET, POST, DELETE /_sandbox/faults     see, add (one, or a list) or remove all switches (faults.py)
GET, POST         /_sandbox/settings   see or change the lags and limits (settings.py)
POST              /_sandbox/seed       `{seed}`: begin the draws of faults with a probability anew
POST              /_sandbox/clock      `{advance_seconds}`: make everything older
POST              /_sandbox/root-keys  `{root_key, permissions?, enabled?, workspace?}`: add or replace one
POST              /_sandbox/replay     bring the stored credits up to date with the spends at once
POST              /_sandbox/refills    raise stored credits as the refills of the keys say
GET               /_sandbox/books      calls, each key's credits, every spend and every updateCredits request
GET, DELETE       /_sandbox/requests   see or forget the newest requests
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gateway.sandbox.fields import InvalidField, flag, list_of, number, object_of, text, whole
from gateway.sandbox.unkey.answers import Answer, to_json
from gateway.sandbox.unkey.books import Books
from gateway.sandbox.unkey.database import Database
from gateway.sandbox.unkey.faults import Faults, read_fault
from gateway.sandbox.unkey.permissions import RootKey

PREFIX = "/_sandbox/"
_ROOT_KEY = object_of(
    {"root_key": text(1), "permissions": list_of(text(1)), "enabled": flag(), "workspace": text(1)}, ("root_key",)
)
_KNOWN_ROOT_KEY = object_of({"root_key": text(1)}, ("root_key",))
_SEED = object_of({"seed": whole(0)}, ("seed",))
_ADVANCE = object_of({"advance_seconds": number(0, 10**9)}, ("advance_seconds",))


class Control:
    """Answers the control paths."""

    def __init__(self, database: Database, faults: Faults, books: Books) -> None:
        self._database = database
        self._faults = faults
        self._books = books
        self._actions: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("GET", "faults"): lambda _: self._faults.document(),
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "settings"): lambda _: self._database.settings.document(),
            ("POST", "settings"): self._change_settings,
            ("POST", "seed"): self._seed,
            ("POST", "clock"): self._advance,
            ("POST", "root-keys"): self._put_root_key,
            ("DELETE", "root-keys"): self._remove_root_key,
            ("POST", "replay"): lambda _: self._database.balances.replay(),
            ("POST", "refills"): lambda _: self._database.run_refills(),
            ("GET", "books"): lambda _: self._books.document(),
            ("GET", "requests"): lambda _: self._books.requests_document(),
            ("DELETE", "requests"): lambda _: self._books.forget_requests(),
        }

    def answer(self, method: str, path: str, raw_body: bytes) -> Answer:
        action = self._actions.get((method, path.removeprefix(PREFIX)))
        if action is None:
            return _refused(404, f"Nothing is at {method} {path}.")
        try:
            document = action(json.loads(raw_body or b"{}"))
        except InvalidField as error:
            return _refused(400, f"{error}.")
        except (ValueError, RecursionError) as error:
            return _refused(400, f"The body is not JSON: {error}")
        return Answer(200, to_json({} if document is None else document))

    def _add_faults(self, document: Any) -> list[dict[str, Any]]:
        faults = [read_fault(one) for one in (document if isinstance(document, list) else [document])]
        for fault in faults:
            self._faults.add(fault)
        return self._faults.document()

    def _clear_faults(self, _: Any) -> list[dict[str, Any]]:
        self._faults.clear()
        return self._faults.document()

    def _change_settings(self, document: Any) -> dict[str, Any]:
        self._database.settings.change(document)
        return self._database.settings.document()

    def _seed(self, document: Any) -> None:
        _SEED(document, "body")
        self._faults.seed(document["seed"])

    def _advance(self, document: Any) -> None:
        _ADVANCE(document, "body")
        self._database.clock.advance(document["advance_seconds"])

    def _put_root_key(self, document: Any) -> None:
        _ROOT_KEY(document, "body")
        fields = {name: value for name, value in document.items() if name != "root_key"}
        if "permissions" in fields:
            fields["permissions"] = tuple(fields["permissions"])
        self._database.root_keys[document["root_key"]] = RootKey(**fields)

    def _remove_root_key(self, document: Any) -> None:
        _KNOWN_ROOT_KEY(document, "body")
        self._database.root_keys.pop(document["root_key"], None)


def _refused(status: int, message: str) -> Answer:
    return Answer(status, to_json({"error": {"message": message}}))
