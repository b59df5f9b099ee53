"""Spend caps as they are asked for and shown over HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from gateway.api.operation import Model
from gateway.credits import provider
from gateway.credits.provider import CREDITS_MAX, NO_CHANGES, CapChanges

Cap = Annotated[int, Field(ge=0, le=CREDITS_MAX)]


class NewCaps(Model):
    """How many credits a key may spend in a period of the UTC calendar. `null`: as many as it has."""

    model_config = ConfigDict(strict=True)

    day: Cap | None = None
    """In a day."""
    month: Cap | None = None
    """In a month."""


class SpendCap(Model):
    """How many credits a key may spend in a period."""

    cap: int
    """The most it may spend."""
    spent: int
    """What it has spent, with what its calls in flight hold."""
    resets_at: int
    """When the next period begins, in Unix milliseconds."""


class SpendCaps(Model):
    """A key's caps, and what is spent of them, by period of the UTC calendar."""

    day: SpendCap | None
    """In the running day; null: it has no such cap."""
    month: SpendCap | None
    """In the running month; null: it has no such cap."""


def changes_of(asked: NewCaps | None) -> CapChanges:
    """What was said: a cap that was left out stays."""
    return NO_CHANGES if asked is None else {name: getattr(asked, name) for name in asked.model_fields_set}


def show_caps(caps: provider.SpendCaps) -> SpendCaps:
    return SpendCaps(day=_show(caps.day), month=_show(caps.month))


def _show(cap: provider.SpendCap | None) -> SpendCap | None:
    return None if cap is None else SpendCap(cap=cap.cap, spent=cap.spent, resets_at=cap.resets_at)
