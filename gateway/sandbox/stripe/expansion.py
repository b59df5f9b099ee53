"""Expansion: `expand[]=payment_intent.latest_charge` puts objects in the place of their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.sandbox.stripe.answers import invalid
from gateway.sandbox.stripe.copying import copied
from gateway.sandbox.stripe.database import Database, Document, Table
from gateway.sandbox.stripe.listing import page_of

DEPTH_MAX = 4
_INCLUDED = {"checkout.session": "line_items", "charge": "refunds"}
"""Lists that an object has only if they are asked for."""


class Expansion:
    """Shows documents as a call's `expand` wants them. What is shown is a copy."""

    def __init__(self, database: Database, line_items: Callable[[Document], list[Document]]) -> None:
        self._line_items = line_items
        self._refunds = database.refunds
        intents, charges, customers = database.payment_intents, database.charges, database.customers
        booked, methods = database.balance_transactions, database.payment_methods
        self._tables: dict[str, dict[str, Table]] = {
            "checkout.session": {"payment_intent": intents, "customer": customers, "invoice": database.invoices},
            "payment_intent": {"latest_charge": charges, "customer": customers, "payment_method": methods},
            "charge": {"payment_intent": intents, "customer": customers, "balance_transaction": booked},
            "refund": {"charge": charges, "payment_intent": intents, "balance_transaction": booked},
            "dispute": {"charge": charges, "payment_intent": intents},
            "payment_method": {"customer": customers},
            "price": {"product": database.products},
        }

    def shown(self, document: Document, paths: list[str]) -> Document:
        """A copy of the document or list with those members expanded. Raises Refusal for what can't be."""
        shown = _bare(document)
        for path in paths:
            steps = path.split(".")
            if len(steps) > DEPTH_MAX + (document["object"] == "list"):
                raise invalid(f"You cannot expand more than {DEPTH_MAX} levels of a property ({path}).", "expand")
            self._expand(shown, steps, path)
        return shown

    def _expand(self, document: Document, steps: list[str], path: str) -> None:
        if not steps:
            return
        step, rest = steps[0], steps[1:]
        kind = document["object"]
        if kind == "list":
            if step != "data":
                raise _not_expandable(path)
            for member in document["data"]:
                self._expand(member, rest, path)
            return
        included = _INCLUDED.get(kind) == step
        if included:
            document.setdefault(step, self._list(document, step))
        table = self._tables.get(kind, {}).get(step)
        here: Any = document.get(step)
        inside = bool(rest) and isinstance(here, dict) and "object" in here
        if table is None and not included and not inside:
            raise _not_expandable(path)
        if table is not None and isinstance(here, str):
            here = document[step] = _bare(table.get(here))
        if here is not None:
            self._expand(here, rest, path)

    def _list(self, document: Document, step: str) -> Document:
        if step == "line_items":
            items = self._line_items(document)[::-1]
            return _bare(page_of(items, {}, f"/v1/checkout/sessions/{document['id']}/line_items"))
        refunds = [refund for refund in self._refunds if refund["charge"] == document["id"]]
        return _bare(page_of(refunds, {}, f"/v1/charges/{document['id']}/refunds"))


def _bare(document: Document) -> Document:
    """A copy without the lists that must be asked for."""
    shown: dict[str, Any] = copied(document)
    for one in shown["data"] if shown.get("object") == "list" else [shown]:
        one.pop(_INCLUDED.get(one.get("object", ""), ""), None)
    return shown


def _not_expandable(path: str) -> Exception:
    return invalid(f"This property cannot be expanded ({path}).", "expand")
