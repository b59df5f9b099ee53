"""What is measured: every metric family, its labels and its meaning, in one table.

No label ever carries a key, a user or a path: only names from the configuration and words of our own, so the number
of series is bounded by the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bounds = tuple[float, ...]

SECONDS: Bounds = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the buckets of durations."""

ROWS: Bounds = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the buckets of batch sizes."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `over_workers` says how the gauges of several workers become one. A counter that is kept
    in one place and told to all workers is handed in as a gauge of each, too: `max`."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: Bounds = ()
    over_workers: Literal["sum", "min", "max"] = "sum"


FAMILIES: dict[str, Family] = {
    "requests": Family(
        "counter",
        "Calls that ended, by the status of their answer; 499: the caller left, or was stopped, before there was one.",
        ("route", "method", "status"),
    ),
    "request_duration_seconds": Family(
        "histogram",
        "From a call's head read to its end: its answer's last byte handed over, or cut.",
        ("route",),
        SECONDS,
    ),
    "upstream_duration_seconds": Family(
        "histogram", "The part of a call spent with the upstream, its body included.", ("route",), SECONDS
    ),
    "overhead_seconds": Family(
        "histogram", "What is left of a call without its upstream and its hold: mostly the gateway itself.", (), SECONDS
    ),
    "verify_duration_seconds": Family(
        "histogram",
        "From a call's head read to its cost taken: its body's beginning, checking the key, the commit.",
        (),
        SECONDS,
    ),
    "credits_charged": Family("counter", "Credits kept for calls.", ("route",)),
    "credits_released": Family("counter", "Credits of holds that were given back whole, by why.", ("route", "reason")),
    "repeats": Family(
        "counter",
        "Calls that came again with their Idempotency-Key, by what they were told: replayed (the first answer), running"
        " (409), not_kept (409: done, but the answer was not kept), other (422: it was used for another request).",
        ("route", "result"),
    ),
    "refusals": Family(
        "counter",
        "Problems of the gateway's own by slug: calls it refused or failed, and what never became a call"
        " (malformed or late requests, connections over the limit).",
        ("reason",),
    ),
    "holds_open": Family("gauge", "Holds that have neither been settled nor released yet."),
    "journal_pending": Family("gauge", "Changes to holds that wait to be committed."),
    "database_commits": Family("counter", "Transactions committed by the writer."),
    "database_batch_size": Family("histogram", "Changes that share one transaction.", (), ROWS),
    "tasks": Family("gauge", "Tasks of the event loop: one for each running call, and a few of the gateway's own."),
    "connections_open": Family("gauge", "Callers' connections."),
    "requests_waiting": Family("gauge", "Requests that wait at the door, unread, until there is room for them."),
    "overloaded": Family(
        "gauge", "1 while a worker refuses who has waited for long: more come than it can serve.", over_workers="max"
    ),
    "upstream_connections_open": Family("gauge", "Connections to the upstream, in use or idle.", ("upstream",)),
    "upstream_connections_idle": Family("gauge", "Connections to the upstream that wait for a call.", ("upstream",)),
    "upstream_connections_waiting": Family("gauge", "Calls that wait for a connection.", ("upstream",)),
    "upstream_up": Family(
        "gauge", "1 while the target gets calls, at every worker.", ("upstream", "target"), over_workers="min"
    ),
    "circuit_state": Family(
        "gauge",
        "The target's circuit breaker, at the worker where it is worst: 0 closed, 1 half-open (one call tries the"
        " target), 2 open (ejected).",
        ("upstream", "target"),
        over_workers="max",
    ),
    "upstream_ejections": Family(
        "counter",
        "How often the target was ejected, by the failure that did it.",
        ("upstream", "target", "reason"),
    ),
    "upstream_retries": Family(
        "counter", "Calls that failed at the target and were tried at another.", ("upstream", "target")
    ),
    "upstream_retries_refused": Family(
        "counter", "Calls that might have been tried again, but for the retry budget.", ("upstream",)
    ),
    "orders_for_a_person": Family(
        "gauge", "Sales that a person should look at: `gateway orders list`.", over_workers="min"
    ),
    "stripe_events_waiting": Family(
        "gauge", "Stripe's events that are stored and not worked on yet.", over_workers="min"
    ),
    "stripe_events_dead": Family(
        "gauge", "Stripe's events that failed too often: `gateway orders list`.", over_workers="min"
    ),
    "notifications_waiting": Family("gauge", "Notifications that the app has not taken yet.", over_workers="min"),
    "config_reloads": Family(
        "counter", "Reloads of the config, by what became of them.", ("result",), over_workers="max"
    ),
    "config_last_reload_success": Family(
        "gauge", "1 if the last reload was taken, or changed nothing; 0 if it was refused.", over_workers="min"
    ),
    "config_last_reload_timestamp_seconds": Family(
        "gauge", "When the config in force was read, as Unix time.", over_workers="max"
    ),
    "spans": Family(
        "counter",
        "Spans of sampled calls (`telemetry`), by what became of them: exported, refused (the collector did not take"
        " them in time), no_room (too many waited).",
        ("result",),
    ),
    "ready": Family("gauge", "1 if every worker is ready to take calls.", over_workers="min"),
    "workers": Family("gauge", "Live worker processes."),
}
"""By name, without the namespace `gateway_` and without the `_total` that the exposition puts behind counters."""
