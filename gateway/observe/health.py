"""Is the process alive, and may it be sent calls?

Answering costs nothing: whoever owns a dependency pushes its state when it changes, and the document is made then.
Reasons are read by anyone, so they say what fails and not where or why.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.observe.document import Answer, DocumentEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

_JSON = b"application/json"


async def _alive(_scope: Scope) -> Answer:
    return 200, _JSON, b'{"status":"ok"}'


healthz = DocumentEndpoint(_alive)
"""ASGI endpoint: 200 while the event loop runs, whatever else is broken. Restarting would not mend the rest."""


class Readiness:
    """The checks that must hold for calls to be taken. All of them start as failing, reason "starting"."""

    def __init__(self, checks: Iterable[str]) -> None:
        self._failing: dict[str, str | None] = dict.fromkeys(checks, "starting")
        self._noted: dict[str, str | None] = {}
        self._draining = False
        self._endpoint = DocumentEndpoint(self._answer)
        self._document()

    @property
    def ready(self) -> bool:
        """Whether every check holds and the process isn't on its way out."""
        return self._ready

    def set(self, check: str, ok: bool, reason: str = "") -> None:
        """Say how a check stands. `reason` is public: no hosts, no exception texts."""
        state = None if ok else reason or "failing"
        if self._failing.get(check, "") != state:
            self._failing[check] = state
            self._document()

    def note(self, name: str, ok: bool, reason: str = "") -> None:
        """Show a check that calls don't depend on: readiness stays what it is. `reason` is public."""
        state = None if ok else reason or "failing"
        if self._noted.get(name, "") != state:
            self._noted[name] = state
            self._document()

    def drain(self) -> None:
        """Not ready any more, and never again: call it before anything else stops."""
        self._draining = True
        self._document()

    async def readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI endpoint: 200 or 503, and `{"ready": bool, "checks": {name: {"ok": bool, "reason": …}}}`."""
        await self._endpoint(scope, receive, send)

    async def _answer(self, _scope: Scope) -> Answer:
        return (200 if self._ready else 503), _JSON, self._body

    def _document(self) -> None:
        failing: dict[str, str | None] = {"serving": "draining" if self._draining else None, **self._failing}
        self._ready = not any(failing.values())
        checks = {
            name: {"ok": True} if reason is None else {"ok": False, "reason": reason}
            for name, reason in {**failing, **self._noted}.items()
        }
        self._body = json.dumps({"ready": self._ready, "checks": checks}, separators=(",", ":")).encode()
