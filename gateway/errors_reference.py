"""docs/errors.md: every problem of the error tree, and every word the gateway says about credits.

`python -m gateway.errors_reference` prints it. Status, title, headers and members are read from the errors themselves;
what is written here is when they happen and what to do. A test holds that no error and no word is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors import (
    TYPE_PREFIX,
    BadRequest,
    BadUpstreamResponse,
    BillingNotConfigured,
    BillingUnavailable,
    BodyTooLarge,
    Conflict,
    CreditsUnavailable,
    ExpectationFailed,
    Forbidden,
    GatewayError,
    HeadTooLarge,
    IdentityUnavailable,
    InternalError,
    Invalid,
    InvalidKey,
    KeyDisabled,
    KeyExpired,
    MethodNotAllowed,
    MissingKey,
    NoHealthyTarget,
    NoRoute,
    NotFound,
    NotImplementedHere,
    OutOfCredits,
    Overloaded,
    RateLimited,
    RequestTimeout,
    SpendCapReached,
    TooManyAtOnce,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
    UriTooLong,
    VersionNotSupported,
)
from gateway.quota import Quota


@dataclass(frozen=True, slots=True)
class Explanation:
    """One problem: `example` is the error as it is raised, the rest is for people."""

    example: GatewayError
    when: str
    what_to_do: str
    is_for_later: bool = False
    """The name is taken, but nothing in this version answers with it."""


EXPLANATIONS = (
    Explanation(
        BadRequest(),
        "The request is not HTTP/1.1 as RFC 9112 writes it, could be read in two ways (framing, `Host`, the spelling of"
        " the path), or its `Connection` names `Host` or the framing.",
        "Mend the client. `detail` says what is wrong. The connection is closed where its framing is in doubt.",
    ),
    Explanation(
        MissingKey(),
        "The route needs an API key and the request has none; or one of the gateway's own paths needs to know who is"
        " calling.",
        "Send the key as `Authorization: Bearer <key>` or `X-API-Key: <key>`, one of them.",
    ),
    Explanation(
        InvalidKey(),
        "The key is unknown, revoked, was rotated away, has an impossible form, or two keys came. On the gateway's own"
        " paths also: a token that has expired, is not for this gateway or is signed by nobody it trusts.",
        "Check that the whole secret was copied; else create or rotate a key. Don't repeat the call.",
    ),
    Explanation(
        OutOfCredits(available=3, held=0, cost=5),
        "The key's available credits are less than the route's cost. Nothing was forwarded.",
        "Buy or grant credits. Where `held` is not 0, calls in flight may give some back. Repeating alone won't help.",
    ),
    Explanation(
        SpendCapReached("day", 100, spent=98, cost=5, resets_at=1_893_456_000_000),
        "The call would bring what the key has spent in this day or month (UTC), calls in flight included, over its"
        " spend cap. Nothing was forwarded.",
        "Wait until `resets_at`, or have the key's owner change the cap. Calls in flight may give some back. Buying"
        " credits won't help.",
    ),
    Explanation(KeyDisabled(), "The key was switched off.", "Ask the owner of the gateway."),
    Explanation(KeyExpired(), "The key's expiry has passed.", "Use another key."),
    Explanation(
        Forbidden(),
        "The key lacks the route's permission; or Unkey refuses it by an IP whitelist, or its workspace is disabled; or"
        " whoever is calling may not do this to the gateway's own resources.",
        "Use a key that has it; `detail` says who may.",
    ),
    Explanation(
        NoRoute(),
        "No route of config.yaml has this path, nor has the gateway itself.",
        "Check the path. `gateway routes` lists what is served.",
    ),
    Explanation(
        NotFound(),
        "The key, the order or the history that a path of the gateway's own names is not there, or is another user's.",
        "Check the id, and whose token or key you send.",
    ),
    Explanation(
        MethodNotAllowed(("GET",)),
        "A route, or the gateway itself, has this path, but for other methods; or the method is `CONNECT`, `TRACE` or"
        " `QUERY`.",
        "Use a method of `Allow`.",
    ),
    Explanation(
        RequestTimeout(),
        "The head took longer than `server.head_timeout_seconds`, or for `server.body_idle_timeout_seconds` the body"
        " was silent or slower than `server.body_min_bytes_per_second`.",
        "Send faster; the connection is closed. What had been held for the call is given back.",
    ),
    Explanation(
        Conflict(),
        "A `reference` was used before for other content; or a request with the same `Idempotency-Key` is still being"
        " worked on, or (`done`) was done and charged, and its answer not kept; or the user has as many API keys as"
        " `identity.keys_per_user_max` allows.",
        "Use a new reference, or repeat exactly what was said the first time. Where there is a `Retry-After`, repeat"
        " the same request after it.",
    ),
    Explanation(
        BodyTooLarge(10_485_760),
        "The body is, or says it is, longer than the route's `body_max_bytes`, or, with an `Idempotency-Key`, than its"
        " `idempotency.body_max_bytes`.",
        "Send less. A length that was declared is refused before any credit moves.",
    ),
    Explanation(
        UnsupportedMediaType(),
        "A body for one of the gateway's own paths does not say that it is `application/json`, or is compressed.",
        "Send it with `Content-Type: application/json`, as it is.",
    ),
    Explanation(UriTooLong(), "The target is longer than `server.uri_max_bytes`.", "Move the content into the body."),
    Explanation(
        ExpectationFailed(), "`Expect` has another value than `100-continue`.", "Leave `Expect` out or send that value."
    ),
    Explanation(
        Invalid(errors={"credits": "a whole number from 0 to 1000000000"}),
        "A value is well-formed but not allowed; or an `Idempotency-Key` was used before for another request.",
        "`errors` says, by field, what is wrong.",
    ),
    Explanation(
        RateLimited(Quota("key", 10, 60, 0, 1)),
        "The key has used up the route's `rate_limit`, or one of its own at Unkey; or its address has used up the"
        " route's `rate_limit_per_address`.",
        "Wait for `Retry-After` seconds. `RateLimit-Policy` and `RateLimit` say which limit it is.",
    ),
    Explanation(
        TooManyAtOnce(limit=4),
        "As many calls of this key are running as the route's `concurrency_per_key` allows. Nothing was charged.",
        "Wait until one of them has ended.",
    ),
    Explanation(
        HeadTooLarge(),
        "The head has more than `server.head_max_bytes` or `server.head_max_fields`; or trailers or chunk extensions"
        " grow without end.",
        "Send fewer or shorter header fields.",
    ),
    Explanation(
        InternalError(),
        "A defect of the gateway. A hold of the call was given back.",
        "Report it with the `instance`; the log has the cause under that id.",
    ),
    Explanation(
        NotImplementedHere(),
        "The method is none of those in config.yaml, or `Transfer-Encoding` is another one than `chunked`.",
        "Use another method or coding.",
    ),
    Explanation(
        UpstreamUnreachable(),
        "No connection to the upstream, or it closed the connection before its answer.",
        "See `released`. Repeat the call if repeating it is safe: the upstream may have seen it.",
    ),
    Explanation(
        BadUpstreamResponse(),
        "What the upstream sent is not valid HTTP, or more than `response_head_max_bytes`.",
        "Ops: mend the upstream; the log says what was wrong. See `released`.",
    ),
    Explanation(
        NoHealthyTarget(),
        "All connections to the target were busy for `connection_wait_seconds`, or the queue for one was full; or no"
        " target can be connected to; or the health check says that all are down. Nothing was sent, unless an attempt"
        " before it was.",
        "Try again after `Retry-After`. Ops: the log says which. `connections_max`, more targets, or"
        " docs/operations.md, “Several targets”.",
    ),
    Explanation(
        CreditsUnavailable(),
        "The database did not take the hold or the settlement within `credits.hold_timeout_seconds`; or Unkey, where it"
        " keeps the keys, gave no verdict within `credits.unkey.verify_timeout_seconds`, is known to be down, or finds"
        " not even the canary key. No answer is delivered unsettled; `released` is there if the upstream had been"
        " called.",
        "Try again after `Retry-After`. Ops: docs/operations.md, “The database does not answer” and “Unkey is down”.",
    ),
    Explanation(
        IdentityUnavailable(),
        "The app's public keys (`identity.jwt.jwks_url`) can't be had, so no token can be checked.",
        "Try again after `Retry-After`. Ops: the log says why.",
    ),
    Explanation(
        Overloaded(),
        "More calls come than the gateway can serve (docs/operations.md, *Limits and overload*), more run than"
        " `server.calls_max`, more connections are open than `server.connections_max`, or the gateway is stopping.",
        "Try again after `Retry-After`; on the same connection, unless it was closed.",
    ),
    Explanation(BillingUnavailable(), "The payment provider can't be reached.", "Try again later."),
    Explanation(BillingNotConfigured(), "The gateway sells no credits.", "Ask its owner."),
    Explanation(
        UpstreamTimeout(),
        "No connection within `connect_timeout_seconds`, no response head within `response_timeout_seconds`, or the"
        " upstream took nothing of the request for `idle_timeout_seconds`.",
        "See `released`. Repeat the call if repeating it is safe: the upstream may have seen it.",
    ),
    Explanation(VersionNotSupported(), "The request is of another version of HTTP.", "Speak HTTP/1.1."),
)

MEMBERS = {
    "available": "credits the key can spend now",
    "held": "credits kept by the key's calls in flight",
    "cost": "what the call takes",
    "shortfall": "how many credits are missing: cost - available",
    "checkout": "where credits are bought, or null",
    "errors": "by field: what is wrong with it",
    "cap": "which spend cap it is: `day` or `month`",
    "limit": "how much is allowed in the period: calls, or credits of a spend cap",
    "spent": "credits that the key has spent in that period, with what its calls in flight hold",
    "resets_at": "when the next period begins, in Unix milliseconds",
    "remaining": "calls left",
    "reset": "seconds until the period ends",
    "limit_bytes": "the longest body that is taken",
    "released": "true: the call cost nothing. false: its credits were kept, by the route's `release_on`",
}

RELEASE_REASONS = {
    "unreachable": "the upstream could not be reached, or what it sent was no valid answer (`release_on`)",
    "timeout": "the upstream did not answer in time (`release_on`)",
    "5xx": "the upstream answered 500 or more (`release_on`)",
    "4xx": "the upstream answered 400 to 499, and the route's `release_on` says so",
    "client_abort": "the caller left before the whole request was sent, or the route's `release_on` says so; or the"
    " drain limit cut the call",
    "no_upgrade": "a WebSocket was asked for and the upstream refused it or sent it elsewhere"
    " (a 2xx is an answer, and is paid)",
    "used_nothing": "the upstream told a cost of 0 (`settle`)",
    "body": "the request's body broke off or was too long, so the upstream never had a whole request",
    "defect": "a defect of the gateway",
}
"""What the metric `credits_released` and the access log's `released:<reason>` can say."""

