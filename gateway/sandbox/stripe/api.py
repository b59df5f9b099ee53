"""From a request to its answer, in Stripe's order: key, path, parameters, idempotency key, then the call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gateway.sandbox.stripe.answers import INVALID, Answer, Refusal, invalid, to_json
from gateway.sandbox.stripe.calls import Call, Calls
from gateway.sandbox.stripe.database import Document, new_id
from gateway.sandbox.stripe.events import API_VERSION, Cause, Events
from gateway.sandbox.stripe.forms import BadForm, Parameters, flatten, read_form
from gateway.sandbox.stripe.idempotency import Replays
from gateway.sandbox.stripe.keys import Keys

FORM = "application/x-www-form-urlencoded"
V1 = "/v1/"


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request, as far as it matters to the answer."""

    method: str
    path: str
    query: bytes = b""
    body: bytes = b""
    authorization: str = ""
    content_type: str = FORM
    idempotency_key: str | None = None
    api_version: str = API_VERSION
    too_large: bool = False
    request_id: str = dataclasses.field(default_factory=lambda: new_id("req_", 14))


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """A call that is about to be carried out; its idempotency key is claimed until `Api.carry_out` or `Api.drop`."""

    asked: Asked
    call: Call
    identifier: str
    parameters: dict[str, Any]


class Api:
    """All calls, with keys and idempotency keys in front."""

    def __init__(
        self,
        calls: Calls,
        events: Events,
        keys: Keys,
        shown: Callable[[Document, list[str]], Document],
        now: Callable[[], int],
    ) -> None:
        self._calls = calls
        self._events = events
        self._keys = keys
        self._shown = shown
        self._now = now
        self._replays = Replays()

    def call_name(self, asked: Asked) -> str:
        """What faults and books call it: "checkout.sessions.create", "unknown" for what is no call."""
        found = self._calls.match(asked.method, asked.path)
        return found[0].name if found else "unknown"

    def admit(self, asked: Asked) -> Admitted | Answer:
        """A call to carry out; or the answer, where it is refused or was answered before."""
        try:
            return self._admit(asked)
        except Refusal as refusal:
            return self._with_headers(refusal.answer(), asked)

    def carry_out(self, admitted: Admitted) -> Answer:
        """Run the call, and keep its answer for its idempotency key."""
        asked = admitted.asked
        self._events.cause = Cause(asked.request_id, asked.idempotency_key)
        try:
            document = admitted.call.run(admitted.identifier, admitted.parameters)
            answer = Answer(200, to_json(self._shown(document, admitted.parameters.get("expand", []))))
        except Refusal as refusal:
            answer = refusal.answer()
            if refusal.from_validation:
                self.drop(admitted)
                return self._with_headers(answer, asked)
        finally:
            self._events.cause = Cause()
        answer = self._with_headers(answer, asked)
        self.keep(admitted, answer)
        return answer

    def keep(self, admitted: Admitted, answer: Answer) -> None:
        """Let this be the answer for the call's idempotency key."""
        if _replayable(admitted.asked):
            assert admitted.asked.idempotency_key is not None
            self._replays.keep(admitted.asked.idempotency_key, answer)

    def drop(self, admitted: Admitted) -> None:
        """The call is not carried out: its idempotency key is free again."""
        if _replayable(admitted.asked):
            assert admitted.asked.idempotency_key is not None
            self._replays.forget(admitted.asked.idempotency_key)

    def _admit(self, asked: Asked) -> Admitted | Answer:
        found = self._calls.match(asked.method, asked.path)
        self._keys.check(asked.authorization, found[0].resource if found else "", asked.method)
        if found is None:
            raise Refusal(
                404,
                f"Unrecognized request URL ({asked.method}: {asked.path}). "
                "Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
                kind=INVALID,
            )
        call, identifier = found
        parameters = _read_parameters(asked)
        read = call.shape(parameters, "")
        if _replayable(asked):
            assert asked.idempotency_key is not None
            given = flatten(parameters)
            replay = self._replays.claim(asked.idempotency_key, asked.path, given, self._now(), asked.request_id)
            if replay is not None:
                return dataclasses.replace(replay, headers={**replay.headers, "Request-Id": asked.request_id})
        return Admitted(asked, call, identifier, read)

    def _with_headers(self, answer: Answer, asked: Asked) -> Answer:
        headers = {"Request-Id": asked.request_id, "Stripe-Version": asked.api_version, **answer.headers}
        if asked.idempotency_key is not None:
            headers["Idempotency-Key"] = asked.idempotency_key
        return dataclasses.replace(answer, headers=headers)


def _replayable(asked: Asked) -> bool:
    return asked.method == "POST" and asked.idempotency_key is not None


def _read_parameters(asked: Asked) -> Parameters:
    """Of the query, or of the body where there is one. Raises Refusal."""
    if asked.too_large:
        raise Refusal(413, "The request body is too large.", from_validation=True)
    encoded = asked.query
    if asked.method == "POST":
        if asked.body and asked.content_type.partition(";")[0].strip().lower() != FORM:
            raise invalid(f"Invalid request content type: {asked.content_type}. Must be {FORM}.")
        encoded = b"&".join(part for part in (asked.query, asked.body) if part)
    try:
        return read_form(encoded)
    except BadForm as error:
        raise invalid(str(error), error.parameter) from error
