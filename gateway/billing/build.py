"""Billing as config.yaml wants it."""

from __future__ import annotations

from gateway.billing.packs import Pack
from gateway.billing.payments import Terms
from gateway.billing.reconcile import Schedule
from gateway.billing.service import Billing, BillingSettings
from gateway.config.tree import Config
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database


def make_billing(config: Config, database: Database, provider: CreditsProvider) -> Billing:
    """The config has a section billing.stripe."""
    return Billing(database, provider, _settings(config))


def _settings(config: Config) -> BillingSettings:
    section = config.billing
    stripe, reconcile = section.stripe, section.reconcile
    assert stripe is not None  # the caller's to know
    assert section.success_url is not None  # config/check.py
    assert section.cancel_url is not None
    return BillingSettings(
        secret_key=stripe.secret_key.get_secret_value(),
        webhook_secrets=[secret.get_secret_value() for secret in (stripe.webhook_secret, *stripe.webhook_secrets)],
        packs=[Pack(pack.id, pack.name, pack.credits, pack.price_cents, pack.currency) for pack in section.packs],
        terms=Terms(
            section.success_url,
            section.cancel_url,
            promotion_codes=section.promotion_codes,
            automatic_tax=section.automatic_tax,
            invoices=section.receipts == "invoice",
        ),
        base_url=stripe.base_url,
        quantity_max=section.quantity_max,
        reuse_customers=section.reuse_customers,
        timeout_seconds=stripe.timeout_seconds,
        retries=stripe.retries,
        schedule=Schedule(reconcile.every_seconds, reconcile.days, reconcile.long_every_seconds, reconcile.long_days),
        keep_days=config.database.keep_days,
        tells_app=config.notifications is not None,
    )
