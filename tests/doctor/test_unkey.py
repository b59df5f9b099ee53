"""What the doctor finds out about Unkey and the root keys; and that Unkey's keys and credits stay as they were."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.config.tree import Config
from gateway.doctor import checkup, unkey_api
from gateway.doctor import unkey as module
from gateway.doctor.diagnosis import Diagnosis
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from gateway.wire import Answer
from tests.doctor.conftest import answering, gathered
from tests.upstreams.hostile import refusing_port

CALLS, ADMIN = "unkey_calls_s3cret", "unkey_admin_s3cret"
ADMINISTERS = ("create_key", "read_key", "read_api", "update_key", "delete_key")
KNOWN = "unkey: root_key"
VERIFY = "unkey: root_key may verify keys"
TWO = "unkey: one root key for calls, one for administration"


def may(*actions: str) -> RootKey:
    return RootKey(tuple(f"api.{API_ID}.{action}" for action in actions))


class Account:
    """An Unkey with a customer's key and a canary, and the gateway's section for it."""

    def __init__(self, calls: RootKey | None, admin: RootKey | None) -> None:
        given = {CALLS: calls, ADMIN: admin, "somebody": RootKey()}
        self.server = UnkeyServer(root_keys={key: may for key, may in given.items() if may is not None})
        self.key_id, self.key = self.server.create_key(100)
        self.canary_id, self.canary = self.server.create_key(0)
        self.section: dict[str, Any] = {"api_id": API_ID, "root_key": CALLS, "admin_root_key": ADMIN}
        self.section["canary_key"] = self.canary

    def snapshot(self) -> str:
        """All that a call could have changed, but when a key was used last."""
        database = self.server.database
        keys = [{**database.key_document(key), "lastUsedAt": 0} for key in database.keys]
        spent = [database.balances.spent[key_id] for key_id in database.balances.key_ids()]
        return json.dumps([keys, spent], sort_keys=True)

    async def examine(self, **changes: Any) -> dict[str, tuple[str, str]]:
        section = {**self.section, "base_url": self.server.url, **changes}
        section = {name: value for name, value in section.items() if value is not None}
        before = self.snapshot()
        found = await gathered(examination(section))
        assert self.snapshot() == before, "the doctor changed something"
        told = [(diagnosis.what, (str(diagnosis.state), diagnosis.text)) for diagnosis in found]
        assert len(dict(told)) == len(told), "told twice"
        for secret in (ROOT_KEY, CALLS, ADMIN, self.key, self.canary):
            assert secret not in str(told)
        return dict(told)


def examination(section: dict[str, Any]) -> Any:
    config = Config.model_validate({"credits": {"provider": "unkey", "unkey": section}})
    (found,) = [one for one in checkup.examinations_of(config) if one.name == "unkey"]
    return found.run()


MAY_VERIFY, MAY_ADMINISTER = may("verify_key"), may(*ADMINISTERS)


def examined(
    calls: RootKey | None = MAY_VERIFY,
    admin: RootKey | None = MAY_ADMINISTER,
    prepare: Any = None,
    **section: Any,
) -> dict[str, tuple[str, str]]:
    async def main() -> dict[str, tuple[str, str]]:
        account = Account(calls, admin)
        if prepare is not None:
            prepare(account)
        await account.server.start()
        try:
            return await account.examine(**section)
        finally:
            await account.server.aclose()

    return asyncio.run(main())


def failing(found: dict[str, tuple[str, str]]) -> list[str]:
    return [what for what, (state, _) in found.items() if state == "FAIL"]


def test_a_set_up_by_the_book_is_ok_throughout():
    found = examined()
    assert {state for state, _ in found.values()} == {"ok"}
    assert [what for what in found if "127.0.0.1" in what]
    assert {KNOWN, VERIFY, TWO} <= found.keys()
    assert {f"unkey: admin_root_key may {what}" for what in ("read keys", "update keys", "delete keys")} <= found.keys()


def test_one_root_key_for_everything_is_told():
    found = examined(calls=may("verify_key", *ADMINISTERS), admin_root_key=None)
    assert found[TWO][0] == "warn"
    assert failing(found) == []
    assert found["unkey: root_key may create and rotate keys"][0] == "ok"
    assert examined(calls=may("verify_key", *ADMINISTERS), admin_root_key=CALLS)[TWO][0] == "warn"


def test_a_root_key_for_calls_that_may_do_more_is_told():
    assert examined(calls=may("verify_key", "read_key", "read_api"))[TWO][0] == "warn"


def test_without_a_canary_key_it_says_what_is_not_known_and_how_to_make_one():
    found = examined(calls=may(), canary_key=None)
    for what in (VERIFY, "unkey: admin_root_key may update keys"):
        state, text = found[what]
        assert state == "warn"
        assert "gateway keys create --user canary --credits 0" in text


def test_a_missing_permission_to_verify_is_told_as_what_it_is():
    state, text = examined(calls=may())[VERIFY]
    assert state == "FAIL"
    assert f"lacks api.{API_ID}.verify_key: the canary key is there" in text


def test_a_canary_key_that_was_deleted_is_not_blamed_on_the_root_key_alone():
    found = examined(prepare=lambda it: it.server.call("keys.deleteKey", {"keyId": it.canary_id}, "somebody"))
    state, text = found[VERIFY]
    assert state == "FAIL"
    assert "deleted" in text
    assert "verify_key" in text
    assert found["unkey: admin_root_key may update keys"][0] == "warn"


def test_a_canary_key_that_is_disabled_serves():
    disable = {"enabled": False}
    found = examined(
        prepare=lambda it: it.server.call("keys.updateKey", {"keyId": it.canary_id, **disable}, "somebody")
    )
    assert found[VERIFY] == ("ok", "the canary key is found (DISABLED, which will do)")


@pytest.mark.parametrize(
    ("missing", "what", "said"),
    [
        ("read_key", "read keys", "read_key and read_api"),
        ("read_api", "read keys", "read_key and read_api"),
        ("create_key", "create and rotate keys", "create_key"),
        ("update_key", "update keys", "update_key"),
    ],
)
def test_each_permission_that_administration_lacks_is_told_by_its_name(missing, what, said):
    found = examined(admin=may(*(action for action in ADMINISTERS if action != missing)))
    assert failing(found) == [f"unkey: admin_root_key may {what}"]
    assert said in found[f"unkey: admin_root_key may {what}"][1]


def test_an_api_that_is_not_there_is_told_with_the_setting():
    found = examined(api_id="api_other")
    assert failing(found) == [
        "unkey: admin_root_key may read keys",
        "unkey: admin_root_key may create and rotate keys",
    ]
    assert "credits.unkey.api_id" in found["unkey: admin_root_key may read keys"][1]


def test_a_root_key_that_unkey_does_not_know_is_told_once():
    found = examined(calls=None)
    assert failing(found) == [KNOWN]
    assert "does not know the root key" in found[KNOWN][1]
    assert failing(examined(admin=None)) == ["unkey: admin_root_key may read keys"]
    assert failing(examined(calls=None, admin_root_key=None)) == [KNOWN]


def test_a_root_key_that_is_disabled_is_told():
    disabled = RootKey(may("verify_key").permissions, enabled=False)
    state, text = examined(calls=disabled)[KNOWN]
    assert (state, "disabled" in text) == ("FAIL", True)


def test_a_root_key_that_no_header_can_carry_is_told():
    found = examined(root_key="unkey_with a space", admin_root_key="unkey_ünkey")
    assert failing(found) == [KNOWN, "unkey: admin_root_key may read keys"]
    assert "no header can carry" in found[KNOWN][1]


def test_the_workspaces_limit_is_no_failure_of_the_set_up():
    def limit(account):
        account.server.faults.set(kind="limited", call="verifyKey")
        account.server.faults.set(kind="limited", call="listKeys")

    found = examined(prepare=limit)
    assert failing(found) == []
    assert found[KNOWN][0] == found["unkey: admin_root_key may read keys"][0] == "warn"


@pytest.mark.parametrize("kind", ["error", "malformed", "reset", "closed", "silent"])
@pytest.mark.parametrize(
    ("call", "unknown"),
    [
        ("verifyKey", KNOWN),
        ("listKeys", "unkey: admin_root_key may read keys"),
        ("createKey", "unkey: admin_root_key may create and rotate keys"),
        ("updateCredits", "unkey: admin_root_key may update keys"),
    ],
)
def test_a_call_without_an_answer_is_told_and_the_others_are_made(kind, call, unknown, monkeypatch):
    monkeypatch.setattr(unkey_api, "CALL_SECONDS", 0.3)
    found = examined(prepare=lambda it: it.server.faults.set(kind=kind, call=call, takes_effect=False))
    told = failing(found)
    assert unknown in told
    # Keys are also listed to see whether the root key for calls may.
    assert set(told) <= {unknown, TWO}
    assert any(state == "ok" for what, (state, _) in found.items() if "may" in what)


def test_an_unkey_that_takes_the_impossible_order_tells_what_it_made(monkeypatch):
    """Unkey may change. What it makes then can be used by nobody, and is named."""
    made = []

    async def make(self, call, body, root_key):
        if call != "keys.createKey":
            return await ask(self, call, body, root_key)
        made.append(body)
        return Answer(200, None, b'{"data":{"keyId":"key_1","key":"secret"}}')

    ask = unkey_api.UnkeyApi.ask
    monkeypatch.setattr(unkey_api.UnkeyApi, "ask", make)
    state, text = examined()["unkey: admin_root_key may create and rotate keys"]
    assert (state, "delete it at Unkey" in text) == ("warn", True)
    assert made[0]["enabled"] is False
    assert made[0]["credits"]["remaining"] == 0


def test_unkey_that_is_slow_is_told(monkeypatch):
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    (state, text) = next(iter(examined().values()))
    assert (state, "where the gateway stands" in text) == ("warn", True)


def unreachable(base_url: str) -> Diagnosis:
    section = {"api_id": API_ID, "root_key": CALLS, "base_url": base_url}
    (found,) = asyncio.run(gathered(examination(section)))
    return found


def test_an_unkey_that_is_down_is_asked_nothing_more():
    with refusing_port() as port:
        found = unreachable(f"http://127.0.0.1:{port}")
    assert found.state == "FAIL"
    assert "the connection is refused" in found.text
    assert "503" in found.text


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.test/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2 << 20),
    ],
    ids=["closed", "ssh", "missing", "moved", "cut", "another", "endless"],
)
def test_what_is_not_unkey_is_a_failure(answer, monkeypatch):
    monkeypatch.setattr(unkey_api, "CALL_SECONDS", 1.0)
    with answering(answer) as port:
        section = {"api_id": API_ID, "root_key": CALLS, "base_url": f"http://127.0.0.1:{port}"}
        assert asyncio.run(gathered(examination(section)))[-1].state == "FAIL"
