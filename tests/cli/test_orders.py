"""gateway orders: what is in doubt is shown, and resolved once."""

from __future__ import annotations

import pytest

from gateway.credits.provider import Movement

AT = 1_800_000_000_000


@pytest.fixture
def doubtful(provider):
    provider.movements["grant_1"] = Movement("grant_1", "promo", "key_0", 50, "in-doubt", "t-1", "died", AT, AT)
    provider.movements["call_2"] = Movement("call_2", "spend", None, -5, "in-doubt", "01J…", "late", AT, None)
    provider.movements["grant_3"] = Movement("grant_3", "promo", "key_0", 7, "applied", "t-3", None, AT, AT)


def test_what_is_not_settled_is_listed(gateway, doubtful):
    lines = gateway("orders", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "grant_1", "call_2"]
    assert "in-doubt" in lines[1]
    assert [row["id"] for row in gateway("orders", "list", "--all", "--json").document] == [
        "grant_1",
        "call_2",
        "grant_3",
    ]


def test_one_is_shown_with_its_cause(gateway, doubtful):
    assert "cause      died\n" in gateway("orders", "show", "grant_1").out
    assert gateway("orders", "show", "call_2", "--json").document["key_id"] is None


def test_a_persons_word_resolves_it(gateway, doubtful, provider):
    outcome = gateway("orders", "resolve", "grant_1", "not-applied")
    assert (outcome.code, provider.movements["grant_1"].state) == (0, "not-applied")


def test_what_is_not_in_doubt_can_not_be_resolved(gateway, doubtful, provider):
    outcome = gateway("orders", "resolve", "grant_3", "not-applied")
    assert (outcome.code, outcome.out) == (1, "")
    assert "not in doubt but applied" in outcome.err
    assert provider.movements["grant_3"].state == "applied"


@pytest.mark.parametrize("command", [("show", "grant_9"), ("resolve", "grant_9", "applied")])
def test_an_unknown_order_is_a_failure_that_tells_where_to_look(gateway, command):
    outcome = gateway("orders", *command)
    assert outcome.code == 1
    assert outcome.err == "gateway: there is no order grant_9: see `gateway orders list --all`\n"


def test_another_word_than_applied_or_not_is_misuse(gateway, doubtful):
    assert gateway("orders", "resolve", "grant_1", "perhaps").code == 2
