"""What can go wrong with Unkey, and what every status of an answer means.

    GatewayError
    ├── CreditsUnavailable 503 ── UnkeyUnavailable: no verdict. Was the request possibly executed?
    └── UnkeyRefused 500: Unkey understood what it was asked to write, and won't. Surely not executed

`cause` may name Unkey's error type and title. It never has its detail, which may repeat what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.strict_json import parse_object
from gateway.errors import CreditsUnavailable, GatewayError

if TYPE_CHECKING:
    from gateway.wire import Answer

NOT_EXECUTED = frozenset({400, 401, 403, 404, 412, 413, 429})
"""Statuses with which Unkey says that nothing was done. 408 and 499 come after the work may have begun."""
REFUSALS = frozenset({400, 404, 409, 412, 422})
"""Of these, those that speak of what was asked, and not of the root key or the load."""
AUTHORIZATION_TYPES = ("/authentication/missing", "/authentication/malformed")
"""Unkey answers 400, not 401, to a root key that it can't read."""
NO_SUCH_API = "/data/api_not_found"
RETRY_AFTER_SECONDS_MAX = 60
WORD_MAX_CHARACTERS = 200

UNREADABLE_ROOT_KEY = "Unkey can't read the root key: see credits.unkey.root_key and admin_root_key"
UNKNOWN_API = "Unkey does not know the API, or not for this root key: see credits.unkey.api_id"
UNKNOWN_ROOT_KEY = "Unkey does not know the root key: see credits.unkey.root_key and admin_root_key"
FORBIDDEN_ROOT_KEY = "Unkey does not let the root key do this: see its permissions, and whether it is disabled"


class UnkeyUnavailable(CreditsUnavailable):
    """Unkey did not answer, or not with anything to rely on.

    `possibly_executed`: it may have done what it was asked, and no repeat is safe.
    """

    def __init__(self, *, cause: str = "", possibly_executed: bool = True, retry_after_seconds: int = 1) -> None:
        super().__init__(cause=cause, retry_after_seconds=retry_after_seconds)
        self.possibly_executed = possibly_executed
        if possibly_executed:
            self.detail = "The call was not forwarded. Try again shortly."


class UnkeyRefused(GatewayError):
    """Unkey refuses to write what it was asked to. `unkey_status` and `unkey_type` are its words for why."""

    def __init__(self, *, cause: str, unkey_status: int, unkey_type: str) -> None:
        super().__init__("The keeper of keys and credits refused this.", cause=cause)
        self.unkey_status = unkey_status
        self.unkey_type = unkey_type

    @property
    def is_not_found(self) -> bool:
        """The key is not there. Any other 404, say of a wrong base URL, is not this."""
        return self.unkey_status == 404 and self.unkey_type.endswith("/data/key_not_found")


def read_refusal(answer: Answer) -> UnkeyUnavailable | UnkeyRefused:
    """The error in an answer, other than 200, to something that was to be written or looked up."""
    problem_type, title = _read_problem(answer.body)
    if answer.status in REFUSALS and problem_type and not problem_type.endswith((*AUTHORIZATION_TYPES, NO_SUCH_API)):
        cause = f"Unkey answered {answer.status} ({problem_type}): {title}"
        return UnkeyRefused(cause=cause, unkey_status=answer.status, unkey_type=problem_type)
    return read_failure(answer)


def read_failure(answer: Answer) -> UnkeyUnavailable:
    """The error in an answer, other than 200, to a verify: it says nothing of the key."""
    return UnkeyUnavailable(
        cause=_cause(answer.status, _read_problem(answer.body)[0]),
        possibly_executed=answer.status not in NOT_EXECUTED,
        retry_after_seconds=min(max(answer.retry_after_seconds or 1, 1), RETRY_AFTER_SECONDS_MAX),
    )


def _cause(status: int, problem_type: str) -> str:
    if status == 400 and problem_type.endswith(AUTHORIZATION_TYPES):
        return UNREADABLE_ROOT_KEY
    if status == 404 and problem_type.endswith(NO_SUCH_API):
        return UNKNOWN_API
    if status == 401:
        return UNKNOWN_ROOT_KEY
    if status == 403:
        return f"{FORBIDDEN_ROOT_KEY} ({problem_type})" if problem_type else FORBIDDEN_ROOT_KEY
    if status == 429:
        return "Unkey's limit for this workspace is used up"
    if status in REFUSALS and not problem_type:
        return f"Status {status} without Unkey's own error document: see credits.unkey.base_url"
    return f"Unkey answered {status} ({problem_type})" if problem_type else f"Unkey answered {status}"


def _read_problem(body: bytes) -> tuple[str, str]:
    """The error's type and title; empty where it is none of Unkey's."""
    try:
        error = parse_object(body).get("error")
    except Nonsense:
        return "", ""
    if not isinstance(error, dict):
        return "", ""
    return _word(error.get("type")), _word(error.get("title"))


def _word(value: object) -> str:
    """Fit for a line of the log."""
    if not isinstance(value, str):
        return ""
    return "".join(character for character in value[:WORD_MAX_CHARACTERS] if character.isprintable())
