"""gateway credits: grants are bounded, applied once, and never taken back by accident."""

from __future__ import annotations

import pytest


@pytest.fixture
def key(gateway):
    return gateway("keys", "create", "--user", "ann", "--credits", "100", "--json").document["key_id"]


def test_a_balance_is_shown(gateway, key):
    assert "available  100\n" in gateway("credits", "show", key).out
    shown = gateway("credits", "show", key, "--json").document
    assert shown == {"key_id": key, "user_id": "ann", "available": 100, "held": 0, "unlimited": False}


def test_a_grant_is_added_and_told(gateway, key, provider):
    outcome = gateway("credits", "grant", key, "50", "--reason", "sorry", "--reference", "t-1")
    assert outcome.code == 0
    assert "amount     +50\n" in outcome.out
    assert "balance    150\n" in outcome.out
    assert "reference  t-1\n" in outcome.out
    assert provider.keys[key].available == 150


def test_the_same_reference_again_changes_nothing(gateway, key, provider):
    for _ in range(2):
        gateway("credits", "grant", key, "50", "--reason", "sorry", "--reference", "t-1")
    assert provider.keys[key].available == 150


def test_without_a_reference_a_new_one_is_made_and_told(gateway, key):
    references = {gateway("credits", "grant", key, "1", "--reason", "x", "--json").document["reference"] for _ in "ab"}
    assert len(references) == 2


def test_credits_are_taken_back_only_as_an_adjustment(gateway, key, provider):
    assert gateway("credits", "grant", key, "-5", "--reason", "x").code == 2
    assert provider.keys[key].available == 100
    assert gateway("credits", "grant", key, "-5", "--reason", "x", "--kind", "adjustment").code == 0
    assert provider.keys[key].available == 95


@pytest.mark.parametrize(
    "amount", ["0", "1000000001", "-1000000001", "1.5", "1e3", "x", "true", "99999999999999999999"]
)
def test_impossible_amounts_are_not_granted(gateway, key, provider, amount):
    outcome = gateway("credits", "grant", key, amount, "--reason", "x", "--kind", "adjustment")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert provider.entries == []


def test_a_grant_needs_its_reason_and_knows_its_kinds(gateway, key, provider):
    assert "--reason" in gateway("credits", "grant", key, "5").err
    assert gateway("credits", "grant", key, "5", "--reason", "x", "--kind", "purchase").code == 2
    assert gateway("credits", "grant", key, "5", "--raeson", "x").code == 2
    assert provider.entries == []


def test_the_history_is_newest_first(gateway, key):
    for amount in ("1", "2", "3"):
        gateway("credits", "grant", key, amount, "--reason", f"r{amount}")
    assert [entry["amount"] for entry in gateway("credits", "history", key, "--json").document] == [3, 2, 1]
    assert [e["amount"] for e in gateway("credits", "history", key, "--before", "3", "--json").document] == [2, 1]
    outcome = gateway("credits", "history", key, "--limit", "2")
    assert [line.split()[4] for line in outcome.out.splitlines()[1:]] == ["+3", "+2"]
    assert "--before 2" in outcome.err


@pytest.mark.parametrize("command", [["show"], ["history"], ["grant"]])
def test_an_unknown_key_is_one_line_and_exit_code_1(gateway, command):
    arguments = ["5", "--reason", "x"] if command == ["grant"] else []
    outcome = gateway("credits", *command, "key_9", *arguments)
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "gateway: there is no key key_9\n")
