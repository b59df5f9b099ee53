"""What the stand-in for Stripe checks before a call runs: key, path, parameters, idempotency key."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import urlencode

import pytest
import stripe
from stripe._encode import _api_encode

from gateway.sandbox.stripe.forms import BadForm, flatten, read_form
from tests.sandbox.stripe_caller import session_params, tell

SESSIONS = "/v1/checkout/sessions"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Keys.


@pytest.mark.parametrize("key", ["sk_test_abc123", "rk_test_abc123"])
@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_any_secret_key_of_test_mode_is_good_in_either_scheme(key, scheme):
    async def story(caller):
        credentials = key if scheme == "Bearer" else base64.b64encode(f"{key}:".encode()).decode()
        answer = await caller.send("GET", SESSIONS, key=None, headers={"Authorization": f"{scheme} {credentials}"})
        assert (answer.status_code, answer.json()["data"]) == (200, [])

    tell(story)


@pytest.mark.parametrize("key", ["sk_live_abc123", "pk_test_abc123", "whsec_abc", "sk_test_", "sk_test_a b", "é"])
def test_other_keys_are_refused_and_not_told_in_full(key):
    async def story(caller):
        headers = {"Authorization": f"Bearer {key}".encode()}
        answer = await caller.send("GET", SESSIONS, key=None, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (401, "invalid_request_error")
        assert "abc123" not in answer.text

    tell(story)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic x", "Digest sk_test_abc"])
def test_no_key_is_refused(authorization):
    async def story(caller):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await caller.send("GET", SESSIONS, key=None, headers=headers)
        assert answer.status_code == 401
        assert "did not provide an API key" in answer.json()["error"]["message"]

    tell(story)


def test_the_sdk_knows_a_wrong_key_and_a_missing_permission_when_it_sees_them():
    async def story(caller):
        caller.server.keys.limit("rk_test_gateway", "checkout_session_write", "charge_read")
        made = await caller.create()
        assert (await caller.sessions.retrieve_async(made.id)).id == made.id
        assert (await caller.v1.charges.list_async()).data == []
        for forbidden in (
            caller.v1.customers.create_async({}),
            caller.v1.charges.update_async("ch_x", {"description": "x"}),
            caller.v1.refunds.list_async(),
        ):
            with pytest.raises(stripe.PermissionError) as caught:
                await forbidden
            assert caught.value.error.code == "more_permissions_required"
        with pytest.raises(stripe.AuthenticationError):
            await caller.v1.charges.list_async({}, {"api_key": "sk_live_x"})

    tell(story, api_key="rk_test_gateway")


# Paths, parameters, errors.


def test_errors_are_shaped_as_the_sdk_reads_them():
    async def story(caller):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.sessions.retrieve_async("cs_test_nobody")
        refusal = caught.value
        assert (refusal.http_status, refusal.code, refusal.param) == (404, "resource_missing", "id")
        assert refusal.error.message == "No such checkout.session: 'cs_test_nobody'"
        assert refusal.error.doc_url == "https://stripe.com/docs/error-codes/resource-missing"
        assert refusal.request_id == refusal.headers["request-id"]

    tell(story)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/nothing"), ("PUT", SESSIONS), ("DELETE", f"{SESSIONS}/cs_test_x"), ("GET", "/v2/x")],
)
def test_what_is_no_call_is_404(method, path):
    async def story(caller):
        answer = await caller.send(method, path)
        assert answer.status_code == 404
        assert "Unrecognized request URL" in answer.json()["error"]["message"]

    tell(story)


def test_every_answer_has_a_request_id_of_its_own_and_tells_the_version_asked_for():
    async def story(caller):
        answers = [
            await caller.send("GET", path, headers={"Stripe-Version": "2026-10-28.endive"})
            for path in (SESSIONS, "/v1/charges", "/v1/nothing", f"{SESSIONS}/x")
        ]
        assert len({answer.headers["request-id"] for answer in answers}) == 4
        assert {answer.headers["stripe-version"] for answer in answers} == {"2026-10-28.endive"}

    tell(story)


def test_unknown_parameters_of_a_list_and_of_a_look_up_are_refused_too():
    async def story(caller):
        for path, param in ((f"{SESSIONS}?colour=red", "colour"), (f"{SESSIONS}?created[since]=1", "created[since]")):
            error = (await caller.send("GET", path)).json()["error"]
            assert (error["param"], error["code"]) == (param, "parameter_unknown")
        for limit in ("0", "101", "x", ""):
            answer = await caller.send("GET", f"{SESSIONS}?limit={limit}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")

    tell(story)


def test_a_body_that_is_no_form_is_refused():
    async def story(caller):
        answers = [
            await caller.send("POST", SESSIONS, json=session_params()),
            await caller.send("POST", SESSIONS, data="mode=%ff", headers=FORM),
            await caller.send("POST", SESSIONS, data={"mode": "payment", "mode[x]": "1"}),
            await caller.send("POST", SESSIONS, data={"mode": "x" * (1 << 20)}),
        ]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 413]

    tell(story)


@pytest.mark.parametrize(
    ("encoded", "read"),
    [
        (b"", {}),
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"a=1&a=2", {"a": "2"}),
        (b"a[b][c]=x+y%20z", {"a": {"b": {"c": "x y z"}}}),
        (b"a%5Bb%5D=1", {"a": {"b": "1"}}),
        (b"a[]=1&a[]=2", {"a": ["1", "2"]}),
        (b"a[0][b]=1&a[1][b]=2&a[0][c]=3", {"a": {"0": {"b": "1", "c": "3"}, "1": {"b": "2"}}}),
        (b"a[][b]=1&a[][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a=é&é[ü]=1".encode(), {"a": "é", "é": {"ü": "1"}}),
    ],
)
def test_brackets_nest(encoded, read):
    assert read_form(encoded) == read


@pytest.mark.parametrize(
    "encoded",
    [b"a=1&a[b]=2", b"a[b]=2&a=1", b"a[]=1&a[b]=2", b"a[b]=1&a[]=2", b"[a]=1", b"a[b=1", b"a]=1", b"=1", b"%ff=1"],
)
def test_names_that_contradict_each_other_or_make_no_sense_are_refused(encoded):
    with pytest.raises(BadForm):
        read_form(encoded)


def test_a_form_has_a_limited_number_of_parameters():
    read_form(b"&".join(b"a%d=1" % number for number in range(5000)))
    with pytest.raises(BadForm):
        read_form(b"&".join(b"a%d=1" % number for number in range(5001)))


def test_flattening_gives_what_was_nested():
    assert flatten(read_form(b"a[b][c]=1&d[]=2&d[]=3&e=4")) == [
        ("a[b][c]", "1"),
        ("d[0]", "2"),
        ("d[1]", "3"),
        ("e", "4"),
    ]


# Idempotency keys.


def test_the_same_key_and_parameters_give_the_same_answer_and_one_object():
    async def story(caller):
        first = await caller.create("order_1")
        caller.acts.pay(first.id)
        again = await caller.create("order_1")
        assert again.to_dict() == first.to_dict()  # as it was then, though it is paid by now
        assert again.last_response.headers["idempotent-replayed"] == "true"
        assert again.last_response.headers["original-request"] == first.last_response.headers["request-id"]
        assert "idempotent-replayed" not in first.last_response.headers
        other = await caller.create("order_2")
        assert other.id != first.id
        assert len(caller.server.database.sessions) == 2

    tell(story)


def test_the_same_key_with_other_parameters_or_for_another_call_is_refused():
    async def story(caller):
        await caller.create("order_1")
        for again in (
            caller.create("order_1", quantity=4),
            caller.create("order_1", metadata={}),
            caller.v1.customers.create_async({}, {"idempotency_key": "order_1"}),
        ):
            with pytest.raises(stripe.IdempotencyError) as caught:
                await again
            assert (caught.value.http_status, caught.value.error.type) == (400, "idempotency_error")
        assert len(caller.server.database.sessions) == 1
        with pytest.raises(stripe.IdempotencyError):
            await caller.create("x" * 256)
        await caller.create("x" * 255)

    tell(story)


def test_what_was_refused_by_its_shape_does_not_use_up_its_key():
    async def story(caller):
        with pytest.raises(stripe.InvalidRequestError):
            await caller.create("order_1", quantity=0)
        with pytest.raises(stripe.InvalidRequestError):
            await caller.create("order_1", expires_at=1)
        assert (await caller.create("order_1")).status == "open"

    tell(story)


def test_what_was_refused_while_it_ran_is_refused_again_though_it_would_do_now():
    async def story(caller):
        paid = await caller.paid()
        intent = (await caller.v1.payment_intents.retrieve_async(paid.payment_intent)).id
        asked = ({"payment_intent": intent, "amount": 301}, {"idempotency_key": "refund_1"})
        for _ in range(2):
            with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
                await caller.v1.refunds.create_async(*asked)
        assert caller.server.books.calls["refunds.create"] == 2

    tell(story)


def test_two_at_once_with_one_key_are_one_session_and_one_409_that_the_sdk_tries_again():
    async def story(caller):
        caller.faults.set(kind="slow", of="checkout.sessions.create", seconds=0.2, times=1)
        first = asyncio.create_task(caller.create("order_1"))
        await caller.eventually(lambda: caller.server.books.calls["checkout.sessions.create"])
        answer = await caller.send(
            "POST", SESSIONS, content=form(session_params()), headers={**FORM, "Idempotency-Key": "order_1"}
        )
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "idempotency_key_in_use"
        second = await caller.sessions.create_async(
            session_params(), {"idempotency_key": "order_1", "max_network_retries": 2}
        )
        assert second.id == (await first).id
        assert len(caller.server.database.sessions) == 1

    tell(story)


def test_a_key_is_forgotten_after_a_day():
    async def story(caller):
        first = await caller.create("order_1")
        caller.server.timetable.advance(24 * 3600)
        assert (await caller.create("order_1")).id == first.id
        caller.server.timetable.advance(1)
        assert (await caller.create("order_1")).id != first.id

    tell(story)


def form(params):
    """As the SDK spells it."""
    return urlencode(list(_api_encode(params))).encode()
