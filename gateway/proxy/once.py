"""A call with an Idempotency-Key, on a route that honours it: done once, charged once, answered alike.

    read the body whole → hold and claim (one commit) ─┬─ nobody has it ──▶ the life of any call (endpoint.py)
                                                       ├─ done, the same ──▶ the answer again, at no cost
                                                       ├─ done, its answer not kept; or it runs ──▶ 409
                                                       └─ used for another request ──▶ 422

Whose key it is, is looked at in any case and first: who may not call gets no answer of former calls either.

Why it is charged once, whoever is killed when. The record is written in the transaction of the hold, and becomes done
in the transaction that settles it (or marks it as answered): there is no moment in which one is there without the
other. Killed …

    before the hold is committed      no hold, no record. The repeat is the first.
    from there to the settlement      the hold is open, so repeats are told 409, until recovery releases it
                                      (`credits.dead_after_seconds`). Then the record is nobody's: the repeat is done
                                      and charged, the first was free. The upstream may have seen both.
    behind the settlement             the repeat gets the answer, which is in the same commit as the credits; where it
                                      came in pieces, and nothing had its end yet, it is told that the call was done.

A call that fails is released, and its record is nobody's in that moment. A process that was only asleep and wakes up
behind its recovery finds no hold to settle (HoldLost): so it has neither the credits nor the record.

A caller who leaves while the upstream works does not stop it: what he has sent is to be done once, and it is the answer
for which he will come back. Such a call runs in a task of its own (`Apart`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from asyncio import CancelledError, Task
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from gateway.credits.claims import Claim
from gateway.errors import BodyTooLarge, Conflict, CreditsUnavailable, GatewayError
from gateway.idempotency_key import REPLAYED, still_running, used_before
from gateway.proxy.body import read_whole_body
from gateway.proxy.headers import RequestHead, clean_response
from gateway.proxy.route import Route
from gateway.sealing import Seal, derive_with
from gateway.upstreams.transport import Headers, UpstreamResponse

logger = logging.getLogger("gateway.proxy")

LEAVE_SECONDS = 5.0
"""How long closing waits for calls whose callers have left."""
UNATTENDED_MAX = 1_000
"""Calls in a process whose callers have left. A caller beyond it who leaves ends his call, as on any other route."""
KEEP_SECONDS = 2.0
"""How long the end of an answer waits for the rest of it to be written down."""
_NOT_REPEATED = (b"set-cookie",)
"""A cookie belongs to the moment in which it was set: a later one may have replaced it."""


class StoredAnswer:
    """An answer that was given before. Implements UpstreamResponse."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content_length: int | None = len(body)
        self.body: bytes | None = body
        self.trailers: Headers = []

    async def read(self) -> bytes:
        return b""

    async def write(self, chunk: bytes) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing to let go of."""


class Once:
    """What is done once. `claim` says so to the credits, from `begin` on.

    `must_finish`: it goes on without its caller. `is_done`: its claim was settled, so its answer may be kept.
    """

    __slots__ = (
        "_answer_max_bytes",
        "_key",
        "_pieces",
        "_seal",
        "_size",
        "claim",
        "is_done",
        "must_finish",
        "outcome",
        "route",
    )

    claim: Claim
    _answer_max_bytes: int
    _seal: Seal

    def __init__(self, idempotency_key: bytes, route: Route) -> None:
        self.route = route
        self._key = idempotency_key
        self._pieces: list[bytes] = []
        self._size = 0
        self.must_finish = False
        self.is_done = False
        self.outcome = ""
        """What a repeat was told, in a word of the metrics."""

    async def begin(self, head: RequestHead, scope: Scope, receive: Receive) -> bytes:
        """Read the body, all of it: it is part of what is asked. Raises BodyTooLarge, CallerGone."""
        section = self.route.idempotency
        assert section is not None
        limit = min(self.route.body_max_bytes, section.body_max_bytes)
        if head.content_length is not None and head.content_length > limit:
            raise BodyTooLarge(limit)
        body = await read_whole_body(receive, limit) if head.has_body else b""
        head.expects_continue = False
        self._answer_max_bytes = section.answer_max_bytes
        self._seal = derive_with(head.api_key, self._key)
        content_type = b"\0".join(value for name, value in head.headers if name == b"content-type")
        method = scope["method"].encode("ascii")
        asked = self._seal.sign(method, scope["raw_path"], scope["query_string"], content_type, body)
        self.claim = Claim(self._seal.lookup, asked, section.keep_seconds * 1000)
        return body

    async def repeat(self, find_answer: Callable[[Claim], Awaitable[bytes | None]]) -> StoredAnswer | None:
        """The answer that was given before; None if this call is the first. Raises Invalid, Conflict."""
        precedent = self.claim.precedent
        if precedent is None:
            self.must_finish = True
            return None
        if precedent.fingerprint != self.claim.fingerprint:
            self.outcome = "other"
            raise used_before()
        if not precedent.is_done:
            self.outcome = "running"
            raise still_running()
        sealed = await find_answer(self.claim) if precedent.has_answer else None
        if sealed is None:
            self.outcome = "not_kept"
            raise Conflict(
                "The call with this Idempotency-Key was done and charged. Its answer was not kept: it was streamed or"
                " large, or broke off. Use a new Idempotency-Key for a new call.",
                done=True,
            )
        answer = self._open(sealed)
        self.outcome = "replayed"
        return answer

    def look_at(self, response: UpstreamResponse, headers: Headers) -> None:
        """Before the answer is settled: keep it if it is all there, and see whether it can be kept at all."""
        body = response.body
        length = len(body) if body is not None else response.content_length or 0
        self.must_finish = not _is_stream(response) and length <= self._answer_max_bytes
        if body is not None and self.must_finish:
            self.claim.answer = self._close(response.status, headers, body)

    def patient(self, send: Send) -> Send:
        """`send` for an answer that is read to its end though nobody may listen any more."""

        async def send_while_there(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                if not self.must_finish:
                    raise

        return send_while_there

    def take(self, piece: bytes) -> None:
        """The next piece of the answer. One that gets too long is not kept, and ends when nobody listens."""
        self._size += len(piece)
        if self._size > self._answer_max_bytes:
            self.must_finish = False
        if self.must_finish:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def keep_pieces(self, status: int, headers: Headers) -> bool:
        """Keep the answer that came in pieces. False if it can't be."""
        if not (self.must_finish and self.is_done):
            return False
        self.claim.answer = self._close(status, headers, b"".join(self._pieces))
        return True

    def _close(self, status: int, headers: Headers, body: bytes) -> bytes:
        kept = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        head = json.dumps([status, kept], separators=(",", ":")).encode("ascii")
        return self._seal.close(len(head).to_bytes(4) + head + body, self.claim.fingerprint)

    def _open(self, sealed: bytes) -> StoredAnswer:
        opened = self._seal.open(sealed, self.claim.fingerprint)
        if opened is None:
            raise CreditsUnavailable(cause="a stored answer can't be opened: the row was changed")
        end = 4 + int.from_bytes(opened[:4])
        status, kept = json.loads(opened[4:end])
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept]
        return StoredAnswer(status, [*headers, REPLAYED], opened[end:])


