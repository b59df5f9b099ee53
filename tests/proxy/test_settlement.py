"""What an upstream says that it used is worth between nothing and the hold, whatever it says."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import BadUpstreamResponse
from gateway.proxy.route import Route
from gateway.proxy.settlement import release_word, told_cost
from gateway.upstreams.transport import UpstreamRequest
from tests.proxy.harness import TOLD, section

HOLD = TOLD.hold


def route(**rest) -> Route:
    return Route(section("/a", **{"cost": TOLD, **rest}), None, None, body_max_bytes=1)


TELLING = route()


def told(*values):
    return told_cost(TELLING, [(b"x-other", b"1"), *((b"x-credits-used", value) for value in values)], "req_1")


@settings(deadline=None)
@given(st.integers(-(10**19), 10**19))
@example(0)
@example(HOLD)
def test_a_number_is_clamped_to_the_hold(number):
    expected = min(max(number, 0), HOLD) if abs(number) < 10**18 else HOLD
    assert told(b"%d" % number) == expected


@settings(deadline=None)
@given(st.binary(max_size=40))
@example(b"")
@example(b"+3")
@example(b"3 ")
@example(b"\xd9\xa3")
@example(b"3\n")
@example(b"1_0")
def test_whatever_is_said_costs_between_nothing_and_the_hold(value):
    cost = told(value)
    assert cost is not None
    assert 0 <= cost <= HOLD
    assert cost == HOLD or value.lstrip(b"-").isdigit()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4), min_size=2, max_size=4))
def test_two_answers_are_nonsense(values):
    assert told(*values) == HOLD


def test_nothing_said_is_not_the_same_as_nothing_used():
    assert told() is None
    assert told(b"0") == 0


def test_nonsense_is_logged_under_the_request_id_without_its_words(caplog):
    told(b"\x1b[31mdrop table")
    assert "req_1" in caplog.text
    assert "drop table" not in caplog.text


ANSWERED = [
    (("5xx",), 500, "5xx"),
    (("5xx",), 599, "5xx"),
    (("5xx",), 499, ""),
    (("5xx",), 200, ""),
    (("4xx",), 404, "4xx"),
    (("4xx",), 500, ""),
    (("4xx", "5xx"), 500, "5xx"),
    ((), 500, ""),
    ((), 404, ""),
    (("unreachable", "timeout"), 503, ""),
]


@pytest.mark.parametrize(("release_on", "status", "word"), ANSWERED)
def test_which_statuses_give_the_credits_back(release_on, status, word):
    assert release_word(route(release_on=release_on), UpstreamRequest(b"GET", b"/", []), status) == word


@pytest.mark.parametrize(
    ("status", "word"), [(101, ""), (200, ""), (204, ""), (302, "no_upgrade"), (403, "no_upgrade"), (500, "5xx")]
)
def test_an_upgrade_that_was_refused_is_free_but_an_answer_is_not(status, word):
    request = UpstreamRequest(b"GET", b"/", [], upgrade=b"websocket")
    assert release_word(route(), request, status) == word


def test_a_broken_answer_counts_as_unreachable():
    assert BadUpstreamResponse().reason == "unreachable"
