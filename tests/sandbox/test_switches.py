from __future__ import annotations

import pytest

from gateway.sandbox.switches import HONEST, BadSwitch, Switches


def test_a_header_sets_several_switches():
    assert HONEST.with_header("stall=0.5, fail=503; reset") == Switches(stall=0.5, fail=503, reset=True)


def test_a_header_goes_over_what_is_set_for_all():
    for_all = Switches(fail=500, stall=1.0)
    assert for_all.with_header("fail=0") == Switches(stall=1.0)
    assert for_all.with_header("") is for_all


def test_json_takes_what_it_shows():
    switches = Switches(fail=502, stall_body=2.5, lie_length=4, credits_used="7", truncate=True)
    assert HONEST.with_changes(switches.document()) == switches


@pytest.mark.parametrize(
    "header",
    [
        "explode",
        "fail",
        "fail=200",
        "fail=600",
        "fail=x",
        "stall=-1",
        "stall=nan",
        "stall=inf",
        "stall",
        "reset=maybe",
        "lie_length=x",
        "credits_used",
        "slow_stream=1e9",
    ],
)
def test_what_no_switch_can_be_is_refused_by_name(header):
    with pytest.raises(BadSwitch, match=header.partition("=")[0]):
        HONEST.with_header(header)


@pytest.mark.parametrize(
    "changes",
    [{"fail": 503.0}, {"stall": True}, {"reset": []}, {"credits_used": True}, {"credits_used": "a\r\nb: c"}],
)
def test_json_of_the_wrong_type_is_refused(changes):
    with pytest.raises(BadSwitch):
        HONEST.with_changes(changes)
