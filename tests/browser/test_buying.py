"""Buying credits as a person does it: the call from the README, the page, and what the ledger says then."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from tests.e2e.harness import until

PACK_CREDITS = 100
LATER_SECONDS = 20


def order_of(dev, quantity=1):
    """An order by the line that `gateway dev` prints, for so many packs."""
    _, purchase = dev.lines
    asked = json.loads(purchase.arguments[-1]) | {"quantity": quantity}
    answer = httpx.post(purchase.url, json=asked, headers={"Authorization": f"Bearer {dev.key}"}, trust_env=False)
    assert answer.status_code == 201, answer.text
    return answer.json()


def available(dev):
    return dev.ask("/credits")["available"]


def state(dev, order):
    return dev.ask(f"/orders/{order['order_id']}")["state"]


def came_back(browser, order):
    """The buyer is at the shop's page, which knows which order it is about."""
    browser.wait_for_heading("Thank you")
    query = parse_qs(urlsplit(browser.url).query)
    assert query["order_id"] == [order["order_id"]]
    assert query["session_id"] == [order["checkout_id"]]


def test_the_line_that_was_printed_buys_a_pack_in_the_browser(browser, dev):
    before = available(dev)
    _, purchase = dev.lines
    order = purchase.paste().json()
    browser.open(order["url"])
    assert browser.heading == "Pay $1.00"
    browser.press("Pay $1.00")
    came_back(browser, order)
    until(lambda: state(dev, order) == "fulfilled", 10)
    assert available(dev) == before + PACK_CREDITS
    assert browser.complaints() == []


@pytest.mark.parametrize("quantity", [3, 7])
def test_a_pack_times_a_quantity_is_paid_and_credited_once_and_stands_in_the_history(browser, dev, quantity):
    before = available(dev)
    order = order_of(dev, quantity)
    browser.open(order["url"])
    assert any(row.startswith("Starter") and f" {quantity} " in row for row in browser.rows())
    assert f"Total ${quantity}.00" in browser.rows()
    browser.fill("E-mail", "ada@b.example")
    browser.choose("Card that works")
    browser.press(f"Pay ${quantity}.00")
    came_back(browser, order)
    until(lambda: state(dev, order) == "fulfilled", 10)
    assert available(dev) == before + PACK_CREDITS * quantity
    newest = dev.ask("/credits/transactions")["transactions"][0]
    assert (newest["kind"], newest["amount"]) == ("purchase", PACK_CREDITS * quantity)
    assert newest["balance_after"] == before + PACK_CREDITS * quantity
    assert newest["reference"] == f"order:{order['order_id']}"
    browser.open(order["url"])
    assert browser.heading == "Paid already"
    browser.follow("Back to the shop")
    came_back(browser, order)
    assert available(dev) == before + PACK_CREDITS * quantity


@pytest.mark.parametrize(
    ("method", "outcome", "packs"),
    [
        ("Bank debit that succeeds a little later", "fulfilled", 2),
        ("Bank debit that fails a little later", "failed", 0),
    ],
)
def test_who_pays_later_gets_the_credits_when_the_money_came_and_not_before(browser, dev, method, outcome, packs):
    before = available(dev)
    order = order_of(dev, 2)
    browser.open(order["url"])
    browser.choose(method)
    browser.press("Pay $2.00")
    came_back(browser, order)
    until(lambda: state(dev, order) == "awaiting_payment", 3)
    assert available(dev) == before
    until(lambda: state(dev, order) == outcome, LATER_SECONDS)
    assert available(dev) == before + PACK_CREDITS * packs


def test_who_turns_back_pays_nothing_and_may_still_pay(browser, dev):
    before = available(dev)
    order = order_of(dev)
    browser.open(order["url"])
    browser.follow("Back without paying")
    browser.wait_for_heading("Not paid")
    assert parse_qs(urlsplit(browser.url).query)["order_id"] == [order["order_id"]]
    assert (state(dev, order), available(dev)) == ("open", before)
    browser.open(order["url"])
    browser.press("Pay $1.00")
    came_back(browser, order)
    until(lambda: available(dev) == before + PACK_CREDITS, 10)


def test_a_declined_card_is_told_and_another_works(browser, dev):
    before = available(dev)
    order = order_of(dev)
    browser.open(order["url"])
    browser.choose("Card that is declined")
    browser.press("Pay $1.00")
    assert browser.alert() == "Your card was declined."
    assert browser.faults() == []
    assert available(dev) == before
    browser.choose("Card that works")
    browser.press("Pay $1.00")
    came_back(browser, order)
    until(lambda: available(dev) == before + PACK_CREDITS, 10)


def test_the_keyboard_is_enough_to_pay(browser, dev):
    before = available(dev)
    order = order_of(dev)
    browser.open(order["url"])
    browser.type(Keys.TAB)
    assert browser.driver.switch_to.active_element.get_attribute("type") == "email"
    browser.tab_to("Pay $1.00")
    browser.enter()
    came_back(browser, order)
    until(lambda: available(dev) == before + PACK_CREDITS, 10)


def test_without_an_address_that_can_be_one_nothing_is_paid(browser, dev):
    before = available(dev)
    order = order_of(dev)
    browser.open(order["url"])
    browser.fill("E-mail", "nobody")
    browser.driver.find_element("id", "pay").click()
    assert browser.driver.execute_script("return document.querySelector('#email').validity.valid") is False
    assert (browser.heading, state(dev, order), available(dev)) == ("Pay $1.00", "open", before)
