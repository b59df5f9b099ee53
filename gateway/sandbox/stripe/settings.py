"""What can be set about the stand-in: how long things take, what tax is, how stubborn webhooks are."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.sandbox.fields import Field, number, object_of, whole


@dataclasses.dataclass(slots=True)
class Settings:
    """Changed while it runs. Times in seconds; Stripe's own are longer where the comment says so."""

    pay_later_seconds: float = 5.0
    """Until a payment that takes its time succeeds or fails (Stripe: days); with 0 it waits for an act."""
    redirect_seconds: float = 10.0
    """So long the payment page waits for the webhook to be taken before it sends the buyer back."""
    session_seconds: float = 86_400.0
    """Life of a Checkout Session that doesn't say `expires_at`."""
    tax_percent: float = 20.0
    """On top, for sessions with automatic tax."""
    webhook_timeout_seconds: float = 10.0
    webhook_retry_seconds: float = 1.0
    """Before the second attempt; it doubles each time (Stripe: minutes, then hours, for three days)."""
    webhook_attempts_max: int = 10

    def change(self, changes: dict[str, Any]) -> None:
        """Set some anew. Raises InvalidField, and then nothing is changed."""
        SETTINGS(changes, "settings")
        for name, value in changes.items():
            setattr(self, name, value)

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_SECONDS = number(0, 86_400 * 30)
SETTINGS: Field = object_of(
    {
        "pay_later_seconds": _SECONDS,
        "redirect_seconds": _SECONDS,
        "session_seconds": _SECONDS,
        "tax_percent": number(0, 100),
        "webhook_timeout_seconds": _SECONDS,
        "webhook_retry_seconds": _SECONDS,
        "webhook_attempts_max": whole(1, 100),
    }
)
