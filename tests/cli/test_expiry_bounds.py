"""A time that no calendar has is refused when it is set, and breaks no list where it is stored."""

from __future__ import annotations

import pytest
import typer

from gateway.cli.expiry import read_expiry
from gateway.cli.output import shown_time


def test_a_span_beyond_the_year_9999_is_refused():
    with pytest.raises(typer.BadParameter, match="9999"):
        read_expiry("999999w", now_ms=1_790_000_000_000)


@pytest.mark.parametrize("unix_ms", [253_402_300_800_000, 2**62, -(2**62)])
def test_a_stored_time_beyond_the_calendar_is_shown_all_the_same(unix_ms):
    assert str(unix_ms) in shown_time(unix_ms)
