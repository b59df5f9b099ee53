"""gateway keys: the secret is shown once, and money is never granted silently."""

from __future__ import annotations

import time

import pytest
import typer

from gateway.cli.expiry import read_expiry
from gateway.credits.provider import SpendCap, SpendCaps
from tests.cli.conftest import RESETS_AT


def test_a_new_key_is_told_with_its_secret_and_its_credits(gateway, provider):
    outcome = gateway("keys", "create", "--user", "ann", "--credits", "5", "--name", "laptop")
    assert outcome.code == 0
    assert outcome.out.count("API_KEY=gw_secret1\n") == 1
    assert outcome.out.count("gw_secret1") == 1
    assert "available    5\n" in outcome.out
    assert outcome.err == ""
    assert provider.keys["key_0"].available == 5
    assert provider.keys["key_0"].name == "laptop"


def test_without_credits_a_key_gets_the_signup_credits_and_says_so(gateway, provider):
    outcome = gateway("keys", "create", "--user", "ann")
    assert provider.keys["key_0"].available == 70
    assert "available    70\n" in outcome.out


def test_an_unlimited_key_is_asked_for_by_name(gateway, provider):
    outcome = gateway("keys", "create", "--user", "ann", "--unlimited")
    assert provider.keys["key_0"].available is None
    assert "available    unlimited\n" in outcome.out


def test_as_json_a_new_key_is_one_document_with_the_secret(gateway):
    outcome = gateway("keys", "create", "--user", "ann", "--credits", "0", "--json")
    assert outcome.document["api_key"] == "gw_secret1"
    assert outcome.document["key_id"] == "key_0"
    assert outcome.document["available"] == 0
    assert outcome.document["unlimited"] is False


@pytest.mark.parametrize("credits", ["-1", "1000000001", "1.5", "1e3", "x", "", "9223372036854775808"])
def test_impossible_amounts_make_no_key(gateway, provider, credits):
    outcome = gateway("keys", "create", "--user", "ann", "--credits", credits)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert provider.opened == 0


@pytest.mark.parametrize("user", ["", "a b", "a\r\nX-Gateway-User: b", "ä", "a\u200bb", "x" * 129])
def test_a_user_id_that_is_no_header_value_makes_no_key(gateway, provider, user):
    outcome = gateway("keys", "create", "--user", user)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert provider.opened == 0


def test_unlimited_and_an_amount_exclude_each_other(gateway, provider):
    assert gateway("keys", "create", "--user", "ann", "--credits", "5", "--unlimited").code == 2
    assert provider.opened == 0


def test_a_key_gets_the_permissions_that_are_named(gateway, provider):
    outcome = gateway("keys", "create", "--user", "ann", "--permission", "a.read", "--permission", "eu")
    assert provider.keys["key_0"].permissions == ("a.read", "eu")
    assert "permissions  a.read eu\n" in outcome.out
    assert "permissions  a.read eu\n" in gateway("keys", "show", "key_0").out
    assert gateway("keys", "show", "key_0", "--json").document["permissions"] == ["a.read", "eu"]
    assert gateway("keys", "list", "--json").document[0]["permissions"] == ["a.read", "eu"]
    assert gateway("keys", "create", "--user", "ann", "--json").document["permissions"] == []


def test_a_key_gets_the_caps_that_are_named_and_shows_what_is_spent_of_them(gateway, provider):
    outcome = gateway("keys", "create", "--user", "ann", "--day-cap", "10", "--month-cap", "0")
    assert provider.keys["key_0"].spend_caps == SpendCaps(SpendCap(10, 3, RESETS_AT), SpendCap(0, 3, RESETS_AT))
    shown = gateway("keys", "show", "key_0").out
    for text in (outcome.out, shown):
        assert "day cap      10, 3 spent, resets 2027-01-16 00:00:00Z\n" in text
        assert "month cap    0, 3 spent, resets 2027-01-16 00:00:00Z\n" in text
    caps = {
        "day": {"cap": 10, "spent": 3, "resets_at": RESETS_AT},
        "month": {"cap": 0, "spent": 3, "resets_at": RESETS_AT},
    }
    assert gateway("keys", "show", "key_0", "--json").document["spend_caps"] == caps
    assert gateway("keys", "list", "--json").document[0]["spend_caps"] == caps
    assert gateway("keys", "list").out.splitlines()[1].split()[6:8] == ["3/10", "3/0"]
    gateway("keys", "create", "--user", "ann")
    assert gateway("keys", "show", "key_1", "--json").document["spend_caps"] == {"day": None, "month": None}
    assert "day cap      -\n" in gateway("keys", "show", "key_1").out
    assert gateway("keys", "list").out.splitlines()[2].split()[6:8] == ["-", "-"]


