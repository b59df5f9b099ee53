"""From a request to its answer: what is checked before a call runs, and the envelope around what it gives.

In Unkey's order: the body's shape (and that there is an Authorization header at all), the root key, the workspace's
limit, then the call.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any, NoReturn

from gateway.sandbox.fields import InvalidField
from gateway.sandbox.unkey.answers import Answer, Refusal, invalid_shape, to_json
from gateway.sandbox.unkey.bodies import BODIES
from gateway.sandbox.unkey.database import Database
from gateway.sandbox.unkey.keeping import Keeper
from gateway.sandbox.unkey.permissions import WORKSPACE, RootKey
from gateway.sandbox.unkey.ratelimits import Limit
from gateway.sandbox.unkey.verify import Verifier

VERIFY = "keys.verifyKey"
LIST = "apis.listKeys"
LIVENESS = "liveness"
MINUTE_MS = 60_000


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_READ_JSON = json.JSONDecoder(parse_constant=_no_constant).decode


@dataclasses.dataclass(slots=True)
class Asked:
    """One request of a call, as far as it matters to the answer, and what became of it."""

    call: str
    request_id: str
    authorization: str = ""
    accept: str = ""
    content_type: str = "application/json"
    raw_body: bytes = b"{}"
    too_large: bool = False
    body: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Known once it was found to be an object of the right shape."""


class Api:
    """All calls, over one database. `headers` go with every answer while a workspace limit is set."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._verifier = Verifier(database)
        keeper = Keeper(database)
        self._list = keeper.list
        self._keeping: dict[str, Callable[[dict[str, Any], RootKey], dict[str, Any]]] = {
            "keys.createKey": keeper.create,
            "keys.updateCredits": keeper.update_credits,
            "keys.getKey": keeper.get,
            "keys.whoami": keeper.whoami,
            "keys.updateKey": keeper.update,
            "keys.deleteKey": keeper.delete,
            "keys.rerollKey": keeper.reroll,
        }
        self._numbers = itertools.count(1)

    def new_request_id(self) -> str:
        return f"req_{next(self._numbers):016x}"

    def answer(self, asked: Asked, *, stale: bool = False) -> Answer:
        """Run the call. `stale` lets verifyKey answer from a cached row whatever its age."""
        headers: dict[str, str] = {}
        try:
            envelope = self._run(asked, headers, stale=stale)
        except Refusal as refusal:
            refused = refusal.answer(asked.request_id, asked.accept)
            return dataclasses.replace(refused, headers={**headers, **refused.headers}) if headers else refused
        return Answer(200, to_json(envelope), headers=headers)

    def _run(self, asked: Asked, headers: dict[str, str], *, stale: bool) -> dict[str, Any]:
        envelope: dict[str, Any] = {"meta": {"requestId": asked.request_id}}
        if asked.call == LIVENESS:
            envelope["data"] = {"message": "OK"}
            return envelope
        asked.body = body = _read_body(asked)
        root_key = self._root_key(asked.authorization)
        self._limit_workspace(headers)
        if asked.call == VERIFY:
            envelope["data"] = self._verifier.verify(body, root_key, asked.request_id, stale=stale)
        elif asked.call == LIST:
            envelope["data"], envelope["pagination"] = self._list(body, root_key)
        else:
            envelope["data"] = self._keeping[asked.call](body, root_key)
        return envelope

    def _root_key(self, authorization: str) -> RootKey:
        scheme, _, secret = authorization.strip().partition(" ")
        if scheme != "Bearer" or not secret.strip():
            detail = "Your authorization header is missing the 'Bearer ' prefix."
            raise Refusal(400, "unkey/authentication/malformed", detail)
        root_key = self._database.root_keys.get(secret.strip())
        if root_key is None:
            raise Refusal(401, "unkey/authentication/key_not_found", "The provided root key is invalid.")
        if not root_key.enabled:
            detail = "The provided root key is invalid."
            raise Refusal(403, "unkey/authorization/key_disabled", detail, title="Key is disabled")
        return root_key

    def _limit_workspace(self, headers: dict[str, str]) -> None:
        """Count the call, and tell so in the headers. Raises Refusal 429."""
        most = self._database.settings.workspace_limit_per_minute
        if most is None:
            return
        limit = Limit(WORKSPACE, "workspace", most, MINUTE_MS, 1)
        (outcome,) = self._database.limiter.take([limit])
        reset_seconds = max(0, outcome.reset_ms - self._database.clock.now_ms()) // 1000
        headers["RateLimit-Limit"] = str(most)
        headers["RateLimit-Remaining"] = str(outcome.remaining)
        headers["RateLimit-Reset"] = str(reset_seconds)
        if outcome.exceeded:
            headers["Retry-After"] = str(reset_seconds)
            raise workspace_limited(most)


def workspace_limited(most: int) -> Refusal:
    detail = f"This workspace has exceeded its API rate limit of {most}/1m0s. Please try again later."
    return Refusal(429, "user/too_many_requests/workspace_rate_limited", detail)


def _read_body(asked: Asked) -> dict[str, Any]:
    """The body as an object of the right shape. Raises Refusal 400 or 413."""
    if asked.too_large:
        raise Refusal(413, "user/bad_request/request_body_too_large", "The request body is too large.")
    if not asked.authorization:
        # Unkey's description names the header, so that its absence is a fault of shape, and no 401.
        raise invalid_shape("header.Authorization", "is required")
    if asked.content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid_shape("header.Content-Type", "must be application/json")
    try:
        body = _READ_JSON(asked.raw_body.decode())
    except (ValueError, RecursionError) as error:
        raise invalid_shape("body", f"is not JSON: {error}") from error
    try:
        BODIES[asked.call](body, "body")
    except InvalidField as error:
        raise invalid_shape(error.location, error.message) from error
    assert isinstance(body, dict)
    return body
