"""What is said about a broken config: broken.txt has the cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import parse_config
from gateway.config.problem import ConfigError

ENVIRONMENT = {"ADMIN_TOKEN": "hunter4", "PORT_WORD": "hunter5", "PORT_LARGE": "70000", "EMPTY": ""}


def read_cases():
    text = Path(__file__).with_name("broken.txt").read_text()
    for case in text.split("\n=== ")[1:]:
        name, rest = case.split("\n", 1)
        config, problems = rest.split("-->\n")
        yield pytest.param(config, problems.strip().splitlines(), id=name)


@pytest.mark.parametrize(("text", "expected"), list(read_cases()))
def test_a_broken_config_is_refused_with_every_problem_in_its_place(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), ENVIRONMENT)
    assert [str(problem).removeprefix("config.yaml:") for problem in caught.value.problems] == expected
    assert "hunter" not in str(caught.value)


def test_there_are_cases():
    assert len(list(read_cases())) > 150
