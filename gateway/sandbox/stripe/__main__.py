"""The stand-in for Stripe as a process: `python -m gateway.sandbox.stripe --port 9002`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import uvloop

from gateway.sandbox.process import add_address, listen, serve_until_stopped
from gateway.sandbox.stripe.server import WEBHOOK_SECRET, StripeServer
from gateway.sandbox.stripe.settings import Settings


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, having said where on standard output."""
    server = StripeServer(
        webhook_url=options.webhook_url,
        webhook_secrets=tuple(options.webhook_secret or [WEBHOOK_SECRET]),
        settings=Settings(pay_later_seconds=options.pay_later_seconds),
        seed=options.seed,
    )
    for code in options.promotion_code or []:
        name, _, percent = code.partition("=")
        server.acts.promotion_code(name, percent_off=float(percent or 100))
    await listen(server.start, options)
    await serve_until_stopped(server, f"stripe sandbox on http://{options.host}:{server.port}")


def main(arguments: Sequence[str] | None = None) -> None:
    uvloop.run(run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.sandbox.stripe", description="A stand-in for Stripe.")
    add_address(parser, 9002)
    add = parser.add_argument
    add("--webhook-url", help="where events are sent (default nowhere)")
    add(
        "--webhook-secret",
        action="append",
        help=f"signs what is sent; with several there are several signatures (default {WEBHOOK_SECRET})",
    )
    add("--pay-later-seconds", type=float, default=5.0, help="until a slow payment ends (default 5)")
    add("--promotion-code", action="append", metavar="CODE[=PERCENT]", help="a code that buyers may use (100 %% off)")
    add("--seed", type=int, default=0, help="of the faults that strike with a probability (default 0)")
    return parser


if __name__ == "__main__":
    main()
