"""Balances and history over HTTP, and credits that the admin gives or takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from gateway.api.key_caps import SpendCaps, show_caps
from gateway.api.operation import ADMIN, EVERYBODY, AnyOperation, Asked, Model, Operation, Request
from gateway.api.ownership import KeyId, choose_key
from gateway.api.pagination import Page, cut, entry_cursor, read_entry_cursor
from gateway.credits.checks import OWN_REFERENCES, check_grant
from gateway.credits.provider import CREDITS_MAX, CreditsProvider, Entry
from gateway.errors import Conflict, Invalid, NotFound

RESERVED_PREFIXES = (
    *OWN_REFERENCES,
    *("signup:", "first:", "order:", "purchase:", "claw:", "clawback:", "reinstate:", "refund:", "dispute:", "debt:"),
)
"""References that the gateway gives itself. Taken before, they would keep it from granting what is due."""
TEXT = r"^[^\x00-\x1f\x7f-\x9f]+$"


class WhichKey(Asked):
    """Which key."""

    key_id: KeyId | None = None
    """The key. Needed with the admin token, and by users with several keys; an API key is its own."""


class WhichEntries(Page):
    """Whose history, and which page of it."""

    key_id: KeyId | None = None
    """The key. Needed with the admin token, and by users with several keys; an API key is its own."""


class Balance(Model):
    """What a key can spend."""

    key_id: str
    """The key's public name."""
    user_id: str
    """The owner's id in the app."""
    available: int | None
    """Credits it can spend; null if it is unlimited."""
    held: int
    """Credits kept by its calls in flight. They are not among the available ones."""
    unlimited: bool
    """Whether it is never out of credits."""
    spend_caps: SpendCaps
    """What it may spend in a day and in a month."""


class Transaction(Model):
    """One entry of the ledger."""

    id: int
    """Its number. Later entries have higher ones."""
    kind: str
    """signup, purchase, spend, promo, adjustment, clawback or reinstate."""
    amount: int
    """Credits added; negative: taken. 0: a call that was free, because it failed or used nothing."""
    balance_after: int | None
    """What the key then had, what was held included; null if it is unlimited or that is not known."""
    route: str | None
    """The route of the call it was spent on."""
    request_id: str | None
    """The `X-Request-Id` of that call."""
    reason: str | None
    """Why."""
    reference: str | None
    """What made sure that it was applied once."""
    created_at: int
    """When, in Unix milliseconds."""


class TransactionPage(Model):
    """A key's history, newest first."""

    transactions: list[Transaction]
    """The entries of this page."""
    next_cursor: str | None
    """The `cursor` of the next page; null on the last."""


class NewAdjustment(Asked):
    """Credits to give or take."""

    key_id: KeyId
    """The key."""
    amount: Annotated[int, Field(ge=-CREDITS_MAX, le=CREDITS_MAX)]
    """Credits to add, not 0. An `adjustment` may be negative; it takes no more than is available."""
    kind: Literal["promo", "adjustment"]
    """What the history calls it."""
    reason: Annotated[str, Field(pattern=TEXT, max_length=500)]
    """Why: for whoever reads the history."""
    reference: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=128, examples=["ticket-4711"])]
    """What names this adjustment among all. Applied once: the same again changes nothing."""


class Credits:
    """The handlers."""

    def __init__(self, provider: CreditsProvider) -> None:
        self._provider = provider

    async def balance(self, request: Request[None, WhichKey]) -> Balance:
        key = await choose_key(self._provider, request.identity, request.query.key_id)
        return Balance(
            key_id=key.key_id,
            user_id=key.user_id,
            available=key.available,
            held=key.held,
            unlimited=key.available is None,
            spend_caps=show_caps(key.spend_caps),
        )

    async def history(self, request: Request[None, WhichEntries]) -> TransactionPage:
        query = request.query
        before = read_entry_cursor(query.cursor)
        key = await choose_key(self._provider, request.identity, query.key_id)
        entries = await self._provider.history(key.key_id, before=before, limit=query.limit + 1)
        shown, next_cursor = cut(entries, query.limit, lambda entry: entry_cursor(entry.id))
        return TransactionPage(transactions=[_show(entry) for entry in shown], next_cursor=next_cursor)

    async def adjust(self, request: Request[NewAdjustment, None]) -> Transaction:
        body = request.body
        check_grant(body.amount, body.kind, body.reference)
        if body.reference.startswith(RESERVED_PREFIXES):
            raise Invalid("Choose another reference.", errors={"reference": "begins with a word of the gateway's own"})
        entry = await self._provider.grant(body.key_id, body.amount, body.kind, body.reason, body.reference)
        if entry.reason != body.reason:
            raise Conflict(f"The reference {body.reference!r} was already used with another reason.")
        return _show(entry)

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "getBalance", "GET", "/credits", "What a key can spend", "Asking costs nothing.",
                self.balance, EVERYBODY, Balance, query=WhichKey, problems=(NotFound,),
            ),
            Operation(
                "listTransactions", "GET", "/credits/transactions", "A key's history",
                "Every credit that came or went, newest first.",
                self.history, EVERYBODY, TransactionPage, query=WhichEntries, problems=(NotFound,),
            ),
            Operation(
                "adjustCredits", "POST", "/credits/adjustments", "Give credits to a key, or take them",
                "Applied once per `reference`: the same again gets the same answer, other content under the same"
                " reference is a conflict.",
                self.adjust, ADMIN, Transaction, 201, body=NewAdjustment, changes=True, takes_idempotency_key=True,
                problems=(Conflict,),
            ),
        ]  # fmt: skip


def _show(entry: Entry) -> Transaction:
    return Transaction(
        id=entry.id,
        kind=entry.kind,
        amount=entry.amount,
        balance_after=entry.balance_after,
        route=entry.route,
        request_id=entry.request_id,
        reason=entry.reason,
        reference=entry.reference,
        created_at=entry.created_at,
    )
