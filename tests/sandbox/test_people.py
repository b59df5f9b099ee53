from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.people import NAMES, SEED_MAX, make_persona, read_persona_id


def test_a_seed_makes_the_same_person_for_ever():
    # Written down, not computed: a change of words or of dice would change everybody's examples.
    person = make_persona(7, "en")
    assert (person["id"], person["name"], person["age"]) == ("persona_en_7", "Samuel Okafor", 71)
    assert person["bio"] == (
        "Samuel, 71, works as a tax adviser in Toronto. Easily delighted, fond of pottery and bouldering, and wants to "
        "learn the accordion before turning sixty."
    )


@given(st.integers(0, SEED_MAX), st.sampled_from(sorted(NAMES)))
def test_the_id_tells_seed_and_locale(seed, locale):
    person = make_persona(seed, locale)
    assert read_persona_id(person["id"]) == (seed, locale)
    assert 18 <= person["age"] <= 84
    assert len(set(person["interests"])) == 3


@pytest.mark.parametrize(
    "persona_id",
    [
        "",
        "persona",
        "persona_en_",
        "persona_xx_7",
        "persona_en_07",
        "persona_en_-7",
        "persona_en_7 ",
        "persona_en_7F",
        "persona_en_ffffffffffffffff",
        "persona_en_11111111111111111",
        "persona_en_²",
        "other_en_7",
    ],
)
def test_nobody_has_an_id_that_was_not_made(persona_id):
    assert read_persona_id(persona_id) is None
