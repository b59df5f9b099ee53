"""What can be set about the stand-in's surroundings: its lags, its limits."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.sandbox.fields import Field, flag, number, object_of, whole


@dataclasses.dataclass(slots=True)
class Settings:
    """How far the stand-in is from an ideal store; the defaults are a store without lags. Changed while it runs.

    Unkey's own values are `key_cache_seconds=10`, `key_cache_stale_seconds=600` and a replay lag that depends on load.
    """

    replay_lag_seconds: float = 0.0
    """Until a spend reaches the stored value that getKey, listKeys and updateCredits go by."""
    counter_seconds: float = 60.0
    """Life of a live counter; it is then loaded from the stored value, whatever has not been replayed by then."""
    key_cache_seconds: float = 0.0
    """So long verifyKey answers from a row that it has read, though updateKey or deleteKey changed it since."""
    key_cache_stale_seconds: float = 0.0
    """Up to this age a row that is no longer fresh serves one more answer, which makes the cache read it anew."""
    regions: int = 1
    """Regions that verifyKey calls go to in turn, each with counters and a cache of its own."""
    workspace_limit_per_minute: int | None = None
    """Calls of any kind; more are 429. None is Unkey's default: no limit."""
    forbids_unscoped_root_keys: bool = False
    """Whether verifyKey with a root key that may verify nothing at all is 403, as Unkey's description says, or
    NOT_FOUND for every key, as its server was found to answer."""

    def change(self, changes: dict[str, Any]) -> None:
        """Set some anew. Raises InvalidField, and then nothing is changed."""
        SETTINGS(changes, "settings")
        for name, value in changes.items():
            setattr(self, name, value)

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_SECONDS = number(0, 86_400)
SETTINGS: Field = object_of(
    {
        "replay_lag_seconds": _SECONDS,
        "counter_seconds": _SECONDS,
        "key_cache_seconds": _SECONDS,
        "key_cache_stale_seconds": _SECONDS,
        "regions": whole(1, 16),
        "workspace_limit_per_minute": whole(0, nullable=True),
        "forbids_unscoped_root_keys": flag(),
    }
)
