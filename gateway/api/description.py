"""What the control plane says of itself: /openapi.json for programs, /docs for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.api.openapi import describe
from gateway.api.operation import AnyOperation, Document, Operation, Request
from gateway.api.page import PageWriter

HTML = "text/html; charset=utf-8"
JSON = "application/json"


class Description:
    """The handlers. Both documents are made once."""

    def __init__(self, operations: Sequence[AnyOperation]) -> None:
        self.document = describe([*operations, *self.operations()])
        self._openapi = Document(JSON, json.dumps(self.document, separators=(",", ":")).encode())
        writer = PageWriter()
        body = writer.write(self.document).encode("utf-8")
        self._page = Document(HTML, body, writer.headers)

    async def openapi(self, _request: Request[None, None]) -> Document:
        return self._openapi

    async def page(self, _request: Request[None, None]) -> Document:
        return self._page

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "getOpenapi", "GET", "/openapi.json", "This description, for programs", "OpenAPI 3.1.",
                self.openapi, None, JSON,
            ),
            Operation(
                "getDocs", "GET", "/docs", "This description, for people", "A page that loads nothing from elsewhere.",
                self.page, None, HTML,
            ),
        ]  # fmt: skip


def openapi_text(document: dict[str, object]) -> str:
    """The document as it stands in docs/openapi.json."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
