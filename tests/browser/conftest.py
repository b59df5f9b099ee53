"""A headless Chromium of Debian's, and a shop to walk through. `make test-browser` runs what is in this folder."""

from __future__ import annotations

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.browser.pages import Browser
from tests.e2e.dev import gateway_dev

BINARY = "/usr/bin/chromium"
DRIVER = "/usr/bin/chromedriver"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=800,1000",
)


@pytest.fixture
def browser(tmp_path_factory):
    """A browser that has never been anywhere."""
    options = Options()
    options.binary_location = BINARY
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        driver.set_page_load_timeout(30)
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """A running `gateway dev`: what `make run` starts."""
    with gateway_dev(tmp_path_factory.mktemp("dev")) as running:
        yield running
