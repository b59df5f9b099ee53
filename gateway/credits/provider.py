"""The port to whoever keeps keys and balances, and the words of the domain.

One contract suite (tests/credits) runs against every provider on every database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from sqlalchemy import Connection

from gateway.credits.claims import Claim
from gateway.errors import CreditsUnavailable
from gateway.permissions import PermissionQuery
from gateway.quota import Quota

CREDITS_MAX = 1_000_000_000
"""Credits are whole numbers from 0 to this (design: room for every business, none for an overflow)."""


class Hold:
    """Credits taken for one call. It ends exactly once: settled or released.

    `available` is what the key can still spend after this hold; None for an unlimited key.
    `id` is 0 where nothing was taken (a free route): such a hold needs no end, and ending it does nothing. `key` is the
    store's own number of the key, `taken_at` says when the hold counts for the key's spend caps. `is_kept`: its answer
    has begun to reach the caller, so it may no longer be released for the store's sake. `quota` is what is left of the
    policy's rate limit, where the store tells.
    """

    __slots__ = (
        *("available", "cost", "id", "is_kept", "key", "key_id", "quota", "request_id", "route", "taken_at", "user_id"),
    )

    def __init__(self, id: int, key: int, key_id: str, user_id: str, cost: int, available: int | None) -> None:
        self.id = id
        self.key = key
        self.route = ""
        self.request_id = ""
        self.taken_at = 0
        self.is_kept = False
        self.key_id = key_id
        self.user_id = user_id
        self.cost = cost
        self.available = available
        self.quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many calls of one key to one route in a window that slides.

    `name` is what they are counted under, where the route's name is not enough: routes of one path have the same.
    """

    limit: int
    window_seconds: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a route asks of a key beside its credits.

    `permission` is a query such as `personas.write AND (eu OR us)`; empty asks for nothing. `query` is the same, read.
    """

    permission: str = ""
    rate_limit: RateLimit | None = None
    query: PermissionQuery | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", PermissionQuery(self.permission) if self.permission else None)


NO_POLICY = Policy()


class HoldLost(CreditsUnavailable):
    """The hold was already ended by recovery: this process had been taken for dead. Its call must not be served."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What a key can spend (None: unlimited) and what its open holds keep, in credits."""

    key_id: str
    user_id: str
    available: int | None
    held: int


@dataclass(frozen=True, slots=True)
class SpendCap:
    """How many credits a key may spend in a period, how many it has (open holds included), and when the next period
    begins, in Unix milliseconds."""

    cap: int
    spent: int
    resets_at: int


@dataclass(frozen=True, slots=True)
class SpendCaps:
    """A key's caps by day and by month of the UTC calendar. None: no cap but its credits."""

    day: SpendCap | None = None
    month: SpendCap | None = None


