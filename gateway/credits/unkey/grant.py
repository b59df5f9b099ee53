"""A grant on its way to Unkey, and what our books say of one in doubt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry's way to Unkey. `amount` is in credits, negative where they are taken; times are Unix milliseconds."""

    id: int
    key_id: str
    unkey_id: str
    amount: int
    kind: str
    reason: str
    reference: str
    state: str
    attempts: int
    due_at: int
    sent_at: int | None
    remaining_before: int | None
    remaining_after: int | None
    cause: str | None
    created_at: int
    updated_at: int

    def asked(self, remaining: int) -> int:
        """What to ask of Unkey when so many credits remain there: to take not more than that, for its decrement stops
        at 0 without a word."""
        return max(self.amount, -remaining)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What our books say of a grant in doubt. `debited`: what Unkey took for calls since it was sent. `uncertain`: what
    it may have taken besides."""

    grant: Grant
    debited: int
    uncertain: int
