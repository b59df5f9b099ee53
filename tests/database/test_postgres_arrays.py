"""An array says to PostgreSQL what the list says to Python."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.database.postgres import connect, read_parameters
from gateway.database.postgres_arrays import array, arrays, unnest

WORDS = st.text(st.sampled_from("ab\"\\,{}'NUL \t\nü"), max_size=6) | st.sampled_from(["NULL", "None", '","', "\\"])
VALUES = {
    "text": WORDS,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "bytea": st.binary(max_size=4),
}


@pytest.fixture(scope="module")
def connection(postgres):
    opened = connect(read_parameters(postgres.create()), lock_timeout_ms=500)
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", VALUES)
def test_an_array_comes_back_as_the_list_that_it_was(connection, kind):
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.lists(VALUES[kind] | st.none(), max_size=5) | st.lists(VALUES[kind], max_size=5))
    def check(values):
        (found,) = connection.execute(f"SELECT %s::{kind}[]", [array(values, kind)]).fetchone()
        assert found == values

    check()


def test_rows_come_back_as_they_were(connection):
    columns = ("id", "request_id", "key_hash")
    rows = [(1, 'a"b', b"\0"), (2, None, b""), (None, "", None)]
    taken = arrays(columns, [value for row in rows for value in row])
    query = unnest(columns).replace("$1", "%s").replace("$2", "%s").replace("$3", "%s")
    assert connection.execute(f"SELECT * FROM {query}", taken).fetchall() == rows
