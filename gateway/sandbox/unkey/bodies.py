"""The request bodies that Unkey's OpenAPI file describes, by call."""

from __future__ import annotations

from gateway.sandbox.fields import Field, any_object, flag, list_of, object_of, one_of, text, whole

EXPIRES_MAX_MS = 4_102_444_800_000
COST_MAX = 1_000_000_000_000

_ID = text(3, 255, r"[a-zA-Z0-9_]+")
_EXTERNAL_ID_PATTERN = r"[a-zA-Z0-9_.-]+"
_GRANT_PATTERN = r"[a-zA-Z0-9_:\-.*]+"
_NAME = text(1, 255)
_SECRET = text(1, 512)
_EXPIRES = whole(0, EXPIRES_MAX_MS)
_REFILL_FIELDS = {"interval": one_of("daily", "monthly"), "amount": whole(1), "refillDay": whole(1, 31)}
_REFILL_REQUIRED = ("interval", "amount")
_ROLES = list_of(text(1, 100, _GRANT_PATTERN), 100)
# Unkey leaves these open: unknown members of a rate limit are not refused.
_RATELIMITS = list_of(
    object_of(
        {"name": text(3, 128), "limit": whole(1), "duration": whole(1000), "autoApply": flag()},
        ("name", "limit", "duration", "autoApply"),
        open_=True,
    ),
    50,
)
_ASKED_RATELIMITS = list_of(
    object_of({"name": text(3, 255), "cost": whole(0), "limit": whole(0), "duration": whole(0)}, ("name",), open_=True)
)

BODIES: dict[str, Field] = {
    "keys.verifyKey": object_of(
        {
            "key": _SECRET,
            "tags": list_of(_SECRET, 20),
            "permissions": text(1, 1000),
            "credits": object_of({"cost": whole(0, COST_MAX)}, ("cost",)),
            "ratelimits": _ASKED_RATELIMITS,
            "migrationId": text(0, 256),
        },
        ("key",),
    ),
    "keys.createKey": object_of(
        {
            "apiId": _ID,
            "prefix": text(1, 16, r"[a-zA-Z0-9_]+"),
            "name": _NAME,
            "byteLength": whole(16, 255),
            "externalId": text(1, 255, _EXTERNAL_ID_PATTERN),
            "meta": any_object(100),
            "roles": _ROLES,
            "permissions": list_of(text(1, 100), 1000),
            "expires": _EXPIRES,
            "credits": object_of(
                {"remaining": whole(0, nullable=True), "refill": object_of(_REFILL_FIELDS, _REFILL_REQUIRED)},
                ("remaining",),
            ),
            "ratelimits": _RATELIMITS,
            "enabled": flag(),
            "recoverable": flag(),
        },
        ("apiId",),
    ),
    "keys.updateCredits": object_of(
        {
            "keyId": text(3),
            "operation": one_of("set", "increment", "decrement"),
            "value": whole(0, nullable=True),
        },
        ("keyId", "operation"),
    ),
    "keys.getKey": object_of({"keyId": _ID, "decrypt": flag()}, ("keyId",)),
    "keys.whoami": object_of({"key": _SECRET}, ("key",)),
    "keys.updateKey": object_of(
        {
            "keyId": _ID,
            "name": text(1, 255, nullable=True),
            "externalId": text(1, 255, _EXTERNAL_ID_PATTERN, nullable=True),
            "meta": any_object(100, nullable=True),
            "expires": whole(0, EXPIRES_MAX_MS, nullable=True),
            "credits": object_of(
                {
                    "remaining": whole(0, nullable=True),
                    "refill": object_of(_REFILL_FIELDS, _REFILL_REQUIRED, nullable=True),
                },
                nullable=True,
            ),
            "ratelimits": _RATELIMITS,
            "enabled": flag(),
            "roles": _ROLES,
            "permissions": list_of(text(3, 100, _GRANT_PATTERN), 1000),
        },
        ("keyId",),
    ),
    "keys.deleteKey": object_of({"keyId": _ID, "permanent": flag()}, ("keyId",)),
    "keys.rerollKey": object_of({"keyId": _ID, "expiration": _EXPIRES}, ("keyId", "expiration"), open_=True),
    "apis.listKeys": object_of(
        {
            "apiId": text(1),
            "limit": whole(1, 100),
            "cursor": text(),
            "externalId": text(1),
            "decrypt": flag(),
            "revalidateKeysCache": flag(),
        },
        ("apiId",),
    ),
}
