"""Schemathesis without its plugin for pytest, which thinks of all requests in every process that collects the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.generation.hypothesis.builder import InvalidHeadersExampleMark, MissingPathParameters
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

load_all_checks()

AS_DESCRIBED = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
CHECKS = [*AS_DESCRIBED, negative_data_rejection, ignored_auth]


def check_operation(document: dict[str, Any], label: str, check: Callable[..., None]) -> None:
    """`check(case)` with the description's examples of `POST /this`, with all its edges, and with some at random."""
    schema = schemathesis.openapi.from_dict(document)
    test = build_operation_test(
        config=schema.config,
        operation=schema.find_operation_by_label(label),
        test_func=check,
        given_kwargs={},
        feedback=FeedbackSources(constants_value_source=make_constants_value_source(schema)),
    )
    test()
    # It leaves out what can't be sent, and says so here.
    assert not InvalidHeadersExampleMark.is_set(test)
    assert not MissingPathParameters.is_set(test)
