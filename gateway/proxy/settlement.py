"""What a call costs in the end, decided by the first response head and by what the upstream says it used."""

from __future__ import annotations

import logging
import re

from gateway.proxy.route import Route
from gateway.upstreams.transport import Headers, UpstreamRequest

logger = logging.getLogger("gateway.proxy")

_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,18}")


def release_word(route: Route, request: UpstreamRequest, status: int) -> str:
    """Why an answer with this status gives the credits back, in a word of `release_on`; empty if it does not."""
    if status >= 500:
        return "5xx" if route.releases_5xx else ""
    if status >= 400 and route.releases_4xx:
        return "4xx"
    # Refused or sent elsewhere. But a 2xx is an answer: whoever only pretends to want an upgrade pays for it.
    return "no_upgrade" if request.upgrade and status >= 300 else ""


def told_cost(route: Route, headers: Headers, request_id: str) -> int | None:
    """The cost that the upstream tells in `headers`, clamped to 0..hold; None if it tells none.

    Nonsense costs the whole hold and is logged: an upstream's mistake must not be a discount.
    """
    values = [value for name, value in headers if name == route.settle_header]
    if not values:
        return None
    if len(values) > 1 or not _WHOLE_NUMBER.fullmatch(values[0]):
        logger.warning(
            "%s: the upstream's %s is not a number of credits; the whole hold of %d is kept",
            request_id,
            route.settle_header.decode("ascii"),
            route.cost,
        )
        return route.cost
    cost = int(values[0])
    if not 0 <= cost <= route.cost:
        logger.warning("%s: the upstream's cost %d is outside 0..%d and was clamped", request_id, cost, route.cost)
    return min(max(cost, 0), route.cost)