class Apart:
    """Runs calls in tasks of their own, which outlive their callers where they must."""

    def __init__(self) -> None:
        self._tasks: set[Task[None]] = set()
        self._unattended = 0

    async def run(self, once: Once, call: Coroutine[Any, Any, None]) -> None:
        """Wait for the call. Cancelled, it goes on if it must; a drain at its limit cuts it."""
        task = asyncio.create_task(call, name="call with an Idempotency-Key")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except CancelledError as error:
            if error.args or not once.must_finish or self._unattended >= UNATTENDED_MAX:
                task.cancel(*error.args)
                await asyncio.wait([task])
            elif not task.done():
                self._unattended += 1
                task.add_done_callback(self._came_to_end)
            raise

    def _came_to_end(self, task: Task[None]) -> None:
        self._unattended -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a call whose caller had left: a defect", exc_info=error)

    async def aclose(self) -> None:
        """Wait a while for those that still run, then cut them: what is not settled then is given back."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
        for task in late:
            task.cancel("closing")
        if late:
            await asyncio.wait(late, timeout=1)


async def keep_answer(keeping: Callable[[], Awaitable[None]], request_id: str) -> None:
    """Write the answer down. Where that can't be done the caller gets it all the same, though it can't be repeated."""
    try:
        async with asyncio.timeout(KEEP_SECONDS):
            await keeping()
    except (GatewayError, TimeoutError) as error:
        cause = error.cause if isinstance(error, GatewayError) else "the database took too long"
        logger.warning("%s: the answer could not be kept for a repeat: %s", request_id, cause)


def _is_stream(response: UpstreamResponse) -> bool:
    """A stream of events is no answer to give again: it is for who listens now. Nor is another protocol."""
    kinds = [value.lower() for name, value in response.headers if name == b"content-type"]
    return response.status == 101 or any(kind.startswith(b"text/event-stream") for kind in kinds)


def kept_headers(response: UpstreamResponse, settle_header: bytes) -> Headers:
    """Of an answer's fields, those that a repeat gets."""
    cleaned = clean_response(response.headers, settle_header, [])
    return [field for field in cleaned if field[0] not in _NOT_REPEATED]
