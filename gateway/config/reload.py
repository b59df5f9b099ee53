"""A config that is changed while the gateway runs: read it, check it whole, say what is different, take it or leave it.

All or nothing: a file with one change that needs a restart is refused with all others in it. So what runs is always
what one file said, never a mixture that nobody wrote, and whoever restarts later gets no second surprise.

Loop-free: the supervisor of several workers uses it without a loop, one worker alone in a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.config.difference import Change, differences
from gateway.config.problem import ConfigError
from gateway.config.source import ConfigSource
from gateway.config.tree import Config

logger = logging.getLogger("gateway.config")

Result = Literal["applied", "unchanged", "refused"]
WATCH_SECONDS = 1.0
"""How often files are looked at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reload: `changes` that were taken, or `problems` that stood against it."""

    result: Result
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadState:
    """What the metrics say of all reloads so far. Times are Unix seconds."""

    is_success: bool = True
    loaded_at: float = field(default_factory=time.time)
    """When the config in force was read."""
    counts: tuple[tuple[Result, int], ...] = (("applied", 0), ("unchanged", 0), ("refused", 0))

    def after(self, outcome: Outcome) -> ReloadState:
        counts = tuple((result, count + (result == outcome.result)) for result, count in self.counts)
        if outcome.result == "refused":
            return ReloadState(is_success=False, loaded_at=self.loaded_at, counts=counts)
        return ReloadState(is_success=True, loaded_at=time.time(), counts=counts)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A config that may be taken."""

    config: Config
    changes: tuple[Change, ...]


class Reloader:
    """Keeps the config in force and what became of each try to change it."""

    def __init__(self, source: ConfigSource, config: Config) -> None:
        self.config = config
        self.state = ReloadState()
        self._source = source

    def has_changed(self) -> bool:
        """Whether a file looks different, where that is watched. Ask every WATCH_SECONDS."""
        return self.config.server.watch_config and self._source.has_changed()

    def read(self, why: str) -> Proposal | Outcome:
        """Read the files. What can't be taken, or changes nothing, is an outcome already, and logged."""
        try:
            config = self._source.load()
        except ConfigError as error:
            return self.refuse(tuple(map(str, error.problems)), why)
        changes = tuple(differences(self.config, config))
        pinned = [change for change in changes if not change.is_live]
        if pinned:
            return self.refuse([f"{change.path} can't change without a restart ({change})" for change in pinned], why)
        if not changes:
            logger.info("config reloaded (%s): nothing is different", why)
            return self._end(Outcome("unchanged"))
        return Proposal(config, changes)

    def take(self, proposal: Proposal, why: str) -> Outcome:
        """It is in force from now on."""
        for change in proposal.changes:
            logger.info("config: %s", change)
        logger.info("config reloaded (%s): %d changes are in force", why, len(proposal.changes))
        self.config = proposal.config
        return self._end(Outcome("applied", tuple(map(str, proposal.changes))))

    def refuse(self, problems: Sequence[str], why: str) -> Outcome:
        """Nothing of it is in force; what was, stays."""
        for problem in problems:
            logger.error("config: %s", problem)
        logger.error("config not reloaded (%s): %d problems; the one before stays in force", why, len(problems))
        return self._end(Outcome("refused", problems=tuple(problems)))

    def _end(self, outcome: Outcome) -> Outcome:
        self.state = self.state.after(outcome)
        return outcome
