"""Which tests xdist gives to one process: those of a module that share what takes long to make. They come first.

Its own way, the mark `xdist_group`, says so in a test's id, which pytest 9.2 does not let it change any more.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

MODULES = frozenset(
    f"tests/{name}.py"
    for name in (
        "api/test_schemathesis",
        "billing/test_kill",
        "credits/test_rate_windows",
        "database/moving/test_moving",
        "database/test_plans",
        "e2e/test_attacks",
        "e2e/test_control_plane",
        "e2e/test_hostile_upstream",
        "e2e/test_route_limits",
        "e2e/test_streams",
        "e2e/test_vanish",
        "e2e/test_websocket",
    )
)


class Together(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module in MODULES else nodeid

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """And what is done is forgotten: it would be counted again after each test, all of it."""
        super().mark_test_complete(node, item_index, duration)
        given = self.assigned_work[node]
        for scope in [scope for scope, tests in given.items() if all(tests.values())]:
            del given[scope]
