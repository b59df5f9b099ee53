"""Requests made of the description, sensible and not: none fails, each is answered as the description says."""

from __future__ import annotations

import asyncio
import json

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from gateway.api.build import openapi_document
from tests.api.harness import ADMIN_TOKEN
from tests.api.server import ApiServer
from tests.credits.conftest import Ledger
from tests.e2e.harness import count

load_all_checks()

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ApiServer(Ledger(tmp_path_factory.mktemp("api") / "gateway.db")) as running:
        yield running


@pytest.fixture(scope="module")
def credentials(server):
    """One of each kind."""
    made = asyncio.run_coroutine_threadsafe(server.api.new_key("alice"), server.loop).result(10)
    users = server.api.app.token("alice", exp=4_000_000_000)
    return ADMIN_TOKEN, users, made["api_key"]


schema = schemathesis.openapi.from_dict(json.loads(openapi_document()))


@schema.parametrize()
@settings(
    max_examples=count(8, 400),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
def test_every_answer_is_one_that_is_described(case, credentials, server):
    for credential in credentials:
        headers = {"Authorization": f"Bearer {credential}"}
        if case.operation.path == "/stripe-webhook":
            headers["Stripe-Signature"] = "good"
        case.call_and_validate(base_url=server.url, headers=headers, checks=CHECKS, timeout=10)
