"""The table of metrics in docs/operations.md, from families.py.

`python -m gateway.observe.reference docs/operations.md` writes it anew between its two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.observe.exposition import NAMESPACE
from gateway.observe.families import FAMILIES

BEGIN = "<!-- metrics: begin -->\n"
END = "<!-- metrics: end -->"


def metrics_table() -> str:
    """Every family as it is exposed, in Markdown."""
    rows = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for name, family in FAMILIES.items():
        shown = f"{NAMESPACE}{name}{'_total' if family.kind == 'counter' else ''}"
        labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
        rows.append(f"| `{shown}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    """The page with the table between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + metrics_table() + END + after


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text()))
