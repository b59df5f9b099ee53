"""gateway reconcile: what was found and done is told, and what a person must see is a failure."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from gateway.billing.reconcile import Change, Report
from gateway.credits.provider import Drift


class Reconciled:
    """Billing whose report is known."""

    def __init__(self, **found) -> None:
        self.found = found
        self.days: list[int] = []

    @asynccontextmanager
    async def open(self, config):
        yield self

    async def reconcile(self, days):
        self.days.append(days)
        return Report(days, **self.found)


def test_what_was_done_is_told(gateway):
    change = Change("order_1", "open", "fulfilled", 0, 0)
    billing = Reconciled(checkouts=7, payments=2, changes=[change], drift=[])
    outcome = gateway("reconcile", "--days", "9", open_billing=billing.open)
    assert (outcome.code, billing.days) == (0, [9])
    assert "checkouts             7\n" in outcome.out
    assert ["order_1", "open", "fulfilled", "0", "0"] in [line.split() for line in outcome.out.splitlines()]
    document = gateway("reconcile", "--json", open_billing=billing.open).document
    assert document["changes"][0]["state_after"] == "fulfilled"
    assert billing.days == [9, 3]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({"strays": ["checkout cs_1 is paid"]}, "checkout cs_1 is paid"),
        ({"failures": ["pi_1: Stripe does not answer"]}, "pi_1: Stripe does not answer"),
        ({"drift": [Drift("key_1", 40, 46)]}, "key_1      40    46      6"),
    ],
)
def test_what_a_person_must_see_is_a_failure(gateway, found, shown):
    outcome = gateway("reconcile", open_billing=Reconciled(**found).open)
    assert outcome.code == 1
    assert shown in outcome.out


def test_without_stripe_there_is_nothing_to_reconcile(gateway):
    outcome = gateway("reconcile")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "gateway: This gateway does not sell credits\n"
