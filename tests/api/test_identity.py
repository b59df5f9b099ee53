"""Who is calling: one credential, in one place, of one kind."""

from __future__ import annotations

import pytest
import uvloop

from gateway.errors import CreditsUnavailable
from tests.api.harness import ADMIN_TOKEN, open_api


def bearer(token):
    return ("authorization", f"Bearer {token}")


def test_each_kind_of_credential_is_who_it_says(with_api):
    async def test(api):
        made = await api.new_key("alice", credits=5)
        for headers in ([bearer(made["api_key"])], [("x-api-key", made["api_key"])], [bearer(api.app.token("alice"))]):
            answer = await api.call("GET /credits", headers=headers)
            assert (answer.status, answer.json["key_id"]) == (200, made["key_id"])
        assert (await api.call("GET /api-keys?user_id=alice", headers=[bearer(ADMIN_TOKEN)])).status == 200
        lower = [("authorization", f"bearer {made['api_key']}")]
        assert (await api.call("GET /credits", headers=lower)).status == 200

    with_api(test)


def test_two_credentials_are_nobody_even_if_both_are_good(with_api):
    async def test(api):
        secret = (await api.new_key())["api_key"]
        token = api.app.token()
        good = [bearer(secret), ("x-api-key", secret), bearer(token), bearer(ADMIN_TOKEN)]
        for one in good:
            for two in good:
                answer = await api.call("GET /credits", headers=[one, two])
                assert (answer.status, answer.slug) == (401, "invalid-key")

    with_api(test)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  x",
        "Bearer a b",
        "Basic YWxpY2U6eA==",
        "Token x",
        ADMIN_TOKEN,
        f"Bearer {ADMIN_TOKEN} ",
        f"Bearer {ADMIN_TOKEN}x",
        f"Bearer {ADMIN_TOKEN[:-1]}",
        f"Bearer {ADMIN_TOKEN.upper()}",
        f"Bearer {ADMIN_TOKEN}, Bearer {ADMIN_TOKEN}",
        "Bearer " + "x" * 9_000,
        "Bearer ä",
    ],
)
def test_what_is_no_credential_is_nobody(with_api, value):
    async def test(api):
        answer = await api.call("GET /api-keys", headers=[("authorization", value.encode("latin-1"))])
        assert (answer.status, answer.slug) == (401, "invalid-key")
        assert answer.headers["www-authenticate"].startswith("Bearer")

    with_api(test)


def test_without_a_credential_the_answer_says_what_to_send(with_api):
    async def test(api):
        answer = await api.call("GET /credits")
        assert (answer.status, answer.slug) == (401, "missing-key")
        assert "Bearer" in answer.json["detail"]

    with_api(test)


def test_the_admin_token_counts_as_a_bearer_only(with_api):
    async def test(api):
        assert (await api.call("GET /api-keys", key=ADMIN_TOKEN)).slug == "invalid-key"
        assert (await api.call("GET /api-keys", key=api.app.token())).slug == "invalid-key"

    with_api(test)


@pytest.mark.parametrize("sent", ["", "Bearer ", "Bearer null", "Bearer undefined"])
def test_without_an_admin_token_in_the_config_nobody_is_admin(with_api, sent):
    async def test(api):
        assert (await api.call("GET /api-keys", headers=[("authorization", sent)])).status == 401

    with_api(test, config={"identity": {"admin_token": ""}})


def test_a_store_that_does_not_answer_is_never_told_as_an_unknown_key(ledger):
    async def main():
        async with open_api(ledger) as api:

            async def fail(_api_key):
                raise CreditsUnavailable(cause="secret-host is down")

            api.provider.identify = fail
            answer = await api.call("GET /credits", key="gw_x")
            assert (answer.status, answer.slug) == (503, "credits-unavailable")
            assert "retry-after" in answer.headers
            assert b"secret-host" not in answer.body

    uvloop.run(main())


def test_who_is_calling_is_asked_before_the_body_is_looked_at(with_api):
    async def test(api):
        for body in (b"{", b"x" * 100_000, b'{"a":1}'):
            head = {"content-type": "application/json"}
            for what in ("POST /api-keys", "POST /checkout", "POST /credits/adjustments"):
                assert (await api.call(what, headers=head, content=body)).status == 401

    with_api(test)
