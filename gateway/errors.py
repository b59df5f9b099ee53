"""The error tree, and how an error becomes `application/problem+json` (RFC 9457).

    GatewayError
    ├── BadRequest 400 ── Invalid 422
    ├── MissingKey, InvalidKey 401 · KeyDisabled, KeyExpired, Forbidden 403
    ├── OutOfCredits, SpendCapReached 402 · RateLimited, TooManyAtOnce 429
    ├── NoRoute, NotFound 404 · MethodNotAllowed 405 · Conflict 409 · BodyTooLarge 413 · UriTooLong 414
    ├── UnsupportedMediaType 415 · HeadTooLarge 431
    ├── RequestTimeout 408 · ExpectationFailed 417 · NotImplementedHere 501 · VersionNotSupported 505
    ├── UpstreamError
    │     UpstreamUnreachable 502 · BadUpstreamResponse 502 · UpstreamTimeout 504 · NoHealthyTarget 503
    ├── CreditsUnavailable 503 · IdentityUnavailable 503 · Overloaded 503
    ├── BillingUnavailable 503 · BillingNotConfigured 503
    └── InternalError 500

Every error has two messages: `detail` is public, `cause` is for the log only. Foreign exceptions
(sqlite3, OSError, httptools, …) are translated into this tree once, by the module that talks to them;
above that border nobody catches anything foreign.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from gateway.quota import Quota, quota_fields

TYPE_PREFIX = "urn:credit-gateway:problem:"
"""`type` of a problem is this prefix and the slug: stable, and explained in docs/errors.md."""


class GatewayError(Exception):
    """Something the caller is told as a problem document.

    `detail` is for the caller: what is wrong with this request and what to do next.
    `cause` is for the log: it may name hosts, SQL or foreign exceptions and never leaves the process.
    `members` are extra members of the problem document that a program can act on.
    `headers` are extra response headers, names in lower case.
    """

    slug: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The gateway failed"

    def __init__(
        self,
        detail: str = "",
        *,
        cause: str = "",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **members: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.cause = cause
        self.headers = headers
        self.members = members

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document, `instance` being the request id (RFC 9457 section 3.1)."""
        document: dict[str, Any] = {"type": TYPE_PREFIX + self.slug, "title": self.title, "status": self.status}
        if self.detail:
            document["detail"] = self.detail
        if request_id:
            document["instance"] = request_id
        document["source"] = "gateway"
        document.update(self.members)
        return document

    def response(self, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the answer. Headers are complete but for the connection's own."""
        body = json.dumps(self.problem(request_id), separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *self.headers,
        ]
        if request_id:
            headers.append((b"x-request-id", request_id.encode("ascii")))
        return self.status, headers, body


class InternalError(GatewayError):
    """A defect of ours. The log has the cause under the request id."""


class BadRequest(GatewayError):
    slug = "bad-request"
    status = 400
    title = "The request is malformed"


class Invalid(GatewayError):
    """Well-formed, but a value is not allowed. `errors` maps each field to what is wrong with it."""

    slug = "invalid"
    status = 422
    title = "A value in the request is not allowed"

    def __init__(self, detail: str = "", *, errors: dict[str, str], cause: str = "") -> None:
        super().__init__(detail, cause=cause, errors=errors)


CHALLENGE = (b"www-authenticate", b'Bearer realm="gateway"')
"""A 401 must say how to authenticate (RFC 9110 section 11.6.1)."""


class MissingKey(GatewayError):
    slug = "missing-key"
    status = 401
    title = "An API key is needed"

    def __init__(self, detail: str = "Send the key as `Authorization: Bearer <key>` or `X-API-Key: <key>`.") -> None:
        super().__init__(detail, headers=(CHALLENGE,))


class InvalidKey(GatewayError):
    slug = "invalid-key"
    status = 401
    title = "The API key is not valid"

    def __init__(self, detail: str = "", *, cause: str = "") -> None:
        super().__init__(detail, cause=cause, headers=(CHALLENGE,))


class KeyDisabled(GatewayError):
    slug = "key-disabled"
    status = 403
    title = "The API key is disabled"


class KeyExpired(GatewayError):
    slug = "key-expired"
    status = 403
    title = "The API key has expired"


class Forbidden(GatewayError):
    slug = "forbidden"
    status = 403
    title = "The API key may not do this"


class OutOfCredits(GatewayError):
    """No Retry-After: trying again does not help, buying credits does (facts: OpenRouter's 402)."""

    slug = "out-of-credits"
    status = 402
    title = "Not enough credits"

    def __init__(self, *, available: int, held: int, cost: int, checkout: str | None = None) -> None:
        detail = f"This call costs {cost} credits and {available} are available"
        detail += f" ({held} more are held by calls in flight)." if held else "."
        super().__init__(
            detail, available=available, held=held, cost=cost, shortfall=cost - available, checkout=checkout
        )


class SpendCapReached(GatewayError):
    """`cap` is the period, day or month; `resets_at` is when the next begins, in Unix milliseconds.

    No Retry-After: the owner may lift the cap before then, and a client that obeys it may sleep for a month.
    """

    slug = "spend-cap-reached"
    status = 402
    title = "The API key's spend cap is reached"

    def __init__(self, cap: str, limit: int, *, spent: int, cost: int, resets_at: int) -> None:
        super().__init__(
            f"This call costs {cost} credits; {spent} of the {limit} that the key may spend in this {cap} are spent.",
            cap=cap,
            limit=limit,
            spent=spent,
            cost=cost,
            resets_at=resets_at,
        )


class RateLimited(GatewayError):
    slug = "rate-limited"
    status = 429
    title = "Too many requests"

    def __init__(self, quota: Quota) -> None:
        limited = "" if quota.name == "key" else f" of one {quota.name}"
        super().__init__(
            f"The limit of {quota.limit} calls{limited} is used up; it resets in {quota.reset_seconds} s.",
            headers=((b"retry-after", b"%d" % quota.reset_seconds), *quota_fields([quota])),
            limit=quota.limit,
            remaining=quota.remaining,
            reset=quota.reset_seconds,
        )


class TooManyAtOnce(GatewayError):
    """When one of the key's calls ends is not known, so Retry-After is a guess."""

    slug = "too-many-at-once"
    status = 429
    title = "Too many calls of this key are running"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            f"A key may have {limit} calls of this route running at a time. Wait until one of them has ended.",
            headers=((b"retry-after", b"1"),),
            limit=limit,
        )


