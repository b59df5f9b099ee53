"""The Markdown pages of the repository, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks marked with that language ("" for those that are not marked)."""
    return [text for marked, text in BLOCK.findall(page.read_text()) if marked == language]


def prose(page: Path) -> str:
    """The page without its code blocks, each stretch of white space a space."""
    return " ".join(BLOCK.sub("", page.read_text()).split())


def spans(page: Path) -> list[str]:
    """What stands between back-ticks."""
    return re.findall(r"`([^`]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    return {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def command_lines() -> Iterator[tuple[Path, str]]:
    """Every line that a reader would paste into a shell."""
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", "").splitlines():
                if line.strip():
                    yield page, line