LEDGER_REASONS = {
    "upstream answered <status>": "instead of `5xx`, `4xx` and `no_upgrade`: the status itself",
    "abandoned": "the caller left, or was told 503, while its hold was being written",
    "credits-unavailable": "the settlement could not be written in time, so the answer was not delivered",
    "gateway died": "the process died; the hold was ended by another, or by the next start",
}
"""What a released hold's entry says in its `reason` beside RELEASE_REASONS."""

VERDICTS = {
    "settled": "the cost was kept: `cost` says how much",
    "kept": "the call ended before its cost was written; recovery settles the whole hold",
    "free": "the route's cost is 0",
    "released:<reason>": "the cost was given back, and why",
    "refused:<slug>": "the gateway refused or failed the call itself, and nothing had been held",
    "replayed": "a call that came again with its Idempotency-Key: the first answer was given again, at no cost",
    "(empty)": "a public route or a path of the gateway's own; or the caller left before anything was decided",
}
"""What the access log's `verdict` can say."""


def errors_reference() -> str:
    """The whole page, in Markdown."""
    parts = [_INTRODUCTION, *(_section(explanation) for explanation in EXPLANATIONS)]
    parts += [_CREDITS, "### Reasons", _table(("reason", "the credits were given back because"), RELEASE_REASONS)]
    parts += [_LEDGER, _table(("reason", "means"), LEDGER_REASONS)]
    parts += ["### Verdicts", _VERDICTS, _table(("verdict", "means"), VERDICTS)]
    return "\n\n".join(parts) + "\n"


