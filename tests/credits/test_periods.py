"""Days and months of the UTC calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.credits.periods import day_after, day_of, month_after, month_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(moment):
    return (moment - EPOCH) // timedelta(milliseconds=1)


@given(st.integers(0, ms(datetime(2100, 1, 1, tzinfo=UTC))))
def test_a_time_lies_in_the_day_and_the_month_that_the_calendar_says(time_ms):
    moment = EPOCH + timedelta(milliseconds=time_ms)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight.replace(day=1)
    assert day_of(time_ms) == ms(midnight)
    assert month_of(time_ms) == ms(first)
    assert day_after(ms(midnight)) == ms(midnight + timedelta(days=1))
    following = (
        first.replace(year=first.year + 1, month=1) if first.month == 12 else first.replace(month=first.month + 1)
    )
    assert month_after(ms(first)) == ms(following)
    assert month_of(ms(following) - 1) == ms(first)
