"""The ASGI app for every path that is no route of the config: the gateway's own calls, and 404 for all else.

    path and method → who is calling → may they? → query → body → done once (Idempotency-Key) → the answer

Every error is one of gateway/errors.py and leaves as a problem document from one place (`ControlPlane.__call__`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, NoReturn

from pydantic import BaseModel
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from gateway.api.background import Background
from gateway.api.idempotency import Attempt, Idempotency, Reply, content_type_of
from gateway.api.identity import Identifier, Identity, Kind
from gateway.api.operation import BODY_MAX_BYTES, AnyOperation, Document, Request
from gateway.api.reading import BodyReader, read_document, read_model, read_query
from gateway.api.visit import SCOPE_KEY, Recorder, Visit, visit_of
from gateway.errors import Forbidden, GatewayError, InternalError, MethodNotAllowed, NoRoute
from gateway.idempotency_key import read_idempotency_key
from gateway.observe.ids import RequestIds

logger = logging.getLogger("gateway.api")

NOBODY = Identity(Kind.USER)
WHO = {Kind.KEY: "an API key", Kind.USER: "a token of the app", Kind.ADMIN: "the admin token"}


class ControlPlane:
    """The app. `operations` are all that it can do."""

    def __init__(
        self,
        operations: Sequence[AnyOperation],
        identifier: Identifier,
        idempotency: Idempotency,
        ids: RequestIds,
        recorder: Recorder,
        background: Background,
    ) -> None:
        self._ids = ids
        self._recorder = recorder
        checks = Checks(identifier, idempotency, background)
        by_path: dict[str, dict[str, AnyOperation]] = {}
        for operation in operations:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        routes = [Route(path, Resource(by_method, checks)) for path, by_method in by_path.items()]
        self._router = Router(routes, redirect_slashes=False, default=_no_route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(self._ids.next(), perf_counter())
        scope = {**scope, SCOPE_KEY: visit}
        try:
            try:
                await self._router(scope, receive, send)
            except GatewayError as error:
                if error.cause:
                    logger.warning("%s: %s: %s", visit.request_id, error.slug, error.cause)
                await self._refuse(visit, error, send)
            except OSError:
                pass  # The caller has left, in the middle of its body or before the answer.
            except Exception:  # a defect of ours is answered as one
                logger.exception("%s: a defect", visit.request_id)
                await self._refuse(visit, InternalError("The log has more under this request id."), send)
        except OSError:
            pass  # The caller has left before the refusal.
        finally:
            self._recorder.record(visit, scope)

    async def _refuse(self, visit: Visit, error: GatewayError, send: Send) -> None:
        self._recorder.refuse(visit, error.slug)
        await send_reply(visit, reply_of(error, visit.request_id), send)


class Resource:
    """The ASGI app of one path: does the operation of the method."""

    def __init__(self, operations: Mapping[str, AnyOperation], checks: Checks) -> None:
        self._operations = dict(operations)
        if "GET" in operations:
            self._operations["HEAD"] = operations["GET"]
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get(scope["method"])
        if operation is None:
            raise MethodNotAllowed(tuple(sorted(self._operations)))
        visit = visit_of(scope)
        visit.path = operation.path
        await send_reply(visit, await self._checks.serve(operation, scope, receive), send)


class Checks:
    """What each request goes through before it is done."""

    def __init__(self, identifier: Identifier, idempotency: Idempotency, background: Background) -> None:
        self._identifier = identifier
        self._idempotency = idempotency
        self._background = background
        self._bodies = BodyReader()

    async def serve(self, operation: AnyOperation, scope: Scope, receive: Receive) -> Reply:
        visit, headers = visit_of(scope), scope["headers"]
        identity = await self._identify(operation, scope)
        query = read_query(operation.query, scope["query_string"]) if operation.query is not None else None
        body, document = await self._read_body(operation, scope, receive)
        request = Request(identity, body, query, scope["path_params"], headers)
        if not operation.changes:
            return await _do(operation, request)
        key = read_idempotency_key(headers) if operation.takes_idempotency_key else None
        if key is None:
            return await self._background.finish(_do(operation, request))

        async def attempt_it(attempt: Attempt) -> Reply:
            try:
                return await _do(operation, request.with_attempt(attempt))
            except GatewayError as error:
                if not _is_final(error):
                    raise
                return reply_of(error, visit.request_id)

        asked = _fingerprint(scope, document)
        return await self._background.finish(self._idempotency.run(identity.name, key, asked, attempt_it))

    async def _identify(self, operation: AnyOperation, scope: Scope) -> Identity:
        """Who is calling. Raises Forbidden, and what the Identifier raises."""
        if operation.who is None:
            return NOBODY
        identity = await self._identifier.identify(scope["headers"])
        if identity.key is not None:
            visit_of(scope).key_id = identity.key.key_id
        if identity.kind not in operation.who:
            allowed = " or ".join(word for kind, word in WHO.items() if kind in operation.who)
            raise Forbidden(f"This needs {allowed}.")
        return identity

    async def _read_body(self, operation: AnyOperation, scope: Scope, receive: Receive) -> tuple[Any, Any]:
        """The body as the operation wants it, and the document that it was."""
        if operation.body is None:
            return None, None
        if isinstance(operation.body, int):
            return await self._bodies.read(scope["headers"], receive, operation.body), None
        body = await self._bodies.read(scope["headers"], receive, BODY_MAX_BYTES)
        document = read_document(scope["headers"], body)
        return read_model(operation.body, document), document


async def _do(operation: AnyOperation, request: Request[Any, Any]) -> Reply:
    result = await operation.handle(request)
    if isinstance(result, Document):
        return Reply(operation.status, result.content_type.encode("ascii"), result.body, result.headers)
    body = b"" if result is None else _write(result)
    return Reply(operation.status, content_type_of(operation.status), body)


def reply_of(error: GatewayError, request_id: str) -> Reply:
    """The error as a problem document."""
    return Reply(error.status, content_type_of(error.status), error.response(request_id)[2], error.headers)


def _is_final(error: GatewayError) -> bool:
    """Whether a repeat would be refused alike: not what may be over in a moment."""
    return error.status < 500 and all(name != b"retry-after" for name, _ in error.headers)


async def send_reply(visit: Visit, reply: Reply, send: Send) -> None:
    headers = [
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", visit.request_id.encode("ascii")),
        *reply.headers,
    ]
    if reply.status != 204:
        headers += [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
    visit.status, visit.bytes_sent = reply.status, len(reply.body)


def _write(model: BaseModel) -> bytes:
    return model.model_dump_json().encode("utf-8")


def _fingerprint(scope: Scope, document: Any) -> bytes:
    """What is asked, spelled one way: the order of members and white space say nothing."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":"))
    head = b"%b %b?%b\n" % (scope["method"].encode("ascii"), scope["raw_path"], scope["query_string"])
    return head + body.encode("ascii")


async def _no_route(_scope: Scope, _receive: Receive, _send: Send) -> NoReturn:
    raise NoRoute
