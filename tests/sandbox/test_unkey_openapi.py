"""The stand-in takes the requests that Unkey's own description allows, and no others.

That its answers fit the description is checked by every call of the other tests here (unkey_caller.py: Caller.ask).
"""

from __future__ import annotations

import copy

import pytest

from gateway.sandbox.fields import INT64_MAX, InvalidField
from gateway.sandbox.unkey.bodies import BODIES
from tests.sandbox.openapi import described_members, fits_request

LIMIT = {"name": "calls", "limit": 1, "duration": 1000, "autoApply": True}
REFILL = {"interval": "monthly", "amount": 1, "refillDay": 31}
FULL = {
    "keys.verifyKey": {
        "key": "gw_x",
        "tags": ["a"],
        "permissions": "a AND b",
        "credits": {"cost": 5},
        "ratelimits": [{"name": "calls", "cost": 0, "limit": 0, "duration": 0}],
        "migrationId": "",
    },
    "keys.createKey": {
        "apiId": "api_1",
        "prefix": "gw",
        "name": "n",
        "byteLength": 16,
        "externalId": "u.1-2_3",
        "meta": {"a": [1]},
        "roles": ["admin"],
        "permissions": ["a"],
        "expires": 0,
        "credits": {"remaining": 5, "refill": REFILL},
        "ratelimits": [LIMIT],
        "enabled": True,
        "recoverable": False,
    },
    "keys.updateCredits": {"keyId": "key_1", "operation": "increment", "value": 5},
    "keys.getKey": {"keyId": "key_1", "decrypt": False},
    "keys.whoami": {"key": "gw_x"},
    "keys.updateKey": {
        "keyId": "key_1",
        "name": "n",
        "externalId": "u.1-2_3",
        "meta": {},
        "expires": 0,
        "credits": {"remaining": 5, "refill": REFILL},
        "ratelimits": [LIMIT],
        "enabled": True,
        "roles": ["admin"],
        "permissions": ["a.b"],
    },
    "keys.deleteKey": {"keyId": "key_1", "permanent": True},
    "keys.rerollKey": {"keyId": "key_1", "expiration": 0},
    "apis.listKeys": {
        "apiId": "api_1",
        "limit": 1,
        "cursor": "key_1",
        "externalId": "u",
        "decrypt": False,
        "revalidateKeysCache": False,
    },
}


def is_taken(call, body) -> bool:
    try:
        BODIES[call](body, "body")
    except InvalidField:
        return False
    return True


def places(value, path=()):
    """The path of every value in a document."""
    yield path
    if isinstance(value, (dict, list)):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            yield from places(member, (*path, name))


@pytest.mark.parametrize("call", BODIES)
def test_a_request_with_every_member_that_is_described_is_taken(call):
    assert FULL[call].keys() == described_members(call)
    assert fits_request(call, FULL[call])
    assert is_taken(call, FULL[call])


# Numbers that are whole and written with a point are integers to JSON Schema, and none to Unkey's parser; some maxima
# are described as one more than an int64 holds; a line's end slips through the `$` of the checker. None is tried here.
LENGTHS = [0, 1, 2, 3, 16, 17, 100, 101, 128, 129, 255, 256, 257, 512, 513, 1000, 1001]
NUMBERS = [-1, 0, 1, 15, 16, 31, 32, 100, 101, 255, 256, 999, 1000, 10**12, 10**12 + 1, 4102444800000, 4102444800001]
SIZES = [1, 20, 21, 50, 51, 100, 101, 1000, 1001]
VALUES = [
    None,
    True,
    False,
    0.5,
    [],
    {},
    *NUMBERS,
    INT64_MAX,
    *("a" * length for length in LENGTHS),
    *("aaa" + sign for sign in " @:.-_*|/ä"),
    "1a",
    "daily",
    "set",
    "decrement",
    *({f"m{number}": 1 for number in range(size)} for size in SIZES),
    *([item] * size for size in SIZES for item in ("aaa", LIMIT)),
    *({**LIMIT, **change} for change in ({"novelty": 1}, {"limit": 0}, {"duration": 999}, {"name": "ab"})),
    {"cost": 1, "novelty": 1},
]


def variants(body):
    """The body with each of its values replaced by each of VALUES or removed, and a member too much in each place."""
    yield from VALUES
    for *way, last in filter(None, places(body)):
        for value in VALUES:
            yield with_change(body, way, lambda holder, last=last, value=value: holder.__setitem__(last, value))
        yield with_change(body, way, lambda holder, last=last: holder.pop(last))
    for way in places(body):
        for name in ("novelty", "ownerId", "name", "remaining"):
            yield with_change(body, way, lambda holder, name=name: add_member(holder, name))


def with_change(body, way, change):
    body = copy.deepcopy(body)
    holder = body
    for step in way:
        holder = holder[step]
    change(holder)
    return body


def add_member(holder, name):
    if isinstance(holder, dict):
        holder[name] = "aaa"


@pytest.mark.parametrize("call", BODIES)
def test_requests_are_taken_or_refused_as_the_description_says(call):
    verdicts = {True: 0, False: 0}
    for body in variants(FULL[call]):
        taken = is_taken(call, body)
        assert taken == fits_request(call, body), body
        verdicts[taken] += 1
    assert min(verdicts.values()) > 10
