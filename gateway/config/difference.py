"""What is different between two configs, in words for the log, and which of it a running gateway can take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from gateway.config.masking import masked
from gateway.config.tree import Config, PackSection, RouteSection, Section

LIVE = (
    *("routes", "upstreams", "identity", "credits.signup_credits", "log.level", "log.access", "log.access_sample"),
    "telemetry.sample",
    *("server.trusted_proxies", "server.body_max_bytes", "server.watch_config", "server.timing_headers", "admin.hosts"),
)
"""What may change while the gateway runs, with all that is below it. All else is bound to sockets, processes, the
database or money under way, and takes a restart."""

_SHOWN_MAX = 200


@dataclass(frozen=True, slots=True)
class Change:
    """`path` names a key, routes by their methods and path. `old` and `new` are masked; "" where there is none."""

    path: str
    old: str
    new: str

    @property
    def is_live(self) -> bool:
        """Whether it can be taken without a restart."""
        return any(self.path == key or self.path.startswith((key + ".", key + "[")) for key in LIVE)

    def __str__(self) -> str:
        if not self.old:
            return f"{self.path}: added {self.new}"
        if not self.new:
            return f"{self.path}: removed {self.old}"
        return f"{self.path}: {self.old} -> {self.new}"


def differences(old: Config, new: Config) -> list[Change]:
    """Every change, in the order of the tree."""
    return list(_between("", old, new))


def _between(path: str, old: object, new: object) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, Section) and type(old) is type(new):
        for name in type(old).model_fields:
            yield from _between(f"{path}.{name}" if path else name, getattr(old, name), getattr(new, name))
        return
    before, after = _named(old), _named(new)
    if before is None or after is None:
        changed = " (another one)" if isinstance(new, SecretStr) and _shown(old) == _shown(new) else ""
        yield Change(path, _shown(old), _shown(new) + changed)
        return
    for name in dict.fromkeys((*before, *after)):
        here = f"{path}[{name}]" if " " in name or "/" in name else f"{path}.{name}"
        if name not in before:
            yield Change(here, "", _shown(after[name]))
        elif name not in after:
            yield Change(here, _shown(before[name]), "")
        else:
            yield from _between(here, before[name], after[name])


def _named(value: object) -> Mapping[str, object] | None:
    """The items of a collection by what they are known by; None for what is a value of its own."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and all(isinstance(item, RouteSection | PackSection) for item in value):
        return {_name(item): item for item in value}
    return None


def _name(item: RouteSection | PackSection) -> str:
    return item.id if isinstance(item, PackSection) else f"{','.join(item.methods)} {item.path}"


def _shown(value: object) -> str:
    """On one line and of a bounded length; of a section only what is not its default."""
    if isinstance(value, Section):
        fields = type(value).model_fields
        plain = {
            name: masked(getattr(value, name))
            for name, field in fields.items()
            if getattr(value, name) != field.get_default(call_default_factory=True)
        }
    else:
        plain = masked(value)
    text = json.dumps(plain, ensure_ascii=False)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
