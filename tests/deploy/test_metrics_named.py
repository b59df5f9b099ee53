"""What deploy/ names exists: every metric in its dashboards and alerts, every label, every page of the runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.observe.families import FAMILIES
from tests.docs.pages import ROOT, anchors

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"

TEXT = re.compile(r'"(?:\\.|[^"\\])*"')
RANGE = re.compile(r"\[[^\]]*\]")
LABELS = re.compile(r"\{([^}]*)\}|\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
FUNCTIONS = {"rate", "increase", "sum", "min", "max", "histogram_quantile", "time", "label_values"}
ADDED = {"job", "le"}
"""Labels that Prometheus and its histograms add."""


def exposed() -> set[str]:
    """Every name that a sample may have."""
    names: set[str] = set()
    for name, family in FAMILIES.items():
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[family.kind]
        names |= {f"gateway_{name}{ending}" for ending in endings}
    return names


def labels_of(metric: str) -> set[str]:
    name = re.sub(r"_(total|bucket|sum|count)$", "", metric.removeprefix("gateway_"))
    return set(FAMILIES.get(name, FAMILIES.get(metric.removeprefix("gateway_"))).labels)


def taken_apart(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels of a PromQL expression. Whatever else is a word must be a function."""
    bare = RANGE.sub("", TEXT.sub("", expression))
    labels = {word for groups in LABELS.findall(bare) for group in groups for word in WORD.findall(group)}
    words = set(WORD.findall(LABELS.sub(" ", bare)))
    return words - FUNCTIONS, labels


def strings_under(document: Any, key: str) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from strings_under(value, key)
    elif isinstance(document, list):
        for item in document:
            yield from strings_under(item, key)


def expressions() -> list[str]:
    alerts, dashboard = yaml.safe_load(ALERTS.read_text()), json.loads(DASHBOARD.read_text())
    found = [*strings_under(alerts, "expr"), *strings_under(dashboard, "expr")]
    assert len(found) > 20
    return found


def test_every_metric_of_the_dashboards_and_alerts_exists():
    for expression in expressions():
        metrics, labels = taken_apart(expression)
        assert metrics, expression
        assert metrics <= exposed(), f"{expression}: {metrics - exposed()}"
        known = set().union(*(labels_of(metric) for metric in metrics)) | ADDED
        assert labels <= known, f"{expression}: {labels - known}"


def test_every_metric_that_is_named_anywhere_exists():
    """In variables, descriptions and links too, and in whatever file comes later."""
    known = exposed() | {f"gateway_{name}" for name in FAMILIES}
    texts = [file.read_text() for file in sorted((ROOT / "deploy").rglob("*")) if file.is_file()]
    named = {name for text in texts for name in re.findall(r"\bgateway_\w+", text)}
    assert len(named) > 20
    assert named <= known, named - known


def test_a_name_that_does_not_exist_would_be_found():
    metrics, labels = taken_apart('sum by (rout) (rate(gateway_request_total{state="x"}[5m]))')
    assert metrics == {"gateway_request_total"}
    assert labels == {"rout", "state"}
    assert not metrics <= exposed()


def test_every_reason_that_an_alert_asks_for_is_a_problem_of_ours():
    from gateway.errors_reference import EXPLANATIONS

    slugs = {explanation.example.slug for explanation in EXPLANATIONS}
    for expression in expressions():
        for reason in re.findall(r'reason="([^"]*)"', expression):
            assert reason in slugs


def test_every_alert_names_a_section_of_the_operations_page():
    known = anchors(ROOT / "docs" / "operations.md")
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["annotations"]["runbook"] in known, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
