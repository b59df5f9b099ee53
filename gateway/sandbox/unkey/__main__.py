"""The stand-in for Unkey as a process: `python -m gateway.sandbox.unkey --port 9001`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import uvloop

from gateway.sandbox.process import add_address, listen, serve_until_stopped
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from gateway.sandbox.unkey.settings import Settings


async def run(server: UnkeyServer, options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, having said where on standard output."""
    await listen(server.start, options)
    await serve_until_stopped(server, f"unkey sandbox on http://{options.host}:{server.port}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings()
    settings.change({name: getattr(options, name) for name in settings.document() if hasattr(options, name)})
    server = UnkeyServer(
        root_keys=dict(map(_root_key, options.root_key or [ROOT_KEY])),
        api_ids=tuple(options.api_id or [API_ID]),
        settings=settings,
        seed=options.seed,
    )
    uvloop.run(run(server, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.sandbox.unkey", description="A stand-in for Unkey.")
    add_address(parser, 9001)
    add = parser.add_argument
    add(
        "--root-key",
        action="append",
        metavar="KEY[=PERMISSION,…]",
        help=f"a root key that is accepted, with all permissions or these; may be repeated (default {ROOT_KEY})",
    )
    add("--api-id", action="append", help=f"an API that has keys; may be repeated (default {API_ID})")
    add("--replay-lag-seconds", type=float, default=0.0, help="until a spend reaches the stored value (default 0)")
    add("--key-cache-seconds", type=float, default=0.0, help="age to which verifyKey trusts a row it read (default 0)")
    add("--key-cache-stale-seconds", type=float, default=0.0, help="age to which such a row serves once more")
    add("--workspace-limit-per-minute", type=int, help="calls per minute, of any kind (default: no limit)")
    add("--seed", type=int, default=0, help="of the faults that strike with a probability (default 0)")
    return parser


def _root_key(argument: str) -> tuple[str, RootKey]:
    secret, limited, permissions = argument.partition("=")
    return secret, RootKey(tuple(permissions.split(","))) if limited else RootKey()


if __name__ == "__main__":
    main()
