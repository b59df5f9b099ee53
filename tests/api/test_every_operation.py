"""What holds for every operation, asked of each that there is: a new one is asked too, as soon as it is described."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.api.build import described
from gateway.api.description import Description
from gateway.api.operation import AnyOperation, Asked
from gateway.config.tree import Config
from tests.api.harness import SIGNUP_CREDITS
from tests.api.test_keys import ODD_USER_IDS

OURS = described(Config(), None, None)
OPERATIONS = [*OURS, *Description(OURS).operations()]
NUMBERS = {
    "0": 0,
    "-1": -1,
    "2^63": 2**63,
    "-2^63": -(2**63),
    "10^400": 10**400,
    "1.5": 1.5,
    "1e2": 1e2,
    "ten": "10",
    "true": True,
    "null": None,
    "a list": [1],
    "an object": {"amount": 1},
}
CAPS = ("spend_caps.day", "spend_caps.month")
FINE_AS_ZERO = {("createApiKey", "credits"), *itertools.product(("createApiKey", "changeApiKey"), CAPS)}
"""A key without credits is one, and one that may spend none."""
FINE_AS_NULL = {*CAPS}
"""Lifted."""
NOBODYS = {"key_id": "key_00000000000000000000", "order_id": "order_000000000000000000000000"}
ODD_TEXTS = {
    "NUL": "a\0b",
    "a megabyte": "a" * 1_048_576,
    "half a surrogate pair": "\ud800",
    "line break": "a\n",
    "empty": "",
    "5": 5,
    "true": True,
    "null": None,
    "a list": ["a"],
    "an object": {"a": "b"},
}
NO_WORDS = {**ODD_TEXTS, "homoglyphs": "ѕ", "full-width": "ｓ"}
"""Where text is a name that must be told apart from others, not words for a person."""
FOR_A_PERSON = {"name", "reason"}
KEY_IDS = {"NUL": "key_\0", "a megabyte": "k" * 1_048_576, "homoglyphs": "kеy_1", "empty": "", "a path": "../key_1"}


def a_body(name: str, key_id: str) -> dict[str, Any]:
    """One that the operation takes."""
    return {
        "createApiKey": {"user_id": "alice", "credits": 5, "name": "n", "expires_at": 4_000_000_000_000}
        | {"spend_caps": {"day": 5}},
        "changeApiKey": {"spend_caps": {"month": 5}},
        "rotateApiKey": {},
        "adjustCredits": {"key_id": key_id, "amount": 5, "kind": "promo", "reason": "r", "reference": f"ref-{name}"},
        "createCheckout": {"pack": "s", "quantity": 1, "key_id": key_id},
    }[name]


def fields_of(model: type[Asked]) -> dict[str, str]:
    """By name, the JSON Schema type of each field; those of an object behind its name and a dot."""
    schema = model.model_json_schema()
    types = {}
    for name, field in schema["properties"].items():
        types[name] = field.get("type", "object")
        if "$ref" in field:
            inner = schema["$defs"][field["$ref"].rpartition("/")[2]]["properties"]
            types |= {f"{name}.{part}": field["anyOf"][0]["type"] for part, field in inner.items()}
    return types


def with_field(body: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    name, _, part = field.partition(".")
    return {**body, name: {part: value} if part else value}


def in_bodies(kind: str, *names: str) -> Iterator[tuple[AnyOperation, str]]:
    """Each operation whose body has a field of that type (and one of those names, where they are said)."""
    for operation in OPERATIONS:
        if isinstance(operation.body, type):
            for name, type_ in fields_of(operation.body).items():
                if type_ == kind and (not names or name in names):
                    yield operation, name


def in_queries(*names: str) -> Iterator[tuple[AnyOperation, str]]:
    for operation in OPERATIONS:
        if operation.query is not None:
            yield from ((operation, name) for name in fields_of(operation.query) if name in names)


def path_of(operation: AnyOperation, **values: str) -> str:
    return f"{operation.method} {operation.path.format(**values)}"


async def refused_by_name(api, operation: AnyOperation, field: str, value: Any) -> None:
    key_id = api.made["key_id"]
    body = with_field(a_body(operation.name, key_id), field, value)
    answer = await api.call(path_of(operation, key_id=key_id), body, admin=True)
    assert answer.status == 422, (operation.name, field, answer.status, answer.body[:200])
    assert list(answer.errors) == [field], operation.name
    assert len(answer.body) < 1_000


async def nothing_moved(api) -> None:
    listed = (await api.call("GET /api-keys", admin=True)).json["api_keys"]
    assert [(key["key_id"], key["available"]) for key in listed] == [(api.made["key_id"], SIGNUP_CREDITS)]
    assert api.billing.orders == {}


def test_what_is_no_number_is_refused_by_name_wherever_numbers_are_taken(with_api):
    asked = list(in_bodies("integer"))
    assert {(operation.name, name) for operation, name in asked} == {
        *(("createApiKey", "credits"), ("createApiKey", "expires_at")),
        *(("adjustCredits", "amount"), ("createCheckout", "quantity")),
        *itertools.product(("createApiKey", "changeApiKey"), CAPS),
    }
    (promo,) = (one for one in asked if one[1] == "amount")

    async def test(api):
        api.made = await api.new_key()
        for (operation, field), (name, value) in itertools.product(asked, NUMBERS.items()):
            allowed = name == "0" and (operation.name, field) in FINE_AS_ZERO
            allowed |= name == "null" and field in FINE_AS_NULL
            if not allowed and not (operation.name == "adjustCredits" and name == "-1"):
                await refused_by_name(api, operation, field, value)
        await refused_by_name(api, *promo, -1)  # a promo only gives
        await nothing_moved(api)

    with_api(test)


def test_what_is_no_user_id_or_key_id_is_refused_by_name_wherever_one_is_taken(with_api):
    bodies, queries = list(in_bodies("string", "user_id", "key_id")), list(in_queries("user_id", "key_id"))
    assert len(bodies) == 3
    assert len(queries) == 3

    async def test(api):
        api.made = await api.new_key()
        for operation, field in bodies:
            odd = ODD_USER_IDS if field == "user_id" else KEY_IDS
            for value in [*odd.values(), 5, True, None, ["a"], {}]:
                await refused_by_name(api, operation, field, value)
        for operation, field in queries:
            for value in ("", "a%20b", "%D0%B0lice", "a%00", "a" * 300, "a%0A"):
                answer = await api.call(f"GET {operation.path}?{field}={value}", admin=True)
                assert list(answer.errors) == [field], (operation.name, value)
        await nothing_moved(api)

    with_api(test)


def test_what_is_no_text_is_refused_by_name_wherever_text_is_taken(with_api):
    ids = {"user_id", "key_id"}
    asked = [(operation, name) for operation, name in in_bodies("string") if name not in ids]
    assert {(operation.name, name) for operation, name in asked} == {
        ("createApiKey", "name"),
        *(("adjustCredits", name) for name in ("kind", "reason", "reference")),
        ("createCheckout", "pack"),
    }

    async def test(api):
        api.made = await api.new_key()
        for operation, field in asked:
            for value in (ODD_TEXTS if field in FOR_A_PERSON else NO_WORDS).values():
                await refused_by_name(api, operation, field, value)
        await nothing_moved(api)

    with_api(test)


def test_what_is_no_page_is_refused_by_name_wherever_there_are_pages(with_api):
    asked = [*in_queries("limit", "cursor")]
    assert {operation.name for operation, _ in asked} == {"listApiKeys", "listTransactions"}
    limits = ("0", "-1", "101", str(2**63), "1" * 5_000, "1.5", "1e1", "ten", "true", "null", "", "%00", "%D9%A1")
    cursors = ("%00", "a" * 5_000, "%D0%B0", "null", "-", "a%0A")

    async def test(api):
        made = await api.new_key()
        for operation, field in asked:
            for value in limits if field == "limit" else cursors:
                answer = await api.call(f"GET {operation.path}?{field}={value}", key=made["api_key"])
                assert list(answer.errors) == [field], (operation.name, value)
                assert len(answer.body) < 1_000

    with_api(test)


def test_what_is_no_object_is_refused_by_name_wherever_one_is_taken(with_api):
    asked = list(in_bodies("object"))
    assert {(operation.name, name) for operation, name in asked} == {
        ("createApiKey", "spend_caps"),
        ("changeApiKey", "spend_caps"),
    }

    async def test(api):
        api.made = await api.new_key()
        for operation, field in asked:
            for value in (5, True, None, "a", ["a"], [], [{"day": 5}]):
                await refused_by_name(api, operation, field, value)
            body = with_field(a_body(operation.name, ""), f"{field}.week", 5)
            answer = await api.call(path_of(operation, key_id=api.made["key_id"]), body, admin=True)
            assert answer.errors == {f"{field}.week": "there is no such field"}
        await nothing_moved(api)

    with_api(test)


def test_no_field_is_taken_that_no_test_here_asks_about():
    """A field of another type than number or text would be asked about by none of the above."""
    for operation in OPERATIONS:
        for model in (operation.body, operation.query):
            if isinstance(model, type):
                assert set(fields_of(model).values()) <= {"integer", "string", "object"}, operation.name
                assert {name.partition(".")[0] for name in fields_of(model)} == model.model_fields.keys()
        if operation.query is not None:
            assert fields_of(operation.query).keys() <= {"user_id", "key_id", "limit", "cursor"}, operation.name


@pytest.mark.parametrize("who", [{"user": "bob"}, {"key": "bob"}], ids=["a user", "a key"])
def test_what_is_another_users_is_answered_like_what_there_is_not_wherever_it_is_asked_for(with_any_api, who):
    """The key, its history, its orders: by path, by query and by body."""

    async def test(api):
        api.made = await api.new_key("alice")
        bobs = await api.new_key("bob")
        credential = {"key": bobs["api_key"]} if "key" in who else who
        order = (await api.call("POST /checkout", {"pack": "s"}, key=api.made["api_key"])).json
        alices = {"key_id": api.made["key_id"], "order_id": order["order_id"]}
        calls = [*by_path(), *by_query(), *by_body()]
        assert len(calls) == 7
        seen = 0
        for call, document in calls:
            theirs = await api.call(call.format(**alices), filled(document, alices), **credential)
            nobodys = await api.call(call.format(**NOBODYS), filled(document, NOBODYS), **credential)
            if theirs.slug == "forbidden":  # not for keys at all
                assert nobodys.slug == "forbidden"
                continue
            assert (theirs.status, theirs.slug) == (nobodys.status, nobodys.slug) == (404, "not-found"), call
            assert theirs.json["detail"] == nobodys.json["detail"]
            seen += 1
        assert seen == (7 if "user" in who else 4)
        assert len(api.billing.orders) == 1
        assert (await api.call("GET /credits", key=api.made["api_key"])).json["available"] == SIGNUP_CREDITS
        listed = (await api.call("GET /api-keys?limit=100", **credential)).json["api_keys"]
        assert {key["user_id"] for key in listed} == {"bob"}

    with_any_api(test)


def by_path() -> Iterator[tuple[str, Any]]:
    for operation in OPERATIONS:
        if operation.path_fields:
            body = a_body(operation.name, "") if isinstance(operation.body, type) else None
            yield f"{operation.method} {operation.path}", body


def by_query() -> Iterator[tuple[str, Any]]:
    for operation, field in in_queries("key_id"):
        yield f"{operation.method} {operation.path}?{field}={{{field}}}", None


def by_body() -> Iterator[tuple[str, Any]]:
    for operation, field in in_bodies("string", "key_id"):
        if operation.name != "adjustCredits":  # the admin's
            yield f"{operation.method} {operation.path}", {**a_body(operation.name, ""), field: field}


def filled(document: Any, ids: dict[str, str]) -> Any:
    return document and {
        name: ids.get(value, value) if type(value) is str else value for name, value in document.items()
    }


def test_every_post_that_makes_or_moves_something_is_done_once_with_an_idempotency_key(with_any_api):
    takers = [operation for operation in OPERATIONS if operation.takes_idempotency_key]
    posts = {operation.name for operation in OPERATIONS if operation.method == "POST"}
    assert posts - {operation.name for operation in takers} == {"receiveStripeEvent"}

    async def test(api):
        for operation in takers:
            made = await api.new_key("alice", credits=0)
            path, body = path_of(operation, key_id=made["key_id"]), a_body(operation.name, made["key_id"])
            changed = {**body, "name": "m", "reason": "s", "quantity": 2}
            changed = {name: value for name, value in changed.items() if name in fields_of(operation.body)}
            before = await state_of(api)
            answers = [await api.call(path, body, admin=True, once=f"once-{operation.name}") for _ in range(3)]
            assert answers[0].status in {200, 201}, (operation.name, answers[0].body)
            assert len({(answer.status, answer.body) for answer in answers}) == 1, operation.name
            replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
            assert replayed == [None, "true", "true"], operation.name
            after = await state_of(api)
            assert difference(before, after) == ONCE[operation.name], operation.name
            if changed != body:
                other = await api.call(path, changed, admin=True, once=f"once-{operation.name}")
                assert list(other.errors) == ["Idempotency-Key"], operation.name
            elsewhere = await api.call("POST /checkout", {"pack": "s"}, admin=True, once=f"once-{operation.name}")
            assert list(elsewhere.errors) == ["Idempotency-Key"], operation.name
            assert await state_of(api) == after, operation.name

    with_any_api(test)


ONCE = {
    "createApiKey": (1, 5, 0),
    "rotateApiKey": (0, 0, 0),
    "adjustCredits": (0, 5, 0),
    "createCheckout": (0, 0, 1),
}
"""Keys, credits and orders that three equal requests make."""


async def state_of(api) -> tuple[int, int, int]:
    keys = (await api.call("GET /api-keys?limit=100", admin=True)).json["api_keys"]
    return len(keys), sum(key["available"] for key in keys), len(api.billing.orders)


def difference(before, after) -> tuple[int, ...]:
    return tuple(later - earlier for earlier, later in zip(before, after, strict=True))
