"""Signed webhooks to the app (Standard Webhooks), from the outbox, as often as it takes.

    webhook-id: msg_…            the same for every attempt, so that the receiver can tell repeats
    webhook-timestamp: 1700000000
    webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">

Any 2xx is taken for received. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Sequence
from functools import partial

import httpx

from gateway.billing import outbox
from gateway.billing.loop import Loop
from gateway.billing.low_balances import LowBalances
from gateway.billing.outbox import Notification, Outbox
from gateway.billing.retention import Retention
from gateway.config.tree import NotificationsSection
from gateway.credits.ledger import now_ms
from gateway.database.engine import Database

logger = logging.getLogger("gateway.billing")

SEND_SECONDS = 1.0
"""Between two looks into the outbox."""
BATCH = 16
LEASE_MS = 60_000
WAIT_SECONDS = 5.0
WAIT_SECONDS_MAX = 6 * 3600.0
DEAD_AFTER = 22
"""Attempts: some three days."""


class Notifications:
    """Tells the app, and looks for what to tell it. Use `open` and `aclose` around it, on one event loop."""

    def __init__(self, section: NotificationsSection, database: Database, *, keep_days: int) -> None:
        secret, owner = section.secret.get_secret_value(), secrets.token_hex(8)
        every_seconds = section.look_every_seconds
        self._notifier = Notifier(database, section.url, secret, timeout_seconds=section.timeout_seconds)
        balances = LowBalances(database, Outbox(is_on=True), section.thresholds, owner, every_seconds=every_seconds)
        self._loops: Sequence[Loop] = (
            Loop("notifications", self._notifier.work, SEND_SECONDS),
            Loop("low balances", balances.work, every_seconds),
            Retention(database, keep_days).loop(),
        )

    async def open(self) -> None:
        for loop in self._loops:
            loop.open()

    async def aclose(self) -> None:
        for loop in self._loops:
            await loop.aclose()
        await self._notifier.aclose()


class Notifier:
    """Sends what is in the outbox to `url`. `secret` is whsec_ and base64."""

    def __init__(self, database: Database, url: str, secret: str, *, timeout_seconds: float) -> None:
        self._database = database
        self._url = url
        self._secret = base64.b64decode(secret.removeprefix("whsec_"))
        self._client = httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=False)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def work(self) -> None:
        """Everything that is due."""
        while await self._database.read(outbox.is_due):
            claim = partial(outbox.claim, until=now_ms() + LEASE_MS, limit=BATCH)
            await asyncio.gather(*(self._send(one) for one in await self._database.transaction(claim)))

    async def _send(self, notification: Notification) -> None:
        body = notification.payload.encode()
        seconds = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": notification.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": sign(self._secret, notification.id, seconds, body),
        }
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            await self._postpone(notification, f"{type(error).__name__}: {error}")
            return
        if answer.is_success:
            done = partial(outbox.finish, id=notification.id, state="done", due_at=0, cause=None)
            await self._database.transaction(done)
        else:
            await self._postpone(notification, f"answered {answer.status_code}")

    async def _postpone(self, notification: Notification, cause: str) -> None:
        attempts = notification.attempts + 1
        is_dead = attempts >= DEAD_AFTER
        if is_dead:
            logger.error("notification %s (%s) is given up: %s", notification.id, notification.type, cause)
        elif attempts == 1:
            logger.warning("notification %s (%s) is sent again later: %s", notification.id, notification.type, cause)
        wait_seconds = min(WAIT_SECONDS_MAX, WAIT_SECONDS * 2 ** (attempts - 1))
        due_at = now_ms() + int(wait_seconds * 1000)
        state = "dead" if is_dead else "new"
        finish = partial(outbox.finish, id=notification.id, state=state, due_at=due_at, cause=cause)
        await self._database.transaction(finish)


def sign(secret: bytes, id: str, seconds: int, body: bytes) -> str:
    """The signature header of the Standard Webhooks specification."""
    digest = hmac.new(secret, f"{id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
