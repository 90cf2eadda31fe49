"""The Grafana dashboard and the documentation know the metrics that there are, and no others."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from actors.metrics import METRICS

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "k8s" / "grafana" / "cell-ingest.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPORTED = {spec.exported: spec for spec in METRICS}
SELECTOR = re.compile(r"(?P<metric>ray_\w+)\{(?P<labels>[^}]*)\}(?P<window>\[[^\]]+\])?")


def used(query):
    """Return the metrics of a query, each with the labels it selects by and whether over a window."""
    found = [match.groupdict() for match in SELECTOR.finditer(query)]
    assert len(found) == query.count("ray_"), f"a metric without a selector: {query}"
    return [(one["metric"], dict(re.findall(r'(\w+)=~?"([^"]*)"', one["labels"])), one["window"]) for one in found]


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_of_metrics_and_labels_that_we_export(query):
    for metric, labels, window in used(query):
        spec = EXPORTED[metric]
        assert labels.pop("dest") == "$dest"
        for label, value in labels.items():
            assert label in spec.labels
            assert value in re.split(r"\W+", spec.about), f"{value} is none of: {spec.about}"
        if re.search(rf"(rate|increase)\({metric}", query):
            assert spec.kind == "counter"
            assert window
        if re.search(rf"deriv\({metric}", query):
            assert spec.kind == "gauge"
    known = {"dest", *itertools.chain.from_iterable(EXPORTED[metric].labels for metric, _, _ in used(query))}
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert set(re.split(r",\s*", grouped)) <= known


def test_every_metric_is_shown():
    assert {metric for query in QUERIES for metric, _, _ in used(query)} == EXPORTED.keys()


def test_it_is_a_dashboard_of_a_recent_schema_that_any_prometheus_serves():
    assert DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD, "an id belongs to one Grafana"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    asked = variables["dest"]["query"]["query"]
    assert re.fullmatch(r"label_values\((\w+), dest\)", asked)[1] in EXPORTED
    sources = [one["datasource"] for panel in PANELS for one in (panel, *panel["targets"])]
    assert all(
        source == {"type": "prometheus", "uid": "${datasource}"}
        for source in [*sources, variables["dest"]["datasource"]]
    )
    assert "__inputs" not in DASHBOARD


def test_panels_are_titled_have_units_and_do_not_overlap():
    taken = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert panel["title"]
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            grouped = set(re.split(r",\s*", "".join(re.findall(r"^\w+ by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped


def test_the_documentation_names_every_metric_with_its_labels():
    rows = re.findall(
        r"^\| `(ray_\w+)` \| (counter|gauge) \| ([^|]*) \|",
        (ROOT / "docs" / "observability.md").read_text(),
        re.MULTILINE,
    )
    assert {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == {
        spec.exported: (spec.kind, spec.labels) for spec in METRICS
    }
