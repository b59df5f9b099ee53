"""The paths under /_sandbox: what a test of a running process sets and reads.

GET, POST, DELETE /_sandbox/faults     see, add (one, or a list) or remove the switches of calls (faults.py)
GET, POST, DELETE /_sandbox/webhooks   the same for those of webhooks
POST              /_sandbox/release    `{order?}`: send what was held: "shuffled", "reversed" or "created"
POST              /_sandbox/resend     `{event, times?}`: send an event again, so many times at once
POST              /_sandbox/twin       `{event}`: the same change as another event
POST              /_sandbox/endpoints  `{url, secrets}`: an endpoint with signing secrets of one's own
GET, POST         /_sandbox/settings   see or change how long things take (settings.py)
POST              /_sandbox/seed       `{seed}`: begin the draws of faults anew
POST              /_sandbox/clock      `{advance_seconds}`: make everything older, and do what is due by then
POST              /_sandbox/keys       `{key, permissions}`: limit a restricted key
POST              /_sandbox/acts/NAME  what buyers and banks do, with the members of that method (acts.py)
GET               /_sandbox/books      calls, sales with their money, events, deliveries
GET               /_sandbox/requests   the newest requests
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gateway.sandbox.fields import Field, InvalidField, list_of, number, object_of, one_of, text, whole
from gateway.sandbox.stripe.acts import Acts
from gateway.sandbox.stripe.answers import Answer, Refusal, to_json
from gateway.sandbox.stripe.books import Books
from gateway.sandbox.stripe.endpoints import Endpoints
from gateway.sandbox.stripe.events import Events
from gateway.sandbox.stripe.faults import Faults, WebhookFaults
from gateway.sandbox.stripe.keys import Keys
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.timetable import Timetable
from gateway.sandbox.stripe.webhooks import Webhooks

PREFIX = "/_sandbox/"
ACTS = (
    "pay",
    "pay_later",
    "finish",
    "decline",
    "expire",
    "refund",
    "finish_refund",
    "dispute",
    "escalate",
    "close_dispute",
    "promotion_code",
)


class Control:
    """Answers the control paths."""

    def __init__(
        self,
        acts: Acts,
        books: Books,
        endpoints: Endpoints,
        events: Events,
        faults: Faults,
        keys: Keys,
        settings: Settings,
        timetable: Timetable,
        webhook_faults: WebhookFaults,
        webhooks: Webhooks,
    ) -> None:
        self._settings = settings
        self._seeded = (faults, webhook_faults)
        self._actions: dict[tuple[str, str], Callable[[Any], Any]] = {
            **_switches("faults", faults),
            **_switches("webhooks", webhook_faults),
            ("POST", "release"): _checked(_RELEASE, lambda asked: {"released": webhooks.release(**asked)}),
            ("POST", "resend"): _checked(_RESEND, lambda asked: webhooks.resend(asked["event"], asked.get("times", 1))),
            ("POST", "twin"): _checked(_TWIN, lambda asked: events.twin(asked["event"])),
            ("POST", "endpoints"): _checked(
                _ENDPOINT, lambda asked: endpoints.add(asked["url"], tuple(asked["secrets"]))
            ),
            ("GET", "settings"): lambda _: settings.document(),
            ("POST", "settings"): self._change_settings,
            ("POST", "seed"): _checked(_SEED, self._seed),
            ("POST", "clock"): _checked(_ADVANCE, lambda asked: timetable.advance(asked["advance_seconds"])),
            ("POST", "keys"): _checked(_KEY, lambda asked: keys.limit(asked["key"], *asked["permissions"])),
            **{("POST", f"acts/{name}"): _act(getattr(acts, name)) for name in ACTS},
            ("GET", "books"): lambda _: books.document(),
            ("GET", "requests"): lambda _: books.requests_document(),
        }

    def answer(self, method: str, path: str, raw_body: bytes) -> Answer:
        action = self._actions.get((method, path.removeprefix(PREFIX)))
        if action is None:
            return _refused(404, f"Nothing is at {method} {path}.")
        try:
            document = action(json.loads(raw_body or b"{}"))
        except Refusal as refusal:
            return refusal.answer()
        except InvalidField as error:
            return _refused(400, f"{error}.")
        except (ValueError, RecursionError) as error:
            return _refused(400, f"The body is not JSON: {error}")
        return Answer(200, to_json({} if document is None else document))

    def _change_settings(self, document: Any) -> dict[str, Any]:
        self._settings.change(document)
        return self._settings.document()

    def _seed(self, asked: dict[str, Any]) -> None:
        for faults in self._seeded:
            faults.seed(asked["seed"])


def _switches(name: str, faults: Faults) -> dict[tuple[str, str], Callable[[Any], Any]]:
    def add(asked: Any) -> Any:
        for one in asked if isinstance(asked, list) else [asked]:
            if not isinstance(one, dict):
                raise InvalidField("fault", "must be an object")
            faults.set(**one)
        return faults.document()

    def clear(_: Any) -> Any:
        faults.clear()
        return faults.document()

    return {("GET", name): lambda _: faults.document(), ("POST", name): add, ("DELETE", name): clear}


def _checked(field: Field, action: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(asked: Any) -> Any:
        field(asked, "body")
        return action(asked)

    return run


def _act(method: Callable[..., Any]) -> Callable[[Any], Any]:
    def run(asked: Any) -> Any:
        if not isinstance(asked, dict):
            raise InvalidField("body", "must be an object")
        try:
            return method(**asked)
        except TypeError as error:
            raise InvalidField("body", f"does not fit: {error}") from error

    return run


_RELEASE = object_of({"order": one_of("shuffled", "reversed", "created")})
_RESEND = object_of({"event": text(1), "times": whole(1, 1000)}, ("event",))
_TWIN = object_of({"event": text(1)}, ("event",))
_ENDPOINT = object_of({"url": text(1), "secrets": list_of(text(1))}, ("url", "secrets"))
_SEED = object_of({"seed": whole(0)}, ("seed",))
_ADVANCE = object_of({"advance_seconds": number(0, 10**9)}, ("advance_seconds",))
_KEY = object_of({"key": text(1), "permissions": list_of(text(1))}, ("key", "permissions"))


def _refused(status: int, message: str) -> Answer:
    return Answer(status, to_json({"error": {"message": message}}))
