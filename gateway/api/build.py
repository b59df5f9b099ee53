"""Puts the control plane together from what app.py hands it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.api.checkout import Checkouts
from gateway.api.control_plane import ControlPlane
from gateway.api.credits import Credits
from gateway.api.description import Description, openapi_text
from gateway.api.idempotency import HEADER_NAME, Idempotency
from gateway.api.identity import Identifier
from gateway.api.keys import Keys
from gateway.api.operation import AnyOperation
from gateway.api.ports import Billing
from gateway.api.pricing import Pricing
from gateway.api.signup import Signup
from gateway.api.visit import Recorder
from gateway.api.webhook import Webhook
from gateway.config.tree import Config, IdentitySection
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.observe.access_log import AccessLog
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics

if TYPE_CHECKING:
    from gateway.api.tokens import TokenReader


def open_control_plane(
    config: Config,
    provider: CreditsProvider,
    database: Database,
    billing: Billing | None,
    stack: AsyncExitStack,
    *,
    ids: RequestIds,
    metrics: Metrics,
    access_log: AccessLog | None = None,
) -> ASGIApp:
    """The control plane of a running gateway. It is closed by the stack, before what was put there earlier."""
    tokens = _open_tokens(config.identity, stack)
    identifier = Identifier(provider, config.identity.admin_token.get_secret_value(), tokens)
    operations = operations_of(config, provider, billing)
    recorder = Recorder({operation.path for operation in operations}, metrics, access_log)
    control = ControlPlane(operations, identifier, Idempotency(database), ids, recorder)
    stack.push_async_callback(control.aclose)
    origins = config.identity.cors_origins
    return open_to_pages(control, origins) if origins else control


def open_to_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app for web pages of these origins too (CORS). Cookies are no credential here, so none are let along."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "Content-Type", HEADER_NAME],
        expose_headers=["X-Request-Id", "Retry-After", "Idempotency-Replayed"],
    )


def operations_of(config: Config, provider: CreditsProvider, billing: Billing | None) -> Sequence[AnyOperation]:
    """All that the control plane can do."""
    operations = described(config, provider, billing)
    return [*operations, *Description(operations).operations()]


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


def _open_tokens(section: IdentitySection, stack: AsyncExitStack) -> TokenReader | None:
    if section.jwt is None:
        return None
    # Nobody else waits for httpx and for all of cryptography.
    from gateway.api.jwks import Jwks
    from gateway.api.tokens import TokenReader

    keys = Jwks(section.jwt.jwks_url)
    stack.push_async_callback(keys.aclose)
    return TokenReader(section.jwt, keys)
