"""Keys as Unkey tells of them: the answers to its administrative calls, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.strict_json import read_count, read_flag, read_id, read_object
from gateway.credits.unkey.verdict import read_user_id

SECRET_MAX_CHARACTERS = 512
TEXT_MAX_CHARACTERS = 1024
CURSOR_MAX_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class RemoteKey:
    """A key's public side at Unkey. Times are Unix milliseconds; `credits` None: unlimited.

    `credits` lag behind what verifications say (facts: a replica of Unkey's database, not its counter).
    """

    key_id: str
    start: str
    enabled: bool
    created_at: int
    name: str | None
    expires_at: int | None
    user_id: str
    credits: int | None
    permissions: tuple[str, ...] = field(default=())


def read_key(members: Any) -> RemoteKey:
    """One item of KeyResponseData. Raises Nonsense."""
    if type(members) is not dict:
        raise Nonsense("a key is not an object")
    created_at = read_count(members, "createdAt")
    if created_at is None:
        raise Nonsense("createdAt is missing")
    return RemoteKey(
        key_id=read_id(members, "keyId"),
        start=_read_words(members, "start") or "",
        enabled=read_flag(members, "enabled"),
        created_at=created_at,
        name=_read_words(members, "name"),
        expires_at=read_count(members, "expires"),
        user_id=read_user_id(members),
        credits=read_count(read_object(members, "credits"), "remaining"),
        permissions=_read_permissions(members.get("permissions")),
    )


def read_page(document: dict[str, Any]) -> tuple[list[RemoteKey], str | None]:
    """A page of apis.listKeys, and the cursor of the next one. Raises Nonsense."""
    items = document.get("data")
    if type(items) is not list:
        raise Nonsense("data is not a list")
    pagination = read_object(document, "pagination")
    cursor = read_id(pagination, "cursor", CURSOR_MAX_CHARACTERS) if read_flag(pagination, "hasMore") else None
    return [read_key(item) for item in items], cursor


def read_secret(members: dict[str, Any]) -> tuple[str, str]:
    """A new key's id and secret. Raises Nonsense."""
    return read_id(members, "keyId"), read_id(members, "key", SECRET_MAX_CHARACTERS)


def _read_words(members: dict[str, Any], name: str) -> str | None:
    """A text that people wrote."""
    value = members.get(name)
    if value is not None and (type(value) is not str or len(value) > TEXT_MAX_CHARACTERS):
        raise Nonsense(f"{name} is not a text")
    return value


def _read_permissions(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is not list or not all(type(permission) is str for permission in value):
        raise Nonsense("permissions is not a list of texts")
    return tuple(value)
