"""One request to the control plane, for the log and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from starlette.types import Scope

from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics

CALLER_LEFT = 499
"""The status the log gives a request whose caller left before the answer. Never sent."""
SCOPE_KEY = "gateway.visit"


@dataclass(slots=True)
class Visit:
    """`path` is the operation's, "" where there is none; `verdict` is "" or refused:<slug>; `started_at` is
    `time.perf_counter()` seconds."""

    request_id: str
    started_at: float
    path: str = ""
    key_id: str = ""
    status: int = CALLER_LEFT
    verdict: str = ""
    bytes_sent: int = 0


def visit_of(scope: Scope) -> Visit:
    visit: Visit = scope[SCOPE_KEY]
    return visit


class Recorder:
    """Adds visits to the metrics of their paths, and to the access log if there is one."""

    def __init__(self, paths: set[str], metrics: Metrics, access_log: AccessLog | None) -> None:
        self._metrics = metrics
        self._routes = {path: metrics.route(path) for path in paths}
        self._access_log = access_log

    def refuse(self, visit: Visit, slug: str) -> None:
        visit.verdict = f"refused:{slug}"
        self._metrics.refuse(slug)

    def record(self, visit: Visit, scope: Scope) -> None:
        seconds = perf_counter() - visit.started_at
        if visit.path:
            self._routes[visit.path].observe_own(scope["method"], visit.status, seconds)
        if self._access_log is not None:
            self._access_log.add(
                visit.request_id,
                scope["method"],
                scope["raw_path"],
                visit.status,
                visit.path,
                visit.key_id,
                0,
                visit.verdict,
                visit.bytes_sent,
                seconds,
                0.0,
            )
