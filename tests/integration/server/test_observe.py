"""What Grafana and Prometheus are told to look at is what ``/metrics`` exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

OBSERVE = Path(__file__).parents[3] / "deploy" / "observe"
NAME = re.compile(r"\b(?:paramem|process)_[a-z0-9_]+")
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


def exported(client: TestClient) -> set[str]:
    """Every name a query may use, also of metrics that have no sample yet."""
    return {
        family.name + suffix
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for suffix in SUFFIXES[family.type]
    }


def test_every_metric_of_the_dashboard_is_exported(client: TestClient) -> None:
    dashboard = json.loads((OBSERVE / "dashboards" / "paramem.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = set(NAME.findall(" ".join(queries)))
    assert len(named) > 20
    assert named <= exported(client)


def test_every_alert_watches_something_exported_and_says_what_to_do(client: TestClient) -> None:
    [group] = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    names = exported(client)
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        used = set(NAME.findall(rule["expr"]))
        assert used <= names, rule["alert"]
        assert used or "up{" in rule["expr"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["what_to_do"]
