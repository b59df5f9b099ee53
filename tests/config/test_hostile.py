"""Files that were made to hurt the reader: refused quickly, in words, without a traceback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.document import DEPTH_MAX, NODES_MAX
from gateway.config.load import FILE_MAX_BYTES, load_config, parse_config
from gateway.config.problem import ConfigError

DATA = Path(__file__).parent.parent / "data"


def refused(content: bytes, environ=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(content, environ or {})
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def stopwatch():
    """Fails when the test used more than 5 s of processor time: the box may be busy, but the reader must not be."""
    before = time.process_time()
    yield
    assert time.process_time() - before < 5


def test_the_alias_bomb_is_refused_at_its_anchors_and_aliases(stopwatch):
    problems = refused((DATA / "yaml-bomb.yaml").read_bytes())
    assert "config.yaml:2:4: a: anchors are not allowed" in problems
    assert "config.yaml:3:8: b[0]: aliases are not allowed: write the value out" in problems


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "{a: " * 5000, "- " * 5000 + "x", "? " * 5000 + "x", "".join(f"{' ' * n}a:\n" for n in range(1000))],
    ids=["lists", "mappings", "block lists", "keys", "block mappings"],
)
def test_deep_nesting_is_refused_without_deep_recursion(text, stopwatch):
    (problem,) = refused(text.encode())
    assert problem.endswith(f"nested deeper than {DEPTH_MAX} levels")


def test_many_values_are_refused_before_they_cost_much(stopwatch):
    (problem,) = refused(b"a: [" + b"1," * (FILE_MAX_BYTES // 2 - 10) + b"1]")
    assert problem.endswith(f"more than {NODES_MAX} values")


def test_a_100_mb_file_is_refused_without_being_read(tmp_path, stopwatch):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ConfigError, match="is larger than 1048576 bytes"):
        load_config(path, {})


def test_a_megabyte_of_comment_is_read(stopwatch):
    assert parse_config(b"#" + b"x" * (FILE_MAX_BYTES - 1), {}).routes == ()


def test_an_endless_file_is_refused(stopwatch):
    with pytest.raises(ConfigError, match="is larger than"):
        load_config("/dev/zero", {})


def test_what_is_no_file_is_named(tmp_path):
    for path, why in ((tmp_path, "is a directory"), (tmp_path / "x", "no such file or directory"), ("a\0b", "not a")):
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert why in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"log:\n  level: \x00\n", "config.yaml:2:1: the file is not text: it has a NUL byte"),
        (b"log:\n  level: \x1b[2J\n", "config.yaml:2:10: control characters are not allowed"),
        (b"log:\n  level: \xff\n", "config.yaml:2:1: the file is not UTF-8 text"),
        ("log: {}\n".encode("utf-16"), "config.yaml:1:1: the file is not text: it has a NUL byte"),
        (b"%YAML 1." + b"1" * 5000 + b"\n---\n{}\n", "config.yaml:1:9: this is not valid YAML"),
    ],
)
def test_what_is_no_text_is_refused_at_its_line(content, expected):
    assert refused(content) == [expected]


def test_a_byte_order_mark_does_not_move_the_columns():
    assert refused(b"\xef\xbb\xbflgo: {}\n") == ['config.yaml:1:1: lgo: unknown key; did you mean "log"?']


def never_more_than_a_config_error(content: bytes, environ: dict[str, str]) -> None:
    problems = None
    try:
        parse_config(content, environ)
    except ConfigError as error:
        problems = error.problems
    if problems is None:
        return
    assert problems
    assert list(problems) == sorted(problems)
    for problem in problems:
        assert str(problem).isprintable(), "one line, and nothing that a terminal obeys"
        assert problem.line >= 1
        assert problem.column >= 1


@given(st.binary(max_size=200))
def test_any_bytes_are_a_config_or_a_config_error(content):
    never_more_than_a_config_error(content, {})


YAMLISH = st.text(alphabet=st.sampled_from("ab01:-?{}[],&*!|>'\"%@`#$\\~. \n\t\u0085\u2028é"), max_size=60)


@given(YAMLISH)
@example('"\\UFFFFFFFF"')
@example('"\\ud800": "\\ud800"')
@example("${")
@example("? - : -")
@example("<<: {a: 1}")
@example("!<%FF> a")
def test_any_punctuation_is_a_config_or_a_config_error(text):
    never_more_than_a_config_error(text.encode(), {"a": "b"})


WORDS = """
server port workers admin database url credits provider unkey root_key upstreams a targets routes path methods upstream
cost hold settle public release_on billing packs id stripe secret_key log level ${A} SettledCost [key]
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["GET", "a", "/p", "/{x:path}", "http://x", "${A}", "${B:-1}", "$${", "sqlite:///x", "local", ""]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)
SECTIONS = ["server", "admin", "database", "credits", "identity", "upstreams", "routes", "billing", "log"]


@given(st.dictionaries(st.sampled_from(SECTIONS), TREES))
def test_any_tree_is_a_config_or_a_config_error(tree):
    import yaml

    text = yaml.safe_dump(tree, allow_unicode=True)
    never_more_than_a_config_error(text.encode("utf-8", "surrogatepass"), {"A": "1", "C": os.devnull})
