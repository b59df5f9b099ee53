"""Selling credits for money: packs, orders, Stripe's checkout, fulfilment, refunds, and finding what was missed."""