def _section(explanation: Explanation) -> str:
    error = explanation.example
    lines = [f"### {error.slug}", "", f"**{error.status}** {error.title}."]
    if explanation.is_for_later:
        lines[-1] += " *Reserved: nothing in this version answers so.*"
    lines += ["", f"- When: {explanation.when}", f"- Do: {explanation.what_to_do}"]
    lines += [f"- Member `{name}`: {MEMBERS[name]}." for name in members_of(error)]
    lines += [f"- Header `{name}: {value}`." for name, value in _headers(error)]
    return "\n".join(lines)


def members_of(error: GatewayError) -> list[str]:
    """Names of the members beyond those that every problem has."""
    names = [*error.members]
    return [*names, "released"] if isinstance(error, UpstreamError | CreditsUnavailable) else names


def _headers(error: GatewayError) -> Iterator[tuple[str, str]]:
    for name, value in error.headers:
        shown = value.decode("ascii") if name == b"www-authenticate" else "…"
        yield name.decode("ascii").title().replace("Www", "WWW"), shown


def _table(head: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| `{word}` | {meaning} |" for word, meaning in rows.items()]
    return "\n".join(lines)


_INTRODUCTION = f"""\
# Errors

What the gateway itself answers is `application/problem+json` (RFC 9457). An upstream's own error passes untouched.

```json
{{"type":"{TYPE_PREFIX}out-of-credits","title":"Not enough credits","status":402,
 "detail":"This call costs 5 credits and 3 are available.","instance":"req_3b59fb850c3d2ce40000000003",
 "source":"gateway","available":3,"held":0,"cost":5,"shortfall":2,"checkout":null}}
```

- `type` is `{TYPE_PREFIX}` and the slug. It never changes; `title` and `detail` are for people and may.
- `source` is always `gateway`: an upstream that answers problem documents of its own is told apart by it.
- `instance` is the request id, also in `X-Request-Id` and the log. It is absent where the request was refused before it
  became a call (a malformed head, a body that stopped coming, a full house).
- Causes (hosts, SQL, foreign exceptions) are in the log only.

This page is made by `python -m gateway.errors_reference`.

## Problems"""

_CREDITS = """\
## Credits

What becomes of a hold has a word in the ledger (`gateway credits history`), in the metric
`gateway_credits_released_total{reason=…}` and in the access log's `verdict`."""

_LEDGER = """\
### Reasons in the ledger

The entry of a released hold has the amount 0 and one of the reasons above, or one of these. An entry with an amount
*and* a reason is a call that failed in a way for which the route's `release_on` keeps the credits."""

_VERDICTS = """\
`cost` is what was kept. `status` 499 is a call whose caller left before an answer; it is never sent."""


if __name__ == "__main__":
    sys.stdout.write(errors_reference())
