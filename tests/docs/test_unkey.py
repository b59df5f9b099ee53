"""docs/unkey.md says what the gateway does: its tables are tried out."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from typing import Any

import pytest
import uvloop

from gateway.config.tree import UnkeySection
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import NOT_EXECUTED, read_failure
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.credits.unkey.spending import REFUSALS, REFUSES_THE_CALL
from gateway.credits.unkey.user_ids import decode_user_id, encode_user_id
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from gateway.doctor.unkey import MAKE_CANARY
from gateway.errors import CreditsUnavailable, GatewayError
from gateway.wire import Answer
from tests.credits.unkey.wires import ScriptedWire
from tests.docs.pages import ROOT, prose

PAGE = ROOT / "docs" / "unkey.md"
UNKNOWN = "any other"


def rows(name: str) -> list[list[str]]:
    """A table between its marks, without its head; cells as they stand."""
    table = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", PAGE.read_text(), re.DOTALL)[1]
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


CODES = {code.strip("`"): told for code, told, _ in rows("codes")}
STATUSES = {int(status): whereabouts for status, _, whereabouts in rows("statuses")}


async def told_for(code: str, path: Any, canary_key: str | None = None) -> GatewayError | None:
    """What a caller is told when Unkey says this code of the key; None: the call is forwarded."""
    wire = ScriptedWire()
    client = UnkeyClient(wire, ScriptedWire(), api_id="api_1", root_key="unkey_1", admin_root_key="unkey_2")
    database = open_database(f"sqlite:///{path / 'gateway.db'}")
    deadlines = Deadlines(asyncio.get_running_loop())
    provider = UnkeyProvider(database, deadlines, client, UnkeySettings(canary_key=canary_key))
    data = {"valid": code == "VALID", "code": code, "keyId": "key_1", "credits": 3}
    wire.outcome = Answer(200, None, json.dumps({"meta": {}, "data": data}).encode())
    await provider.open()
    try:
        await provider.hold(b"gw_key", 5, "/r", "req")
    except GatewayError as error:
        return error
    finally:
        await provider.aclose()
        await database.aclose()
        deadlines.close()
    return None


def test_every_code_the_gateway_knows_is_in_the_table():
    assert CODES.keys() == {"VALID", UNKNOWN} | REFUSALS.keys() | REFUSES_THE_CALL


@pytest.mark.parametrize("code", CODES)
def test_the_caller_is_told_what_the_table_says_of_a_code(code, tmp_path):
    error = uvloop.run(told_for("NEWLY_INVENTED" if code == UNKNOWN else code, tmp_path))
    if code == "VALID":
        assert error is None
    else:
        assert CODES[code] == f"{error.status} `{error.slug}`"


def test_not_found_is_503_where_the_canary_key_is_not_found_either(tmp_path):
    note = next(note for code, _, note in rows("codes") if code == "`NOT_FOUND`")
    error = uvloop.run(told_for("NOT_FOUND", tmp_path, canary_key="gw_canary"))
    assert isinstance(error, CreditsUnavailable)
    assert f"{error.status} `{error.slug}`" in note


def test_every_status_that_has_a_rule_of_its_own_is_in_the_table():
    assert STATUSES.keys() >= NOT_EXECUTED
    assert set(STATUSES.values()) == {"not taken", "in doubt"}


@pytest.mark.parametrize("status", STATUSES)
def test_the_credits_of_a_call_are_where_the_table_says_after_a_status(status):
    error = read_failure(Answer(status, None, b"{}"))
    assert (error.status, error.slug) == (503, "credits-unavailable")
    assert error.possibly_executed is (STATUSES[status] == "in doubt")


@pytest.mark.parametrize("row", rows("numbers"), ids=lambda row: row[0])
def test_every_number_is_the_one_in_the_code(row):
    what, shown, place = row
    file, name = place.strip("`").split(": ")
    module = importlib.import_module("gateway." + file.removesuffix(".py").replace("/", "."))
    section, _, field = name.rpartition(".")
    value = getattr(module, section).model_fields[field].default if section else getattr(module, name)
    assert float(shown.removesuffix(" s")) == value
    assert not section or f"`{field}`" in what
    assert shown.endswith(" s") == ("seconds" in name.lower())


def test_the_settings_of_unkey_are_all_explained():
    for name in UnkeySection.model_fields:
        assert re.search(rf"\b{name}\b", PAGE.read_text()), name


def test_the_names_of_users_are_encoded_as_shown():
    user_id, external_id = re.search(r"`(\S+@\S+)` is `(u8\.\S+)` there", prose(PAGE)).groups()
    assert encode_user_id(user_id) == external_id
    assert decode_user_id(external_id) == user_id


def test_the_doctor_and_the_page_make_the_canary_key_in_the_same_way():
    command = re.search(r"`(gateway keys create .*?)`", MAKE_CANARY)[1]
    assert f"\n{command}\n" in PAGE.read_text()
