"""The payment page of the stand-in for Stripe, as HTTP; tests/browser clicks through it."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from tests.sandbox.stripe_caller import session_params, tell


async def page(caller, session):
    return await caller.send("GET", urlsplit(session.url).path, key=None)


async def submit(caller, session, **fields):
    data = {"email": "ada@b.example", "method": "card", "action": "pay", **fields}
    return await caller.send("POST", urlsplit(session.url).path, key=None, data=data)


class Seen(HTMLParser):
    """The elements of a page by name, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_shows_what_is_bought_and_what_it_costs():
    async def story(caller):
        made = await caller.create()
        answer = await page(caller, made)
        assert answer.status_code == 200
        for text in ("Starter", "<td>3</td>", "$3.00", "Pay $3.00", "https://shop.example/cancelled"):
            assert text in answer.text

    tell(story)


def test_the_page_loads_nothing_from_anywhere_and_runs_no_script():
    async def story(caller):
        answer = await page(caller, await caller.create())
        seen = Seen(answer.text)
        assert seen.of("script") == seen.of("img") == seen.of("iframe") == []
        assert [link["href"] for link in seen.of("link")] == ["data:,"]
        assert "url(" not in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"

    tell(story)


def test_every_field_has_a_label():
    async def story(caller):
        made = await caller.create(allow_promotion_codes=True)
        text = (await page(caller, made)).text
        seen = Seen(text)
        labelled = {label.get("for") for label in seen.of("label")}
        for field in seen.of("input"):
            assert field.get("id") in labelled or re.search(rf'<label><input[^>]*value="{field["value"]}"', text)
        assert len(seen.of("h1")) == len(seen.of("main")) == len(seen.of("legend")) == 1
        assert seen.of("html") == [{"lang": "en"}]

    tell(story)


def test_what_the_shop_calls_its_things_is_text_and_nothing_else():
    async def story(caller):
        params = session_params(cancel_url='https://shop.example/"><script>alert(1)</script>')
        params["line_items"][0]["price_data"]["product_data"]["name"] = "<script>alert(2)</script>$total"
        made = await caller.sessions.create_async(params)
        answer = await submit(caller, made, method="declined", promotion_code="<b>")
        assert "&lt;script&gt;alert(2)&lt;/script&gt;$total" in answer.text
        assert Seen(answer.text).of("script") == []

    tell(story)


def test_paying_sends_the_buyer_back_with_the_sessions_id_once_the_webhook_was_taken():
    async def story(caller):
        made = await caller.create()
        caller.hook.delay_seconds = 0.1
        answer = await submit(caller, made, name="Ada")
        assert answer.status_code == 303
        assert answer.headers["location"] == f"https://shop.example/done?order=o1&session_id={made.id}"
        assert caller.hook.of("checkout.session.completed")
        paid = await caller.sessions.retrieve_async(made.id)
        assert (paid.payment_status, paid.customer_details.email) == ("paid", "ada@b.example")

    tell(story)


def test_the_buyer_is_not_kept_waiting_for_ever_by_a_webhook_that_is_lost_or_slow():
    async def story(caller):
        caller.server.settings.redirect_seconds = 0.1
        caller.server.webhook_faults.set(kind="drop", times=4)
        for delay_seconds in (0, 2):
            caller.hook.delay_seconds = delay_seconds
            begun = time.monotonic()
            assert (await submit(caller, await caller.create())).status_code == 303
            assert time.monotonic() - begun < 1.5

    tell(story)


def test_nobody_waits_where_there_is_no_endpoint():
    async def story(caller):
        assert (await submit(caller, await caller.create())).status_code == 303

    tell(story, webhook_url=None)


@pytest.mark.parametrize(("method", "status"), [("later", "paid"), ("failing", "unpaid")])
def test_paying_later_sends_the_buyer_back_before_the_outcome(method, status):
    async def story(caller):
        made = await caller.create()
        answer = await submit(caller, made, method=method)
        assert answer.status_code == 303
        waiting = await caller.sessions.retrieve_async(made.id)
        assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
        caller.server.timetable.advance(5)
        assert (await caller.sessions.retrieve_async(made.id)).payment_status == status

    tell(story)


def test_a_declined_card_is_told_and_another_works():
    async def story(caller):
        made = await caller.create()
        answer = await submit(caller, made, method="declined")
        assert answer.status_code == 402
        assert 'role="alert">Your card was declined.' in answer.text
        assert (await submit(caller, made)).status_code == 303
        assert (await caller.sessions.retrieve_async(made.id)).payment_status == "paid"

    tell(story)


def test_paying_twice_pays_once():
    async def story(caller):
        made = await caller.create()
        first, second = await submit(caller, made), await submit(caller, made)
        assert (first.status_code, second.status_code) == (303, 303)
        assert len(caller.server.database.charges) == 1
        assert "Paid already" in (await page(caller, made)).text

    tell(story)


def test_a_code_is_applied_before_paying_or_with_it():
    async def story(caller):
        caller.acts.promotion_code("HALF", percent_off=50)
        made = await caller.create(allow_promotion_codes=True)
        wrong = await submit(caller, made, action="apply", promotion_code="WHOLE")
        assert (wrong.status_code, 'role="alert">This code is invalid.' in wrong.text) == (400, True)
        applied = await submit(caller, made, action="apply", promotion_code="half")
        assert "Pay $1.50" in applied.text
        assert "promotion_code" not in applied.text
        assert (await submit(caller, made)).status_code == 303
        assert (await caller.sessions.retrieve_async(made.id)).amount_total == 150
        together = await caller.create(allow_promotion_codes=True)
        await submit(caller, together, promotion_code="HALF")
        assert (await caller.sessions.retrieve_async(together.id)).amount_total == 150

    tell(story)


def test_there_is_nothing_to_pay_on_an_expired_or_unknown_session():
    async def story(caller):
        made = await caller.create()
        caller.acts.expire(made.id)
        assert (await page(caller, made)).status_code == 410
        assert (await submit(caller, made)).headers.get("location") is None
        assert len(caller.server.database.charges) == 0
        assert (await caller.send("GET", "/c/pay/cs_test_nobody", key=None)).status_code == 404
        assert (await caller.send("PUT", f"/c/pay/{made.id}", key=None)).status_code == 405

    tell(story)


def test_a_form_that_is_none_pays_nothing():
    async def story(caller):
        made = await caller.create()
        answer = await caller.send("POST", urlsplit(made.url).path, key=None, content=b"method=%ff")
        assert answer.status_code == 400
        assert len(caller.server.database.charges) == 0

    tell(story)


def test_where_a_shop_has_no_pages_of_its_own_there_are_some():
    async def story(caller):
        for path, title in (("/shop/done?session_id=x", "Thank you"), ("/shop/cancelled", "Not paid")):
            answer = await caller.send("GET", path, key=None)
            assert (answer.status_code, title in answer.text) == (200, True)

    tell(story)
