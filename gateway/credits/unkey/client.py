"""Unkey's v2 API, as far as the gateway needs it. Nothing is ever sent twice here: none of these calls may be repeated
blindly, and who may repeat them knows why.

Two wires with a root key each: one for verifying, on the path of every metered call, and one for everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar

from gateway import __version__
from gateway.credits.provider import Policy
from gateway.credits.unkey.errors import UnkeyRefused, UnkeyUnavailable, read_failure, read_refusal
from gateway.credits.unkey.known_verdicts import KnownVerdicts
from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.remote_keys import RemoteKey, read_key, read_page, read_secret
from gateway.credits.unkey.strict_json import parse_object, read_count, read_object, read_text
from gateway.credits.unkey.user_ids import encode_user_id
from gateway.credits.unkey.verdict import Verdict
from gateway.credits.unkey.verify_body import VerifyBody
from gateway.wire import Answer, Headers, Wire, WireError

__all__ = ["RemoteKey", "UnkeyClient", "Verdict"]

VERIFY = b"/v2/keys.verifyKey"
LIVENESS = b"/v2/liveness"
KEY_ID = re.compile(r"[A-Za-z0-9_]{3,255}")
KEY_PREFIX = "gw"
KEY_BYTES = 32
USER_AGENT = (b"user-agent", f"credit-gateway/{__version__}".encode("ascii"))

T = TypeVar("T")
Left = Callable[[Coroutine[Any, Any, Verdict]], None]


class UnkeyClient:
    """Raises UnkeyUnavailable where there is no answer to rely on, UnkeyRefused where Unkey won't write.

    Owns its wires. Raises ValueError at once for root keys that no header can carry.
    """

    def __init__(
        self,
        verify_wire: Wire,
        admin_wire: Wire,
        *,
        api_id: str,
        root_key: str,
        admin_root_key: str,
        verify_timeout_seconds: float = 2,
        write_timeout_seconds: float = 10,
    ) -> None:
        self._verify_wire = verify_wire
        self._admin_wire = admin_wire
        self._api_id = api_id
        self._verify_headers = _headers("root_key", root_key)
        self._admin_headers = _headers("admin_root_key", admin_root_key)
        self._verify_seconds = verify_timeout_seconds
        self._write_seconds = write_timeout_seconds
        self._verify_body = VerifyBody()
        self._verdicts = KnownVerdicts()

    # Verifying

    async def verify(
        self,
        api_key: bytes,
        cost: int,
        policy: Policy,
        route: str,
        request_id: str,  # noqa: ARG002 - Unkey has no place for it but tags, and its dashboard lists every one
        left: Left | None = None,
        *,
        waited_seconds: float = 0,
    ) -> Verdict:
        """Check the key and take `cost` from it, all or nothing. Any verdict is an answer, not an error.

        What the caller has `waited_seconds` for already is taken off the time that Unkey has.

        Raises InvalidKey for what can't be a key. If the caller is cancelled when Unkey may have heard of it, `left` is
        called once with what is left to do, which gives the Verdict or raises as this does; see Wire.post.
        """
        body = self._verify_body.write(api_key, cost, policy, route)
        try:
            answer = await self._verify_wire.post(
                VERIFY,
                self._verify_headers,
                body,
                self._verify_seconds - waited_seconds,
                None if left is None else lambda rest: left(self._read_late(rest)),
            )
        except WireError as error:
            raise _unavailable(error) from error
        return self._read_verdict(answer)

    async def is_live(self) -> bool:
        """Whether Unkey's servers say that they run, on the way that verifies take. Costs no verification, and says
        nothing of the root key: True too for an answer that it is not for us."""
        try:
            answer = await self._verify_wire.get(LIVENESS, [USER_AGENT], self._verify_seconds)
        except WireError:
            return False
        return answer.status < 500

    # Keys and credits

    async def create_key(
        self,
        user_id: str,
        *,
        credits: int | None,
        name: str | None,
        expires_at: int | None,
        permissions: Sequence[str] = (),
    ) -> tuple[str, str]:
        """A new key: Unkey's id of it and its secret, which is told this once. `credits` None: unlimited."""
        asked: dict[str, Any] = {
            "apiId": self._api_id,
            "prefix": KEY_PREFIX,
            "byteLength": KEY_BYTES,
            "externalId": encode_user_id(user_id),
        }
        if credits is not None:
            asked["credits"] = {"remaining": credits}
        if name:
            asked["name"] = name
        if expires_at is not None:
            asked["expires"] = expires_at
        if permissions:
            asked["permissions"] = list(permissions)
        return await self._ask("keys.createKey", asked, lambda document: read_secret(_data(document)))

    async def update_credits(
        self, key_id: str, operation: Literal["increment", "decrement"], value: int
    ) -> tuple[int | None, str]:
        """Add credits or take them: what the key then has stored, and Unkey's id of the request.

        There is no `set`: it loses or revives what is spent at the same time (Unkey #5529).
        """
        asked = {"keyId": key_id, "operation": operation, "value": value}
        return await self._ask("keys.updateCredits", asked, _read_remaining)

    async def get_key(self, key_id: str) -> RemoteKey | None:
        """The key; None where Unkey has none of this id."""
        return await self._find("keys.getKey", {"keyId": key_id}, lambda document: read_key(_data(document)))

    async def list_keys(
        self, *, user_id: str | None, cursor: str | None, limit: int
    ) -> tuple[list[RemoteKey], str | None]:
        """Up to `limit` (1 to 100) keys of the API, or of one user, and the cursor of the next page."""
        asked: dict[str, Any] = {"apiId": self._api_id, "limit": limit}
        if user_id is not None:
            asked["externalId"] = encode_user_id(user_id)
        if cursor is not None:
            asked["cursor"] = cursor
        return await self._ask("apis.listKeys", asked, read_page)

    async def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        expires_at: int | None = None,
        permissions: Sequence[str] | None = None,
    ) -> bool:
        """Change what is named here; False where Unkey has no such key. `permissions` replace those it has."""
        changes = {
            "enabled": enabled,
            "name": name,
            "expires": expires_at,
            "permissions": None if permissions is None else list(permissions),
        }
        asked = {"keyId": key_id} | {name: value for name, value in changes.items() if value is not None}
        return await self._find("keys.updateKey", asked, _read_done) is not None

    async def delete_key(self, key_id: str) -> bool:
        """Delete it as Unkey does: it is kept for its history. False where Unkey has no such key."""
        return await self._find("keys.deleteKey", {"keyId": key_id}, _read_done) is not None

    async def reroll_key(self, key_id: str) -> tuple[str, str] | None:
        """A new key like the old, which expires now: its id and secret; None where Unkey has no such key.

        The credits are then on both (facts: rerollKey); the old one is only expired.
        """
        asked = {"keyId": key_id, "expiration": 0}
        return await self._find("keys.rerollKey", asked, lambda document: read_secret(_data(document)))

    @property
    def patience_seconds(self) -> float:
        """A verify is worth its while if it begins within this time: half of what a caller waits."""
        return self._verify_seconds / 2

    def count_connections(self) -> tuple[int, int, int]:
        """Connections open, how many of them are idle, and how many calls wait for one: to verify, that is."""
        return self._verify_wire.count_connections()

    async def aclose(self) -> None:
        await self._verify_wire.aclose()
        await self._admin_wire.aclose()

    def _read_verdict(self, answer: Answer) -> Verdict:
        if answer.status != 200:
            raise read_failure(answer)
        try:
            return self._verdicts.read(answer.body)
        except Nonsense as error:
            raise _nonsense("keys.verifyKey", error) from None

    async def _read_late(self, rest: Coroutine[Any, Any, Answer]) -> Verdict:
        """What is left to do of a verify whose caller has left."""
        try:
            return self._read_verdict(await rest)
        except WireError as error:
            raise _unavailable(error) from error

    async def _find(self, call: str, asked: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T | None:
        """As `_ask`, but None where the key is not there, or its id can't be one of Unkey's."""
        if not KEY_ID.fullmatch(asked["keyId"]):
            return None
        try:
            return await self._ask(call, asked, read)
        except UnkeyRefused as error:
            if error.is_not_found:
                return None
            raise

    async def _ask(self, call: str, asked: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """One administrative call, once. `read` takes what is wanted from the answer."""
        body = json.dumps(asked, separators=(",", ":")).encode("ascii")
        target = b"/v2/" + call.encode("ascii")
        try:
            answer = await self._admin_wire.post(target, self._admin_headers, body, self._write_seconds)
        except WireError as error:
            raise _unavailable(error) from error
        if answer.status != 200:
            raise read_refusal(answer)
        try:
            return read(parse_object(answer.body))
        except Nonsense as error:
            raise _nonsense(call, error) from None


def _read_remaining(document: dict[str, Any]) -> tuple[int | None, str]:
    data = _data(document)
    if "remaining" not in data:
        raise Nonsense("remaining is missing")
    return read_count(data, "remaining"), read_text(read_object(document, "meta"), "requestId")


def _read_done(document: dict[str, Any]) -> bool:
    _data(document)
    return True


def _data(document: dict[str, Any]) -> dict[str, Any]:
    data = document.get("data")
    if type(data) is not dict:
        raise Nonsense("data is not an object")
    return data


def _unavailable(error: WireError) -> UnkeyUnavailable:
    return UnkeyUnavailable(cause=f"Unkey: {error.cause}", possibly_executed=error.possibly_executed)


def _nonsense(call: str, error: Nonsense) -> UnkeyUnavailable:
    return UnkeyUnavailable(cause=f"Unkey's answer to {call} is nonsense: {error}")


def _headers(name: str, root_key: str) -> Headers:
    if not root_key.isascii() or not root_key.isprintable() or " " in root_key or not root_key:
        raise ValueError(f"{name} can't be sent: it must be visible ASCII characters")
    return [
        (b"authorization", b"Bearer " + root_key.encode("ascii")),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        USER_AGENT,
    ]
