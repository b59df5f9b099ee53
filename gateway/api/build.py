"""Puts the control plane together from what app.py hands it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.api.background import Background
from gateway.api.checkout import Checkouts
from gateway.api.control_plane import ControlPlane
from gateway.api.credits import Credits
from gateway.api.description import Description, openapi_text
from gateway.api.idempotency import Idempotency
from gateway.api.identity import Identifier
from gateway.api.keys import Keys
from gateway.api.operation import AnyOperation
from gateway.api.ports import Billing
from gateway.api.pricing import Pricing
from gateway.api.signup import Signup
from gateway.api.visit import Recorder
from gateway.api.webhook import Webhook
from gateway.config.tree import Config, JwtSection
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.idempotency_key import HEADER_NAME
from gateway.observe.access_log import AccessLog
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics

if TYPE_CHECKING:
    from gateway.api.jwks import Jwks
    from gateway.api.tokens import TokenReader


class ControlPlanes:
    """Makes the control plane of a config, and of another one later. What was begun and whose callers have left is
    finished whichever of them it came through."""

    def __init__(
        self,
        provider: CreditsProvider,
        database: Database,
        billing: Billing | None,
        *,
        ids: RequestIds,
        metrics: Metrics,
    ) -> None:
        self._provider = provider
        self._billing = billing
        self._idempotency = Idempotency(database)
        self._ids = ids
        self._metrics = metrics
        self._background = Background()
        self._description: Sequence[AnyOperation] = ()

    def make(self, config: Config, jwks: Jwks | None, access_log: AccessLog | None) -> ASGIApp:
        """`jwks` has the app's public keys; None where no JWT is accepted."""
        tokens = _open_tokens(config.identity.jwt, jwks)
        identifier = Identifier(self._provider, config.identity.admin_token.get_secret_value(), tokens)
        operations = described(config, self._provider, self._billing)
        # The same for every config, and slow to make.
        self._description = self._description or Description(operations).operations()
        operations = [*operations, *self._description]
        recorder = Recorder({operation.path for operation in operations}, self._metrics, access_log)
        control = ControlPlane(operations, identifier, self._idempotency, self._ids, recorder, self._background)
        origins = config.identity.cors_origins
        return open_to_pages(control, origins) if origins else control

    async def aclose(self) -> None:
        """Wait for what was begun."""
        await self._background.aclose()


def open_to_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app for web pages of these origins too (CORS). Cookies are no credential here, so none are let along."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "Content-Type", HEADER_NAME],
        expose_headers=["X-Request-Id", "Retry-After", "Idempotency-Replayed"],
    )


def openapi_document() -> str:
    """What stands in docs/openapi.json: the same for every config."""
    nobody = cast("CreditsProvider", None)  # asked nothing: the operations are described, not done
    return openapi_text(Description(described(Config(), nobody, None)).document)


def described(config: Config, provider: CreditsProvider, billing: Billing | None) -> Sequence[AnyOperation]:
    """What it can do besides describing itself."""
    return [
        *Keys(
            provider,
            Signup(provider, config.credits.signup_credits),
            per_user_max=config.identity.keys_per_user_max,
        ).operations(),
        *Credits(provider).operations(),
        *Pricing(config, is_selling=billing is not None).operations(),
        *Checkouts(provider, billing).operations(),
        *Webhook(billing).operations(),
    ]


def _open_tokens(section: JwtSection | None, jwks: Jwks | None) -> TokenReader | None:
    if section is None or jwks is None:
        return None
    # Nobody else waits for all of cryptography.
    from gateway.api.tokens import TokenReader

    return TokenReader(section, jwks)
