"""The query by which a route asks for permissions: read as Unkey reads it, and evaluated as a truth table would."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.permissions import NAMES_MAX, NESTING_MAX, QUERY_MAX_CHARACTERS, PermissionQuery, is_permission

NAMES = ["a", "b.c", "d_e-f", "api.*", "sys:x", "/v1/y", "ANDROID", "ore", "9"]
held_sets = st.sets(st.sampled_from(NAMES))
trees = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.tuples(st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=8,
)
spaces = st.text(" \t\r\n", min_size=1, max_size=2)


def truth(tree, held):
    """The independent evaluator: of the tree from which the text was written."""
    if isinstance(tree, str):
        return tree in held
    word, parts = tree
    return (all if word == "AND" else any)([truth(part, held) for part in parts])


def write(tree, draw, *, inside=""):
    """The tree as text, with more parentheses, blanks and cases than needed."""
    if isinstance(tree, str):
        text = tree
    else:
        word, parts = tree
        spelled = draw(st.sampled_from([word, word.lower(), word.title()]))
        text = spelled.join(f"{draw(spaces)}{write(part, draw, inside=word)}{draw(spaces)}" for part in parts).strip()
        if word == "OR" and inside == "AND":
            return f"({text})"
    return f"( {text})" if draw(st.integers(0, 5)) == 0 else text


@given(st.data(), trees, held_sets)
def test_a_query_means_what_its_tree_means_however_it_is_written(data, tree, held):
    assert PermissionQuery(write(tree, data.draw)).allows(held) is truth(tree, held)


def as_python(text, held):
    """The same by Python's own grammar, whose `and` binds tighter than its `or` too; None for what is no query."""
    words = {"and": "and", "or": "or", "(": "(", ")": ")"}
    tokens = re.findall(r"[()]|[^ ()]+", text)
    spelled = " ".join(words.get(token.lower(), str(token in held)) for token in tokens)
    try:
        tree = ast.parse(spelled, mode="eval")
    except SyntaxError:
        return None
    allowed = (ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.Constant)
    if not all(isinstance(node, allowed) for node in ast.walk(tree)):
        return None
    return eval(compile(tree, "query", "eval"))


@given(
    st.lists(st.sampled_from(["a", "b", "AND", "or", "(", ")"]), max_size=12).map(" ".join),
    st.sets(st.sampled_from("ab")),
)
def test_what_is_a_query_and_what_it_means_agrees_with_another_parser(text, held):
    expected = as_python(text, held)
    if expected is None:
        with pytest.raises(ValueError, match=r"character|the end"):
            PermissionQuery(text)
    else:
        assert PermissionQuery(text).allows(held) is expected


@given(st.text(max_size=60))
def test_any_text_is_a_query_or_is_refused_without_being_quoted(text):
    said = ""
    try:
        PermissionQuery(text)
    except ValueError as error:
        said = str(error)
    assert re.fullmatch(r"|(character \d+|the end): (expected|allowed are) [a-zA-Z0-9_:.,*/() -]+", said)


@pytest.mark.parametrize(
    ("text", "held", "allowed"),
    [
        ("personas.write AND (eu OR us)", {"personas.write", "us"}, True),
        ("personas.write AND (eu OR us)", {"personas.write"}, False),
        ("a OR b AND c", {"a"}, True),
        ("a AND b OR c", {"c"}, True),
        ("(a OR b) AND c", {"a"}, False),
        ("api.*", {"api.read"}, False),
        ("api.read", {"api.*"}, False),
        ("api.*", {"api.*"}, True),
        ("a", {"A"}, False),
        ("android", {"android"}, True),
        ("a\n and\tb", {"a", "b"}, True),
    ],
)
def test_and_binds_tighter_than_or_and_names_are_compared_to_the_letter(text, held, allowed):
    assert PermissionQuery(text).allows(held) is allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the end: expected a permission or ("),
        (" \t", "the end: expected a permission or ("),
        ("a b", "character 3: expected AND, OR or the end"),
        ("a)", "character 2: expected AND, OR or the end"),
        ("a AND", "the end: expected a permission or ("),
        ("  OR a", "character 3: expected a permission or ("),
        ("()", "character 2: expected a permission or ("),
        ("a AND (b", "the end: expected AND, OR or the ) of the ( at character 7"),
        ("(a b)", "character 4: expected AND, OR or the ) of the ( at character 1"),
        ("a @ b", "character 3: allowed are letters, digits, _ : . * / - and parentheses"),
        ("a\xa0AND b", "character 2: allowed are letters, digits, _ : . * / - and parentheses"),
        ("a AND ä", "character 7: allowed are letters, digits, _ : . * / - and parentheses"),
    ],
)
def test_a_bad_query_is_told_by_position(text, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        PermissionQuery(text)


def test_length_names_and_nesting_are_bounded():
    nested = "(" * NESTING_MAX + "a" + ")" * NESTING_MAX
    assert PermissionQuery(nested).allows({"a"})
    names = " OR ".join(["a"] * NAMES_MAX)
    assert PermissionQuery(names).allows({"a"})
    longest = "a" * QUERY_MAX_CHARACTERS
    assert PermissionQuery(longest).allows({longest})
    for text in (f"({nested})", f"{names} OR a", longest + "a", "(" * QUERY_MAX_CHARACTERS):
        with pytest.raises(ValueError, match="at most"):
            PermissionQuery(text)


@pytest.mark.parametrize(("name", "fits"), [("a", True), ("x" * 100, True), ("", False), ("x" * 101, False)])
def test_a_permission_has_1_to_100_characters(name, fits):
    assert is_permission(name) is fits
