"""Web pages of other origins: only those that the config names, and never with cookies."""

from __future__ import annotations

import httpx
import pytest

from gateway.api.build import open_to_pages

ORIGIN = "https://app.example.com"
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, idempotency-key"}


def pages(api, *origins):
    app = open_to_pages(api.control, origins) if origins else api.control
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")


def test_a_page_of_a_named_origin_may_ask_with_a_token_and_read_the_answer(with_api):
    async def test(api):
        client = pages(api, ORIGIN)
        asked = await client.options("/api-keys", headers={"origin": ORIGIN, **ASKED})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, ORIGIN)
        token = f"Bearer {api.app.token('alice')}"
        answer = await client.post("/api-keys", headers={"origin": ORIGIN, "authorization": token})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, ORIGIN)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        refused = await client.post("/api-keys", headers={"origin": ORIGIN})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)

    with_api(test)


@pytest.mark.parametrize("origins", [(), (ORIGIN,)], ids=["none named", "another named"])
@pytest.mark.parametrize("origin", ["https://evil.example.com", "https://app.example.com.evil.com", "null"])
def test_a_page_of_any_other_origin_may_not(with_api, origins, origin):
    async def test(api):
        client = pages(api, *origins)
        asked = await client.options("/api-keys", headers={"origin": origin, **ASKED})
        answer = await client.get("/pricing", headers={"origin": origin})
        for each in (asked, answer):
            assert "access-control-allow-origin" not in each.headers
            assert "access-control-allow-credentials" not in each.headers

    with_api(test)
