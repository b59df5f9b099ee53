"""Where credits are bought beside `gateway dev`: at a stand-in for Stripe, so that nobody needs an account."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli.stand_in import local_port, stand_in

if TYPE_CHECKING:
    from gateway.config.tree import Config

PORT = 9002
WEBHOOK_PATH = "/stripe-webhook"
PACK = {"id": "starter", "name": "Starter", "credits": 100, "price_cents": 100, "currency": "usd"}
_PATIENCE_SECONDS = 5


@contextmanager
def shop(config: Config) -> Iterator[tuple[Config, str | None]]:
    """Run the stand-in where the config expects Stripe, or on a port of its own where it has no `billing.stripe`.

    Gives the config to serve and the stand-in's address; None (and the config as it was) where Stripe is not on this
    machine.
    """
    stripe = config.billing.stripe
    wanted = PORT if stripe is None else local_port(stripe.base_url)
    if wanted is None:
        yield config, None
        return
    with stand_in("gateway.sandbox.stripe", port=wanted) as address:
        yield _sold_at(config, address), address


def send_webhooks(config: Config, stand_in_address: str, gateway_address: str) -> None:
    """Have the stand-in tell the gateway what happens there, signed with the config's secret.

    Once the gateway listens: only then is its port known. The secret goes through the socket, not through arguments,
    which everybody on the machine can read.
    """
    stripe = config.billing.stripe
    assert stripe is not None  # _sold_at
    endpoint = {"url": gateway_address + WEBHOOK_PATH, "secrets": [stripe.webhook_secret.get_secret_value()]}
    request = urllib.request.Request(f"{stand_in_address}/_sandbox/endpoints", json.dumps(endpoint).encode())  # noqa: S310 - our own stand-in's
    # No proxy: the stand-in is on this machine, whatever http_proxy says.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_PATIENCE_SECONDS):
        pass


def _sold_at(config: Config, address: str) -> Config:
    """The config with that address as Stripe's, a pack if it has none, and pages to come back to."""
    from gateway.config.tree import PackSection, StripeSection
    from gateway.sandbox.stripe.page import CANCELLED_PATH, DONE_PATH
    from gateway.sandbox.stripe.server import API_KEY, WEBHOOK_SECRET

    billing = config.billing
    stripe = billing.stripe
    if stripe is None:
        stripe = StripeSection.model_validate({"secret_key": API_KEY, "webhook_secret": WEBHOOK_SECRET})
    changes = {
        "stripe": stripe.model_copy(update={"base_url": address}),
        "packs": billing.packs or (PackSection.model_validate(PACK),),
        "success_url": billing.success_url or address + DONE_PATH,
        "cancel_url": billing.cancel_url or address + CANCELLED_PATH,
    }
    return config.model_copy(update={"billing": billing.model_copy(update=changes)})