class NoRoute(GatewayError):
    slug = "no-route"
    status = 404
    title = "Nothing is served at this path"


class NotFound(GatewayError):
    """What is asked for is not there, or belongs to somebody else: which of the two is nobody's business."""

    slug = "not-found"
    status = 404
    title = "There is no such thing"


class MethodNotAllowed(GatewayError):
    slug = "method-not-allowed"
    status = 405
    title = "This path does not take this method"

    def __init__(self, allowed: tuple[str, ...]) -> None:
        listing = ", ".join(allowed)
        super().__init__(f"Allowed here: {listing}.", headers=((b"allow", listing.encode("ascii")),))


class Conflict(GatewayError):
    slug = "conflict"
    status = 409
    title = "The request conflicts with what is already there"


class BodyTooLarge(GatewayError):
    slug = "body-too-large"
    status = 413
    title = "The request body is too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body may have {limit_bytes} bytes at most.", limit_bytes=limit_bytes)


class UriTooLong(GatewayError):
    slug = "uri-too-long"
    status = 414
    title = "The request target is too long"


class UnsupportedMediaType(GatewayError):
    slug = "unsupported-media-type"
    status = 415
    title = "The body is of a type that is not taken here"

    def __init__(self, detail: str = "Send JSON, as `Content-Type: application/json`.") -> None:
        super().__init__(detail)


class HeadTooLarge(GatewayError):
    slug = "head-too-large"
    status = 431
    title = "The request's header fields are too large"


class RequestTimeout(GatewayError):
    slug = "request-timeout"
    status = 408
    title = "The request did not arrive in time"


class ExpectationFailed(GatewayError):
    slug = "expectation-failed"
    status = 417
    title = "The request expects what the gateway does not do"


class NotImplementedHere(GatewayError):
    slug = "not-implemented"
    status = 501
    title = "The gateway does not implement this"


class VersionNotSupported(GatewayError):
    slug = "version-not-supported"
    status = 505
    title = "The gateway speaks HTTP/1.1 and HTTP/1.0"


class UpstreamError(GatewayError):
    """The upstream gave no usable answer.

    `possibly_executed` answers the question of money and of retries: may the upstream have seen the request?
    False only where no byte of it can have reached the upstream.
    """

    slug = "upstream-unreachable"
    status = 502
    title = "The upstream failed"
    reason: ClassVar[str] = "unreachable"
    """The word of a route's `release_on` that this error answers to."""

    def __init__(self, detail: str = "", *, cause: str = "", possibly_executed: bool = True) -> None:
        super().__init__(detail, cause=cause)
        self.possibly_executed = possibly_executed


class UpstreamUnreachable(UpstreamError):
    title = "The upstream can't be reached"


class BadUpstreamResponse(UpstreamError):
    slug = "bad-upstream-response"
    title = "The upstream's answer is not valid HTTP"


class UpstreamTimeout(UpstreamError):
    slug = "upstream-timeout"
    status = 504
    title = "The upstream did not answer in time"
    reason = "timeout"


class NoHealthyTarget(UpstreamError):
    slug = "no-healthy-target"
    status = 503
    title = "No target of the upstream can take the call"

    def __init__(self, detail: str = "", *, cause: str = "") -> None:
        super().__init__(detail, cause=cause, possibly_executed=False)
        self.headers = ((b"retry-after", b"1"),)


class CreditsUnavailable(GatewayError):
    """Keys and credits can't be checked now. Nothing was forwarded (I9: fail closed, never 401)."""

    slug = "credits-unavailable"
    status = 503
    title = "Credits can't be checked right now"

    def __init__(self, *, cause: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(
            "Nothing was charged. Try again shortly.",
            cause=cause,
            headers=((b"retry-after", b"%d" % retry_after_seconds),),
        )


class IdentityUnavailable(GatewayError):
    """Who calls can't be checked now: the app's public keys can't be had. Never told as 401."""

    slug = "identity-unavailable"
    status = 503
    title = "Tokens can't be checked right now"

    def __init__(self, *, cause: str = "", retry_after_seconds: int = 1) -> None:
        retry_after = (b"retry-after", b"%d" % retry_after_seconds)
        super().__init__("Nothing was done. Try again shortly.", cause=cause, headers=(retry_after,))


class BillingUnavailable(GatewayError):
    slug = "billing-unavailable"
    status = 503
    title = "Billing can't be reached right now"


class BillingNotConfigured(GatewayError):
    slug = "billing-not-configured"
    status = 503
    title = "This gateway does not sell credits"


class Overloaded(GatewayError):
    slug = "overloaded"
    status = 503
    title = "The gateway has no room for this call"

    def __init__(self, detail: str = "", *, cause: str = "") -> None:
        super().__init__(detail, cause=cause, headers=((b"retry-after", b"1"),))
