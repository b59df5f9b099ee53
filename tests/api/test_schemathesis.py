"""Requests made of the description, sensible and not, to a gateway as it is run, which sells through a stand-in for
Stripe: none fails, each is answered as the description says, and the books balance after all of them.

What makes the requests takes seconds to import and to think of them: tests/api/described.py, imported as a test runs.
"""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import requests
from hypothesis import HealthCheck, settings
from stripe import WebhookSignature

from gateway.api.build import openapi_document
from gateway.sandbox.stripe.server import API_KEY
from tests.api.harness import ADMIN_TOKEN, AUDIENCE, ISSUER
from tests.credits.conftest import Ledger
from tests.e2e import harness
from tests.e2e.harness import TORTURE, count
from tests.e2e.published import published_app, running_stripe

DOCUMENT = json.loads(openapi_document())
OPERATIONS = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]
SECRET = "whsec_of_the_tests"
USER = "alice"


class Seller:
    """The gateway, who may call it, and what there is in it. `turn` counts requests."""

    def __init__(self, running, app) -> None:
        self.running = running
        self.url = f"http://127.0.0.1:{running.port}"
        self.turn = 0
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = self._sign
        secret, key_id = running.create_key(10, USER)
        _, spare = running.create_key(10, USER)
        self.credentials = ADMIN_TOKEN, app.token(USER, exp=4_000_000_000), secret
        order = self._post("/checkout", {"pack": "s", "key_id": key_id})
        self.path_fields = {"key_id": spare, "order_id": order["order_id"]}
        self.body_fields = {"key_id": key_id, "pack": "s", "user_id": USER}

    def ask(self, case, checks) -> None:
        """Everybody asks it; where there is no time for that, they take turns."""
        for credential in self.credentials if TORTURE else [self.credentials[self.turn % len(self.credentials)]]:
            self.turn += 1
            headers = {"Authorization": f"Bearer {credential}"}
            case.call_and_validate(base_url=self.url, session=self.session, timeout=10, headers=headers, checks=checks)

    def _post(self, path, document):
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = self.session.post(self.url + path, json=document, headers=headers, timeout=10)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def _sign(self, request):
        """Half of the webhooks are signed, whatever they say: of those that are made real, too."""
        if request.url.endswith("/stripe-webhook") and self.turn // 2 % 2:
            body = request.body or b""
            text = (body if isinstance(body, bytes) else body.encode()).decode("utf-8", "replace")
            request.headers["Stripe-Signature"] = WebhookSignature.generate_signature_header(text, SECRET)
        return request


@pytest.fixture(scope="module")
def seller(tmp_path_factory):
    directory = tmp_path_factory.mktemp("api")
    with contextlib.ExitStack() as stack:
        app, stripe = stack.enter_context(published_app()), stack.enter_context(running_stripe())
        config = harness.settings(
            directory,
            "http://127.0.0.1:9",
            identity={
                "admin_token": ADMIN_TOKEN,
                "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": app.url},
            },
            billing={
                "packs": [{"id": "s", "name": "Small", "credits": 100, "price_cents": 500, "currency": "usd"}],
                "stripe": {"secret_key": API_KEY, "webhook_secret": SECRET, "base_url": stripe.url},
                "success_url": "https://app.example.com/done",
                "cancel_url": "https://app.example.com/back",
            },
            log={"access": False},
        )
        running = stack.enter_context(harness.gateway(directory, config))
        running.start()
        yield Seller(running, app)
        # Of all that was asked, nothing was a defect, and every credit is accounted for.
        assert running.stop() == 0
        assert "a defect" not in running.errors
        assert "Traceback" not in running.errors
        Ledger(running.database).audit()


@pytest.mark.timeout(count(300, 3600))
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_one_that_is_described(label, seller):
    from tests.api.described import AS_DESCRIBED, CHECKS, check_operation

    @settings(
        max_examples=count(4, 200),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def ask(case):
        seller.ask(case, CHECKS)
        make_real(case, seller)
        seller.ask(case, AS_DESCRIBED)

    check_operation(DOCUMENT, label, ask)


def make_real(case, seller) -> None:
    """The same about things that there are, so that it gets further than `not-found`."""
    for name, value in seller.path_fields.items():
        if name in (case.path_parameters or {}):
            case.path_parameters[name] = value
    for fields in (case.body, case.query):
        if isinstance(fields, dict):
            fields.update({name: value for name, value in seller.body_fields.items() if name in fields})
    if case.operation.path == "/stripe-webhook":
        case.body = {
            "id": f"evt_{seller.turn}",
            "object": "event",
            "type": "checkout.session.completed",
            "created": int(time.time()),
            "livemode": False,
            "data": {"object": case.body if isinstance(case.body, dict) else {"id": "cs_test_nobody"}},
        }
