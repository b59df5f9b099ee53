"""The figures of a benchmark: medians over the rounds, as a table, JSON and a drawing, and in docs/performance.md."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from statistics import median

from benchmarks.load import Run
from benchmarks.processes import Unusable

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = "nginx"
DISTURBED_SHARE = 0.05
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = ("", "requests/s", "p50 ms", "p99 ms", "errors", "× nginx", "proxy core", "load core")


@dataclass(frozen=True, slots=True)
class Figures:
    """One contender's rounds, in order, and what is quoted from them."""

    name: str
    label: str
    runs: Sequence[Run]
    ratio: float | None
    """Median over the rounds of requests/s divided by the reference's in the same round; None without it."""

    def middle(self, field: str) -> float:
        """Median over the rounds of a field of Run."""
        return float(median(getattr(run, field) for run in self.runs))

    @property
    def errors(self) -> int:
        return sum(run.errors for run in self.runs)

    def cells(self) -> list[str]:
        return [
            self.label,
            f"{self.middle('requests_per_second'):,.0f}",
            f"{self.middle('p50_ms'):.2f}",
            f"{self.middle('p99_ms'):.2f}",
            str(self.errors),
            "" if self.ratio is None else f"{self.ratio:.2f}",
            f"{self.middle('proxy_core_busy'):.0%}",
            f"{self.middle('load_core_busy'):.0%}",
        ]


def summarise(runs: Mapping[str, Sequence[Run]], labels: Mapping[str, str]) -> list[Figures]:
    """The figures of each contender, in the order measured."""
    reference = runs.get(REFERENCE)
    figures = []
    for name, rounds in runs.items():
        ratio = None
        if reference:
            pairs = zip(rounds, reference, strict=True)
            ratio = median(run.requests_per_second / base.requests_per_second for run, base in pairs)
        figures.append(Figures(name, labels[name], rounds, ratio))
    return figures


def table(figures: Sequence[Figures]) -> str:
    """Aligned columns for a terminal."""
    return aligned([COLUMNS, *(one.cells() for one in figures)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, the first one flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def disturbance(figures: Sequence[Figures]) -> str:
    """A warning when other programs used the two cores meanwhile, else nothing."""
    return disturbance_of([run for one in figures for run in one.runs])


def disturbance_of(runs: Sequence[Run]) -> str:
    worst = max((run.others for run in runs), default=0.0)
    if worst <= DISTURBED_SHARE:
        return ""
    return f"other programs used up to {worst:.0%} of a core during a run: the figures are lower than they could be"


def document(figures: Sequence[Figures], setting: Mapping[str, object]) -> dict[str, object]:
    """Everything measured, for --json."""
    return {
        "setting": dict(setting),
        "contenders": [
            {
                "name": one.name,
                "label": one.label,
                "requests_per_second": round(one.middle("requests_per_second"), 1),
                "p50_ms": one.middle("p50_ms"),
                "p99_ms": one.middle("p99_ms"),
                "errors": one.errors,
                "ratio_to_nginx": one.ratio,
                "rounds": [asdict(run) for run in one.runs],
            }
            for one in figures
        ],
    }


def write_docs(
    figures: Sequence[Figures],
    alone: Sequence[Figures],
    alone_rows: Sequence[Sequence[str]],
    setting: Mapping[str, object],
    docs: Path,
) -> None:
    """Replace what stands between the markers in performance.md, and draw performance.svg. `alone` is what one
    call at a time took, `alone_rows` that table.

    Raises Unusable when a run was disturbed: what the page says must be repeatable on a quiet machine.
    """
    if note := disturbance([*figures, *alone]):
        raise Unusable(f"docs/ keeps its old figures: {note}")
    said = [markdown([COLUMNS, *(one.cells() for one in figures)]), "", _sentence(setting), ""]
    said += ["![Requests per second on one core](performance.svg)", "", "One call at a time:", ""]
    said += [markdown(alone_rows), "", f"Medians of {setting['rounds']} rounds of {setting['lonely_seconds']:g} s."]
    replace_between(docs / "performance.md", BEGIN, END, said)
    (docs / "performance.svg").write_text(drawing(figures))


def replace_between(page: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    """Put the lines between two markers."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text("\n".join([before + begin, *lines, end + after]))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(row) for row in rows]
    lines.insert(1, "---|" + "--:|" * (len(rows[0]) - 2) + "--:")
    return "\n".join(f"| {line.strip()} |" for line in lines)


def _sentence(setting: Mapping[str, object]) -> str:
    versions = setting["versions"]
    assert isinstance(versions, Mapping)
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Medians of {setting['rounds']} rounds of {setting['seconds']:g} s, {setting['connections']} connections, "
        f"on {setting['processor']}, measured on {setting['date']}. {said}."
    )


def processor() -> str:
    """The processor's name as the kernel tells it, and how many are online."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else name} ({len(names) or '?'} processors)"


BAR_WIDTH, LABEL_WIDTH, ROW_HEIGHT, MARGIN = 360, 210, 34, 16


def drawing(figures: Sequence[Figures]) -> str:
    """Requests per second as bars, p99 beside each. The bare upstream is left out: it would dwarf the proxies."""
    shown = [one for one in figures if one.name != "bare"]
    top = max((one.middle("requests_per_second") for one in shown), default=1.0)
    width = LABEL_WIDTH + BAR_WIDTH + 200 + 2 * MARGIN
    height = ROW_HEIGHT * len(shown) + 2 * MARGIN + 24
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" font-size="14" role="img">',
        "<title>Requests per second on one core</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 10}" font-weight="600" fill="#222">Requests per second on one core</text>',
    ]
    for index, one in enumerate(shown):
        y = MARGIN + 24 + index * ROW_HEIGHT
        rate = one.middle("requests_per_second")
        length = max(2.0, BAR_WIDTH * rate / top)
        colour = "#2563eb" if one.name == "gateway" else "#9ca3af"
        text_y = y + ROW_HEIGHT / 2 + 1
        figure = f"{rate:,.0f}  (p99 {one.middle('p99_ms'):.1f} ms)"
        x = MARGIN + LABEL_WIDTH
        parts += [
            f'<text x="{x - 10}" y="{text_y:g}" text-anchor="end" fill="#222">{escape(one.label)}</text>',
            f'<rect x="{x}" y="{y + 5}" width="{length:.1f}" height="{ROW_HEIGHT - 12}" rx="2" fill="{colour}"/>',
            f'<text x="{x + length + 8:.1f}" y="{text_y:g}" fill="#222">{figure}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
