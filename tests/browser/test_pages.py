"""The pages can be read and used by everybody, load nothing from elsewhere and make the browser complain of nothing."""

from __future__ import annotations

import httpx
import pytest

from tests.browser.test_buying import order_of

WIDTH_PX = 360
"""Of a small telephone."""


@pytest.fixture
def pages(dev):
    """Where the pages are, by what they are."""
    stripe = dev.address("stripe")
    return {
        "docs": dev.address("gateway") + "/docs",
        "pay": order_of(dev)["url"],
        "done": f"{stripe}/shop/done",
        "cancelled": f"{stripe}/shop/cancelled",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["docs", "pay", "done", "cancelled"])
def test_a_page_is_accessible_and_the_browser_has_nothing_to_complain_of(browser, pages, page, scheme):
    browser.darken(scheme)
    browser.open(pages[page])
    assert browser.faults() == []
    assert browser.loaded() == []
    assert browser.complaints() == []


@pytest.mark.parametrize("page", ["docs", "pay"])
def test_a_page_fits_a_telephone(browser, pages, page):
    browser.narrow(WIDTH_PX)
    browser.open(pages[page])
    assert browser.faults() == []


def test_the_description_of_the_api_shows_every_call(browser, dev, pages):
    browser.open(pages["docs"])
    described = httpx.get(dev.address("gateway") + "/openapi.json", trust_env=False).json()
    text = browser.text
    calls = [(method.upper(), path) for path, methods in described["paths"].items() for method in methods]
    assert ("POST", "/checkout") in calls
    assert [call for call in calls if f"{call[0]} {call[1]}" not in text] == []
    browser.follow("/openapi.json")
    assert '"openapi"' in browser.text


WRONG = """<h3>x</h3><input><a href='%23gone'></a>
<p style='color:%23aaa;background:%23fff'>pale</p>
<div style='width:2000px'>wide</div>"""
SAID = (
    "language",
    "title",
    "main",
    "h1",
    "level",
    "label",
    "nothing says",
    "link to nothing",
    "contrast 2.32",
    "wider",
)


def test_the_check_sees_what_is_wrong(browser):
    browser.open("data:text/html," + WRONG)
    faults = " ".join(browser.faults())
    assert [fault for fault in SAID if fault not in faults] == []
