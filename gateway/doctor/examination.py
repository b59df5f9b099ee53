"""Examinations side by side, all within one bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from gateway.doctor.diagnosis import Diagnosis, fail

EXAMINE_SECONDS = 10.0
"""For all examinations together."""

OnProgress = Callable[[Sequence[str]], None]
"""Told the names of the examinations that are still under way, whenever they change."""


@dataclass(frozen=True, slots=True)
class Examination:
    """`run` gives diagnoses as it finds them, and may be cancelled between two."""

    name: str
    run: Callable[[], AsyncIterator[Diagnosis]]


async def examine(
    examinations: Sequence[Examination], on_progress: OnProgress, timeout_seconds: float = EXAMINE_SECONDS
) -> list[Diagnosis]:
    """All diagnoses, in the order of the examinations. One that does not end in time is told with what it found."""
    under_way = [examination.name for examination in examinations]
    on_progress(tuple(under_way))

    async def run(examination: Examination) -> list[Diagnosis]:
        found = await _run(examination, timeout_seconds)
        under_way.remove(examination.name)
        on_progress(tuple(under_way))
        return found

    results = await asyncio.gather(*map(run, examinations))
    return [diagnosis for found in results for diagnosis in found]


async def _run(examination: Examination, timeout_seconds: float) -> list[Diagnosis]:
    found: list[Diagnosis] = []
    try:
        async with asyncio.timeout(timeout_seconds):
            async for diagnosis in examination.run():
                found.append(diagnosis)  # noqa: PERF401 - what was found before time is up counts
    except TimeoutError:
        found.append(fail(examination.name, f"did not answer within {timeout_seconds:g} s, so the rest is not known"))
    return found
