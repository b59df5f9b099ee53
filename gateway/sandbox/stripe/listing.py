"""Lists: newest first, a page at a time, after or before an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.sandbox.stripe.answers import no_such
from gateway.sandbox.stripe.database import Document
from gateway.sandbox.stripe.parameters import Shape, either, integer, list_of, object_of, text

LIMIT = 10
LIMIT_MAX = 100
CREATED = either(object_of(dict.fromkeys(("gt", "gte", "lt", "lte"), integer(0))), integer(0))
PAGING: dict[str, Shape] = {
    "limit": integer(1, LIMIT_MAX),
    "starting_after": text(),
    "ending_before": text(),
    "expand": list_of(text()),
}


def page_of(documents: Iterable[Document], asked: dict[str, Any], url: str) -> Document:
    """The page asked for, of documents that come oldest first and fit already. Raises Refusal for an unknown cursor."""
    newest_first = list(documents)[::-1]
    limit = asked.get("limit", LIMIT)
    if "ending_before" in asked:
        before = newest_first[: _place(newest_first, asked, "ending_before")]
        return _page(before[-limit:], len(before) > limit, url)
    if "starting_after" in asked:
        newest_first = newest_first[_place(newest_first, asked, "starting_after") + 1 :]
    return _page(newest_first[:limit], len(newest_first) > limit, url)


def within(asked: dict[str, Any]) -> Callable[[Document], bool]:
    """Whether a document was created when `created` wants it."""
    wanted = asked.get("created", {})
    if isinstance(wanted, int):
        return lambda document: document["created"] == wanted
    bounds: dict[str, int] = wanted
    return lambda document: (
        bounds.get("gt", -1) < document["created"] < bounds.get("lt", 1 << 62)
        and bounds.get("gte", 0) <= document["created"] <= bounds.get("lte", 1 << 62)
    )


def _place(documents: list[Document], asked: dict[str, Any], param: str) -> int:
    for number, document in enumerate(documents):
        if document["id"] == asked[param]:
            return number
    raise no_such("object", asked[param], param)


def _page(data: list[Document], has_more: bool, url: str) -> Document:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}
