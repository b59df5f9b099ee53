"""Open files: every connection is one, and the process that has no more can't even open its database.

The limit (`ulimit -n`) is raised as far as the system lets us. Where that is not enough for what is configured, fewer
callers are let in, so that those who are in can be served and ops still get an answer.
"""

from __future__ import annotations

import logging
import resource
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import Config
    from gateway.server.limits import Limits

ADMIN_CONNECTIONS_MAX = 32
OWN_FILES_MAX = 64
"""What the loop, the listening sockets, the database, the logs and the metrics open, at most."""

logger = logging.getLogger(__name__)


def raise_open_files_max() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems call their hard limit infinite, and mean less
        return soft
    return hard


def fit(limits: Limits, config: Config, open_files_max: int) -> Limits:
    """The limits with as many callers' connections as there can be, given what else will be open.

    Half of what is left for connections is the callers' in any case: one of theirs needs one to an upstream at most.
    """
    if open_files_max == resource.RLIM_INFINITY:
        return limits
    left = max(0, open_files_max - OWN_FILES_MAX - ADMIN_CONNECTIONS_MAX)
    turned_away = min(limits.turned_away_max, left // 4)
    left -= turned_away
    upstreams = sum(upstream.connections_max * len(upstream.targets) for upstream in config.upstreams.values())
    room = max(1, left - min(upstreams, left // 2))
    if room >= limits.connections_max:
        return limits
    logger.warning(
        "at most %d connections of callers are taken, not the %d of server.connections_max: the process may open %d"
        " files; raise its hard limit (ulimit -Hn)",
        room,
        limits.connections_max,
        open_files_max,
    )
    return replace(limits, connections_max=room, turned_away_max=turned_away)


def fit_admin(limits: Limits) -> Limits:
    """The same limits for the few connections of ops, which have room of their own."""
    return replace(limits, connections_max=ADMIN_CONNECTIONS_MAX, calls_max=sys.maxsize)
