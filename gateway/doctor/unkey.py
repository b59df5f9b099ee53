"""Unkey: does it answer, does it know the root keys, and may they do what the gateway asks of them?

What may be asked is found out without changing anything. Unkey looks a key up first, then at the root key's
permissions, then at what is asked (its source, v2_keys_*). So only a key that exists tells "may not" from "not there",
which is the canary key; and what is asked can be such that it is refused last of all:

    updateCredits  increment by nothing               400 if it may update keys, 403 if not
    createKey      refilled monthly, on no day        400 if it may create keys, 404 if not (or if there is no such API)

Deleting has no such form.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from gateway.config.tree import TlsSection, UnkeySection
from gateway.credits.unkey.canary import NOBODY
from gateway.credits.unkey.errors import NO_SUCH_API, read_failure
from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.remote_keys import read_key
from gateway.credits.unkey.strict_json import parse_object
from gateway.credits.unkey.verdict import Verdict, read_verdict
from gateway.doctor.diagnosis import Diagnosis, State, fail, ok, warn
from gateway.doctor.reach import OutOfReach, reach, shown_ms
from gateway.doctor.unkey_api import NoAnswer, UnkeyApi
from gateway.wire import Answer

CONNECT_SECONDS = 2.0
SLOW_SECONDS = 0.5
"""Every call waits for one answer of Unkey."""

MAKE_CANARY = (
    "make a key (`gateway keys create --user canary --credits 0`) and put its secret into credits.unkey.canary_key"
)
TWO_ROOT_KEYS = "unkey: one root key for calls, one for administration"
NOT_TRIED = "not tried, for want of a harmless way: revoking a spare key tells (`gateway keys revoke KEY_ID`)"


class UnkeyExamination:
    """Asks with the config's root keys. `run` gives the diagnoses."""

    def __init__(self, section: UnkeySection, api: UnkeyApi) -> None:
        self._section = section
        self._api = api
        self._root_key = section.root_key.get_secret_value()
        admin = section.admin_root_key
        self._admin_root_key = admin.get_secret_value() if admin is not None else self._root_key
        self._has_two = self._admin_root_key != self._root_key
        self._admin_name = "admin_root_key" if self._has_two else "root_key"

    async def run(self) -> AsyncIterator[Diagnosis]:
        """Nothing more is asked of an Unkey that does not answer, nor with a root key that it does not know."""
        reachable = await self._examine_reach()
        yield reachable
        if reachable.state is State.FAIL:
            return
        verdict, diagnosis = await self._verify()
        yield diagnosis
        if verdict is None and not self._has_two:
            return
        canary_id = verdict.key_id if verdict is not None else ""
        canary_id = canary_id or await self._find_canary()
        if verdict is not None:
            yield self._examine_canary(verdict, canary_id)
            yield await _answered(TWO_ROOT_KEYS, self._examine_privilege())
        is_known, diagnosis = await self._examine_read()
        yield diagnosis
        if is_known:
            create, update = self._may("create and rotate keys"), self._may("update keys")
            examinations = self._examine_create(create), self._examine_update(update, canary_id)
            for diagnosis in await asyncio.gather(*map(_answered, (create, update), examinations)):
                yield diagnosis
            yield ok(self._may("delete keys"), NOT_TRIED)

    async def _examine_reach(self) -> Diagnosis:
        what = f"unkey: {self._section.base_url}"
        loop = asyncio.get_running_loop()
        try:
            await reach(self._section.base_url, TlsSection(), CONNECT_SECONDS)
            await self._api.is_alive()  # on a connection that then is there for the one that is timed
            started = loop.time()
            answer = await self._api.is_alive()
            seconds = loop.time() - started
        except (OutOfReach, NoAnswer) as error:
            return fail(what, f"{error}. While it is so every call that needs a key is 503")
        if answer.status != 200:
            return fail(what, f"/v2/liveness answered {answer.status}: see credits.unkey.base_url")
        text = f"answers in {shown_ms(seconds)}"
        if seconds > SLOW_SECONDS:
            return warn(what, f"{text}, and every call waits for it: see where the gateway stands and its network")
        return ok(what, text)

    async def _verify(self) -> tuple[Verdict | None, Diagnosis]:
        """What Unkey says of the canary key, or of a key that nobody has, at no cost; and of the root key."""
        what = "unkey: root_key"
        canary = self._section.canary_key
        key = canary.get_secret_value() if canary is not None else NOBODY.decode("ascii")
        if not _is_sendable(self._root_key):
            return None, fail(what, "it has characters that no header can carry: see how it was copied")
        try:
            answer = await self._api.ask("keys.verifyKey", {"key": key, "credits": {"cost": 0}}, self._root_key)
            if answer.status != 200:
                return None, _refused(what, answer)
            return read_verdict(answer.body), ok(what, "is known")
        except (NoAnswer, Nonsense) as error:
            return None, fail(what, f"verifying gets no answer to rely on: {error}")

    async def _find_canary(self) -> str:
        """Unkey's id of the canary key, as its administrator is told; "" where that is not known."""
        key = self._section.canary_key
        if key is None or not _is_sendable(self._admin_root_key):
            return ""
        try:
            answer = await self._api.ask("keys.whoami", {"key": key.get_secret_value()}, self._admin_root_key)
            return read_key(parse_object(answer.body).get("data")).key_id if answer.status == 200 else ""
        except (NoAnswer, Nonsense):
            return ""

    def _examine_canary(self, verdict: Verdict, canary_id: str) -> Diagnosis:
        what = "unkey: root_key may verify keys"
        if self._section.canary_key is None:
            return warn(
                what,
                "not known: Unkey says NOT_FOUND both of an unknown key and to a root key that may not verify. To tell"
                f" them apart, {MAKE_CANARY}",
            )
        lacks = f"the root key lacks api.{self._section.api_id}.verify_key"
        if verdict.code == "NOT_FOUND" and canary_id:
            return fail(what, f"{lacks}: the canary key is there, and Unkey says NOT_FOUND of it, as of every key")
        if verdict.code == "NOT_FOUND":
            return fail(
                what,
                f"the canary key is NOT_FOUND. Either it was deleted: {MAKE_CANARY}. Or {lacks}: Unkey says NOT_FOUND"
                " then, of every key",
            )
        return ok(what, "the canary key is found" + ("" if verdict.is_valid else f" ({verdict.code}, which will do)"))

    async def _examine_read(self) -> tuple[bool, Diagnosis]:
        """Also whether Unkey knows the root key at all."""
        what = self._may("read keys")
        if not _is_sendable(self._admin_root_key):
            return False, fail(what, "it has characters that no header can carry: see how it was copied")
        try:
            answer = await self._list(self._admin_root_key)
        except NoAnswer as error:
            return False, fail(what, str(error))
        if answer.status == 200:
            return True, ok(what, "keys of the API are listed")
        if _is_api_not_found(answer):
            return True, fail(what, self._missing("read_key and read_api"))
        return False, _refused(what, answer)

    async def _examine_create(self, what: str) -> Diagnosis:
        unfit = {"remaining": 0, "refill": {"interval": "monthly", "amount": 1}}
        # Should it be made after all, then nobody can use it.
        body = {"apiId": self._section.api_id, "name": "gateway doctor", "enabled": False, "credits": unfit}
        answer = await self._api.ask("keys.createKey", body, self._admin_root_key)
        if _is_invalid_input(answer):
            return ok(what, "an order that can't be carried out is refused for that alone")
        if answer.status == 200:
            return warn(what, "it may, and has made one named `gateway doctor`, disabled: delete it at Unkey")
        if _is_api_not_found(answer):
            return fail(what, self._missing("create_key"))
        return _refused(what, answer)

    async def _examine_update(self, what: str, canary_id: str) -> Diagnosis:
        if not canary_id:
            return warn(what, f"not known: only a key that is there tells. To find out, {MAKE_CANARY}")
        answer = await self._api.ask(
            "keys.updateCredits", {"keyId": canary_id, "operation": "increment"}, self._admin_root_key
        )
        if _is_invalid_input(answer):
            return ok(what, "an order that can't be carried out is refused for that alone")
        if answer.status == 404:
            return warn(what, f"not known: the canary key is not there for it. {MAKE_CANARY.capitalize()}")
        if answer.status == 403:
            return fail(what, f"it lacks api.{self._section.api_id}.update_key: credits can't be granted")
        return _refused(what, answer)

    async def _examine_privilege(self) -> Diagnosis:
        if not self._has_two:
            return warn(
                TWO_ROOT_KEYS,
                "one root key does everything. Give root_key nothing but verify_key, and the rest to a second one, in"
                " credits.unkey.admin_root_key",
            )
        answer = await self._list(self._root_key)
        if answer.status == 200:
            needed = f"api.{self._section.api_id}.verify_key"
            return warn(TWO_ROOT_KEYS, f"root_key may read keys too; all it needs is {needed}")
        if answer.status == 403 or _is_api_not_found(answer):
            return ok(TWO_ROOT_KEYS, "two, and root_key may not read keys")
        return _refused(TWO_ROOT_KEYS, answer)

    async def _list(self, root_key: str) -> Answer:
        return await self._api.ask("apis.listKeys", {"apiId": self._section.api_id, "limit": 1}, root_key)

    def _may(self, do: str) -> str:
        return f"unkey: {self._admin_name} may {do}"

    def _missing(self, permissions: str) -> str:
        return (
            f"Unkey finds no API {self._section.api_id} for it: either credits.unkey.api_id is wrong, or it lacks"
            f" {permissions} there"
        )


async def _answered(what: str, examination: Coroutine[Any, Any, Diagnosis]) -> Diagnosis:
    try:
        return await examination
    except NoAnswer as error:
        return fail(what, f"not known: {error}")


def _is_sendable(root_key: str) -> bool:
    return root_key.isascii() and root_key.isprintable() and " " not in root_key


def _is_api_not_found(answer: Answer) -> bool:
    return answer.status == 404 and _type_of(answer).endswith(NO_SUCH_API)


def _is_invalid_input(answer: Answer) -> bool:
    """Refused for what was asked, and not because the root key could not be read."""
    return answer.status == 400 and _type_of(answer).endswith("/application/invalid_input")


def _type_of(answer: Answer) -> str:
    try:
        error = parse_object(answer.body).get("error")
    except Nonsense:
        return ""
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else ""


def _refused(what: str, answer: Answer) -> Diagnosis:
    """By an answer that says nothing of what was asked."""
    return (warn if answer.status == 429 else fail)(what, read_failure(answer).cause)
