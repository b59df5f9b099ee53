"""Another config while calls run: what is swapped, all at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gateway.config.masking import secrets_of
from gateway.config.tree import Config
from gateway.credits.secrets import PREFIX
from gateway.deadlines import Deadlines
from gateway.observe.access_log import AccessLog
from gateway.observe.logs import is_json, redact_anew, set_level
from gateway.observe.redaction import Redaction
from gateway.proxy.endpoint import Endpoint
from gateway.snapshot import Snapshot, Snapshots

if TYPE_CHECKING:
    from gateway.telemetry import Telemetry


class AccessLogs:
    """The access log: opened when it is first wanted, closed at the end."""

    def __init__(self, deadlines: Deadlines, stack: AsyncExitStack) -> None:
        self._deadlines = deadlines
        self._stack = stack
        self._opened: AccessLog | None = None

    def of(self, config: Config) -> AccessLog | None:
        """The one for this config; None where it wants none."""
        if config.log.access and self._opened is None:
            json_lines = is_json(config.log.format, sys.stderr)
            redaction = Redaction([PREFIX], secrets_of(config))
            sample = config.log.access_sample
            self._opened = AccessLog(sys.stderr.fileno(), json_lines=json_lines, redaction=redaction, sample=sample)
            self._deadlines.watch(self._opened)
            self._stack.callback(self._opened.close)
        return self._opened if config.log.access else None

    def take(self, config: Config, secrets: Iterable[str]) -> None:
        """Go by this config from now on, and hide these."""
        if self._opened is not None:
            self._opened.sample = config.log.access_sample
            self._opened.redact_by(Redaction([PREFIX], secrets))


class Live:
    """Swaps the snapshot that new calls go by."""

    def __init__(
        self, snapshots: Snapshots, endpoint: Endpoint, access_logs: AccessLogs, telemetry: Telemetry | None
    ) -> None:
        self.snapshots = snapshots
        self._endpoint = endpoint
        self._access_logs = access_logs
        self._telemetry = telemetry

    def commit(self, snapshot: Snapshot) -> None:
        before, after = self.snapshots.current.config, snapshot.config
        # What is in flight may still speak of the old ones.
        secrets = {*secrets_of(before), *secrets_of(after)}
        redact_anew(secrets)
        self._access_logs.take(after, secrets)
        if self._telemetry is not None:
            self._telemetry.take(after, secrets)
        if before.log.level != after.log.level:
            set_level(after.log.level)
        self.snapshots.commit(snapshot)
        self._endpoint.swap(snapshot.routes, snapshot.heads, snapshot.access_log, snapshot.control)