def test_caps_are_changed_and_lifted_one_by_one(gateway, provider):
    gateway("keys", "create", "--user", "ann", "--day-cap", "10")
    for arguments, day, month in [
        (["--month", "500"], 10, 500),
        (["--day", "0"], 0, 500),
        (["--day", "none", "--month", "1000000000"], None, 10**9),
        (["--month", "none"], None, None),
    ]:
        outcome = gateway("keys", "cap", "key_0", *arguments)
        assert outcome.code == 0
        caps = provider.keys["key_0"].spend_caps
        assert (caps.day and caps.day.cap, caps.month and caps.month.cap) == (day, month)
        assert f"day cap      {'-' if day is None else day}" in outcome.out
    outcome = gateway("keys", "cap", "key_0", "--day", "7", "--json")
    assert outcome.document["spend_caps"]["day"]["cap"] == 7


@pytest.mark.parametrize("value", ["-1", "1000000001", "1.5", "1e3", "x", "", "None", "١", "99999999999999999999"])
@pytest.mark.parametrize("command", [["create", "--user", "ann", "--{}-cap"], ["cap", "key_0", "--{}"]])
@pytest.mark.parametrize("period", ["day", "month"])
def test_what_is_no_cap_changes_nothing(gateway, provider, command, period, value):
    *rest, option = command
    outcome = gateway("keys", *rest, option.format(period), value)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert option.format(period) in outcome.err
    assert provider.opened == 0


def test_a_cap_of_nothing_named_or_of_nobody_is_an_error(gateway, provider):
    assert gateway("keys", "cap", "key_0").code == 2
    assert provider.opened == 0
    outcome = gateway("keys", "cap", "key_0", "--day", "5")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "key_0" in outcome.err


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "a/b", "x" * 101])
def test_a_name_that_is_no_permission_makes_no_key(gateway, provider, name):
    outcome = gateway("keys", "create", "--user", "ann", "--permission", "fine", "--permission", name)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "--permission" in outcome.err
    assert provider.opened == 0


def test_an_expiry_is_a_span_or_a_date(gateway, provider):
    before = time.time_ns() // 1_000_000
    gateway("keys", "create", "--user", "ann", "--expires", "30d")
    assert 0 <= provider.keys["key_0"].expires_at - before - 30 * 86_400_000 < 60_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", 5_400_000),
        ("1h", 3_600_000),
        ("2w", 1_209_600_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-02T01:00:00Z", 90_000_000),
        ("1970-01-02T01:00:00+01:00", 86_400_000),
    ],
)
def test_an_expiry_is_read_in_utc(text, expected):
    assert read_expiry(text, now_ms=0) == expected


@pytest.mark.parametrize("text", ["", "soon", "0d", "-1d", "30", "1y", "9999999d", "2026-13-01", "1970-01-01", "١d"])
def test_what_is_no_time_to_come_is_refused(text):
    with pytest.raises(typer.BadParameter):
        read_expiry(text, now_ms=1)


def test_keys_are_listed_in_aligned_columns_without_secrets(gateway):
    gateway("keys", "create", "--user", "ann", "--name", "a\x1b[2J\nb")
    gateway("keys", "create", "--user", "bob", "--unlimited")
    outcome = gateway("keys", "list")
    lines = outcome.out.splitlines()
    titles = ["KEY_ID", "USER", "NAME", "STARTS", "AVAILABLE", "HELD", "DAY", "MONTH", "STATE", "CREATED", "EXPIRES"]
    assert lines[0].split() == titles
    assert len(lines) == 3
    assert len({line.index(word) for line, word in zip(lines[1:], ("ann", "bob"), strict=True)}) == 1
    assert "secret" not in outcome.out
    assert all(line.isprintable() for line in lines), "a name can't take over the terminal"


def test_keys_as_json_are_a_list(gateway):
    assert gateway("keys", "list", "--json").document == []
    gateway("keys", "create", "--user", "ann")
    (key,) = gateway("keys", "list", "--user", "ann", "--json").document
    assert key["user_id"] == "ann"
    assert gateway("keys", "list", "--user", "bob", "--json").document == []


def test_a_cut_list_says_how_to_continue(gateway):
    for _ in range(3):
        gateway("keys", "create", "--user", "ann")
    outcome = gateway("keys", "list", "--limit", "2")
    assert "--after key_1" in outcome.err
    assert len(gateway("keys", "list", "--after", "key_1", "--json").document) == 1


def test_a_key_is_shown_revoked_and_rotated(gateway, provider):
    gateway("keys", "create", "--user", "ann")
    assert gateway("keys", "show", "key_0", "--json").document["user_id"] == "ann"
    assert "user_id      ann\n" in gateway("keys", "show", "key_0").out
    assert "API_KEY=gw_rotated\n" in gateway("keys", "rotate", "key_0").out
    assert gateway("keys", "rotate", "key_0", "--json").document["api_key"] == "gw_rotated"
    assert gateway("keys", "revoke", "key_0").out == "key_0 is revoked\n"
    assert provider.keys == {}


@pytest.mark.parametrize("command", ["show", "revoke", "rotate"])
def test_an_unknown_key_is_one_line_and_exit_code_1(gateway, command):
    outcome = gateway("keys", command, "key_9")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "gateway: there is no key key_9\n")


def test_a_secret_given_for_a_key_id_is_not_repeated(gateway):
    assert "gw_pasted" not in gateway("keys", "show", "gw_pasted").err
