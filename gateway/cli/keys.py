"""keys: make, list, show, cap, revoke and rotate API keys."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.expiry import read_expiry
from gateway.cli.failure import CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, KeyId, load, new_group, with_provider
from gateway.cli.output import print_facts, print_json, print_table, shown_credits, shown_time
from gateway.permissions import is_permission

if TYPE_CHECKING:
    from gateway.credits.provider import ApiKey, SpendCap

CREDITS_MAX = 1_000_000_000
_USER_ID = re.compile(r"[!-~]{1,128}")
"""It goes upstream in a header: visible ASCII, bytes-equal or another user."""


def _cap_option(name: str, help: str) -> Any:
    return typer.Option(name, metavar="N", min=0, max=CREDITS_MAX, help=help)


group = new_group("API keys. A secret is printed once, when it is made; only its hash is kept.")


@group.command()
def create(
    context: typer.Context,
    user: Annotated[str, typer.Option("--user", metavar="USER_ID", help="The owner's id in the app.")],
    credits: Annotated[
        int | None,
        typer.Option(
            "--credits",
            metavar="N",
            min=0,
            max=CREDITS_MAX,
            help="Credits it starts with.",
            show_default="credits.signup_credits of the config",
        ),
    ] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Never runs out of credits.")] = False,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What it is for.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="30d, 12h, or a date: 2027-01-31.")
    ] = None,
    permission: Annotated[
        list[str] | None, typer.Option("--permission", metavar="NAME", help="What routes may ask of it; repeatable.")
    ] = None,
    day_cap: Annotated[int | None, _cap_option("--day-cap", "Credits it may spend in a day (UTC).")] = None,
    month_cap: Annotated[int | None, _cap_option("--month-cap", "Credits it may spend in a month (UTC).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret."""
    if not _USER_ID.fullmatch(user):
        raise typer.BadParameter("expected 1 to 128 ASCII characters without spaces", param_hint="--user")
    permissions = permission or []
    if not all(map(is_permission, permissions)):
        raise typer.BadParameter("expected 1 to 100 letters, digits and _ : . * -", param_hint="--permission")
    if unlimited and credits is not None:
        raise typer.BadParameter("--unlimited and --credits exclude each other")
    expires_at = read_expiry(expires, now_ms=time.time_ns() // 1_000_000) if expires else None
    loaded = load(context, config)
    granted = None if unlimited else loaded.credits.signup_credits if credits is None else credits
    secret, key = with_provider(
        context,
        loaded,
        lambda provider: provider.create(
            user,
            credits=granted,
            name=name,
            expires_at=expires_at,
            permissions=permissions,
            spend_caps={"day": day_cap, "month": month_cap},
        ),
    )
    _print_secret(secret, key, as_json=as_json)


@group.command("list")
def list_keys(
    context: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="USER_ID", help="Only this owner's.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 100,
    after: Annotated[str, typer.Option("--after", metavar="KEY_ID", help="Continue after this key.")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List keys, without their secrets. DAY and MONTH: what is spent of a spend cap, and the cap."""
    loaded = load(context, config)
    keys = with_provider(context, loaded, lambda provider: provider.list(user, after=after, limit=limit))
    if as_json:
        print_json([_document(key) for key in keys])
        return
    titles = ("KEY_ID", "USER", "NAME", "STARTS", "AVAILABLE", "HELD", "DAY", "MONTH", "STATE", "CREATED", "EXPIRES")
    print_table(titles, [_row(key) for key in keys], right=("AVAILABLE", "HELD", "DAY", "MONTH"))
    if len(keys) == limit:
        print(f"There may be more: --after {keys[-1].key_id}", file=sys.stderr)


@group.command()
def show(context: typer.Context, key_id: KeyId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one key, without its secret."""
    key = with_provider(context, load(context, config), lambda provider: provider.get(key_id))
    _print_found(key, key_id, as_json=as_json)


@group.command()
def cap(
    context: typer.Context,
    key_id: KeyId,
    day: Annotated[
        str | None, typer.Option("--day", metavar="N|none", help="Credits it may spend in a day (UTC); none: all.")
    ] = None,
    month: Annotated[
        str | None, typer.Option("--month", metavar="N|none", help="Credits it may spend in a month (UTC); none: all.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Set or lift a key's spend caps. What is not named stays; what was spent already in this day and month counts."""
    named = {"day": day, "month": month}
    caps = {period: _read_cap(text, f"--{period}") for period, text in named.items() if text is not None}
    if not caps:
        raise typer.BadParameter("say --day, --month or both")
    key = with_provider(context, load(context, config), lambda provider: provider.cap(key_id, caps))
    _print_found(key, key_id, as_json=as_json)


@group.command()
def revoke(context: typer.Context, key_id: KeyId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Revoke a key. It stops at once and can't be brought back."""
    if not with_provider(context, load(context, config), lambda provider: provider.revoke(key_id)):
        raise no_such_key(key_id)
    if as_json:
        print_json({"key_id": key_id, "revoked": True})
    else:
        print(f"{key_id} is revoked")


@group.command()
def rotate(context: typer.Context, key_id: KeyId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Give a key a new secret. Its id and credits stay; the old secret stops at once."""
    rotated = with_provider(context, load(context, config), lambda provider: provider.rotate(key_id))
    if rotated is None:
        raise no_such_key(key_id)
    _print_secret(*rotated, as_json=as_json)


def no_such_key(key_id: str) -> CommandFailed:
    """An unknown key_id is not repeated when it could be a secret that was pasted by mistake."""
    shown = key_id if key_id.startswith("key_") and key_id.isprintable() else "(a key_id starts with key_)"
    return CommandFailed(f"there is no key {shown}")


def _read_cap(text: str, option: str) -> int | None:
    if text == "none":
        return None
    if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) is None or int(text) > CREDITS_MAX:
        raise typer.BadParameter(f"expected 0 to {CREDITS_MAX} credits, or none", param_hint=option)
    return int(text)


def _print_secret(secret: str, key: ApiKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"api_key": secret, **_document(key)})
        return
    _print_key(key)
    print(f"API_KEY={secret}")


def _document(key: ApiKey) -> dict[str, Any]:
    return {**dataclasses.asdict(key), "unlimited": key.available is None}


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not key.enabled:
        return "disabled"
    expired = key.expires_at is not None and key.expires_at <= time.time_ns() // 1_000_000
    return "expired" if expired else "active"


def _row(key: ApiKey) -> tuple[object, ...]:
    available, created, expires = shown_credits(key.available), shown_time(key.created_at), shown_time(key.expires_at)
    day, month = (cap and f"{cap.spent}/{cap.cap}" for cap in (key.spend_caps.day, key.spend_caps.month))
    state = _state(key)
    return key.key_id, key.user_id, key.name, f"{key.start}…", available, key.held, day, month, state, created, expires


def _shown_cap(cap: SpendCap | None) -> str | None:
    return None if cap is None else f"{cap.cap}, {cap.spent} spent, resets {shown_time(cap.resets_at)}"


def _print_found(key: ApiKey | None, key_id: str, *, as_json: bool) -> None:
    """Raises the failure that names the key where there is none."""
    if key is None:
        raise no_such_key(key_id)
    if as_json:
        print_json(_document(key))
    else:
        _print_key(key)


def _print_key(key: ApiKey) -> None:
    print_facts(
        [
            ("key_id", key.key_id),
            ("user_id", key.user_id),
            ("name", key.name),
            ("starts", f"{key.start}…"),
            ("available", shown_credits(key.available)),
            ("held", key.held),
            ("state", _state(key)),
            ("created", shown_time(key.created_at)),
            ("expires", shown_time(key.expires_at)),
            ("permissions", " ".join(key.permissions)),
            ("day cap", _shown_cap(key.spend_caps.day)),
            ("month cap", _shown_cap(key.spend_caps.month)),
        ]
    )