NO_CAPS = SpendCaps()
CapChanges = Mapping[str, int | None]
"""By period, `day` or `month`, what is to be its cap; None lifts it. What is not named stays as it is."""
NO_CHANGES: CapChanges = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key's public side. The secret is shown once, when it is made; only its SHA-256 is stored.

    Times are Unix milliseconds.
    """

    key_id: str
    user_id: str
    name: str | None
    start: str
    available: int | None
    held: int
    enabled: bool
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    permissions: tuple[str, ...] = ()
    spend_caps: SpendCaps = NO_CAPS


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the append-only ledger. `id` grows with time; `created_at` is Unix milliseconds."""

    id: int
    kind: str
    amount: int
    balance_after: int | None
    route: str | None
    request_id: str | None
    reason: str | None
    reference: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Movement:
    """Credits between our books and a keeper elsewhere (Unkey): a grant on its way there, or what a call of unknown
    outcome may have taken there.

    `state`: pending, sending, in-doubt, applied, failed (a grant); in-doubt, applied, not-applied (a call's). `key_id`
    None: the key has never been seen. `reference` is the entry's, or the call's request id. Times: Unix milliseconds.
    """

    id: str
    kind: str
    key_id: str | None
    amount: int
    state: str
    reference: str
    cause: str | None
    created_at: int
    updated_at: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the credits of a reference have got. `state` as in Movement; `applied` where there is nowhere to go.

    `shortfall`: credits of a clawback that were not there any more, in the end.
    """

    state: str
    shortfall: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """A key of which the ledger says other than its keeper. `ledger` leaves out what is still on its way; `kept` is
    what the key has, holds included."""

    key_id: str
    ledger: int
    kept: int


class CreditsProvider(Protocol):
    """Keys and credits. Every method raises CreditsUnavailable within its deadline when the store does not answer."""

    async def hold(
        self,
        api_key: bytes,
        cost: int,
        route: str,
        request_id: str,
        policy: Policy = NO_POLICY,
        claim: Claim | None = None,
    ) -> Hold:
        """Check the key and take `cost`, durable on return.

        Raises, first come first: InvalidKey, KeyDisabled, KeyExpired, Forbidden (permission), RateLimited,
        SpendCapReached, OutOfCredits; or CreditsUnavailable. (Where the keeper is elsewhere, the spend cap comes before
        what only he knows: he is not asked.) A refused call takes no credits; one refused for its credits, or for its
        cap here, has used up one of its rate limit. A caller cancelled while it waits leaves no hold behind.

        With a claim that somebody has already (`claim.precedent`, set on return) the key is checked as for any call,
        its credits are not: the hold is one of no credits. Else the claim is the hold's, in the same commit.
        """

    def settle(self, hold: Hold, cost: int, reason: str | None = None, claim: Claim | None = None) -> Awaitable[None]:
        """End the hold, keeping `cost` of it (0..hold.cost) and giving the rest back; durable on return.

        In the same commit the hold's claim is done, with the answer that it has by then. A hold that ends without a
        word of its claim leaves nothing of it.

        Raises HoldLost when the hold was already ended by recovery (this process was taken for dead).
        Cancelling the wait does not undo the settlement.
        """

    def keep(self, hold: Hold, claim: Claim | None = None) -> Awaitable[None]:
        """The upstream has answered but the cost is known only later: if the process dies now, recovery settles the
        hold whole instead of releasing it. Durable on return; raises HoldLost as `settle` does. Its claim is done."""

    async def keep_answer(self, hold: Hold, claim: Claim) -> None:
        """Add the answer to a claim that is done: it was not known yet when its hold was settled. Durable on return."""

    async def find_answer(self, claim: Claim) -> bytes | None:
        """The answer of the claim's precedent, sealed; None where it is gone."""

    def release(self, hold: Hold, reason: str) -> Awaitable[None]:
        """End the hold, giving all of it back; durable on return. `reason` goes into the key's history."""

    async def balance(self, key_id: str) -> Balance | None: ...

    async def grant(self, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
        """Add (or with a negative `adjustment`, take) credits once per `reference`; a repeat returns the first entry.

        Raises Invalid, Conflict (same reference, other content)."""

    async def create(
        self,
        user_id: str,
        *,
        credits: int | None,
        name: str | None = None,
        expires_at: int | None = None,
        permissions: Sequence[str] = (),
        spend_caps: CapChanges = NO_CHANGES,
    ) -> tuple[str, ApiKey]:
        """A new key: its secret (shown this once) and its public side. `credits` None makes it unlimited.

        Raises Invalid, naming the field."""

    async def get(self, key_id: str) -> ApiKey | None: ...

    async def identify(self, api_key: bytes) -> ApiKey | None:
        """The key with this secret; takes nothing from it. None: nobody has it, it is revoked or was rotated away.

        A disabled or expired key is given, and says so itself; but where only its keeper elsewhere knows the key,
        KeyDisabled or KeyExpired is raised."""

    async def list(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[ApiKey]: ...

    async def count_keys(self, user_id: str) -> int:
        """How many keys of the user our books have, without the revoked ones."""

    async def history(self, key_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Entry]:
        """Entries, newest first, older than the entry id `before`."""

    async def revoke(self, key_id: str) -> bool: ...

    async def rotate(self, key_id: str) -> tuple[str, ApiKey] | None:
        """A new secret under the same key_id and balance; the old one stops at once."""

    async def cap(self, key_id: str, spend_caps: CapChanges) -> ApiKey | None:
        """Set or lift the key's spend caps. What it has spent already in the running day and month counts, of ended
        calls by when they ended. None: there is no such key.

        Raises Invalid, naming the field; Conflict where only its keeper elsewhere knows the key."""

    async def list_movements(self, *, unsettled: bool, limit: int = 100) -> Sequence[Movement]:
        """Movements, newest first; with `unsettled` only those that are not done or that failed."""

    async def find_movement(self, id: str) -> Movement | None: ...

    async def resolve_movement(self, id: str, resolution: str) -> Movement | None:
        """A person's word on one that is in doubt: `applied` or `not-applied`. Raises Conflict where it is not."""

    # Inside a transaction of the shared database, so that an order and its credits are one commit. Each raises Invalid.

    def grant_in(
        self, connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str
    ) -> Entry:
        """As `grant`, without waiting for anybody elsewhere; `kick` after the commit. A key that is unknown, revoked or
        unlimited is Invalid (where only its keeper elsewhere knows, `progress_in` says `failed` later)."""

    def claw_in(self, connection: Connection, key_id: str, amount: int, reason: str, reference: str) -> int:
        """Take `amount` credits off the key, or as many as are available, once per reference: how many are taken.

        Credits kept elsewhere count as taken; where they turn out to be gone, `progress_in` tells the shortfall."""

    def progress_in(self, connection: Connection, reference: str) -> Progress | None:
        """What became of that grant or clawback. None: there is no such reference."""

    def kick(self) -> None:
        """Bring what was granted to where it belongs, now rather than at the next look."""

    async def enable(self, key_id: str, enabled: bool) -> bool:
        """Switch a key on or off without giving it up. False: there is no such key."""

    async def list_drift(self) -> Sequence[Drift]:
        """Keys of which the ledger and their keeper disagree. Under traffic a keeper elsewhere may lag a moment."""

    async def aclose(self) -> None: ...
