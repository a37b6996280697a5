"""Dashboard and alert rules ask for what a real server tells: every metric, and every label of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.quality import Answers
from tests import models
from tests.conftest import LiveServer
from tests.models import LABELS, with_card
from tests.server.test_drift import reference
from tests.server.test_metrics import Scraped
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "topclass.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((DEPLOY / "prometheus" / "topclass.rules.yml").read_text())["groups"][0]["rules"]
QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
QUERIES |= {rule["alert"]: rule["expr"] for rule in RULES}
OF_PROMETHEUS = {"instance", "job"}
Labels = dict[str, set[str]]


def asked(query: str) -> list[tuple[str, set[str]]]:
    """The series that a query names, each with the labels that it is chosen or grouped by."""
    found = []
    for name, chosen in re.findall(r"\b(topclass_\w+|process_\w+)\s*(\{[^}]*\})?", query):
        found.append((name, set(re.findall(r"(\w+)\s*[=!]~?", chosen))))
    groups = {label for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(", ")}
    return [(name, labels | groups) for name, labels in found]


@pytest.fixture
def told(repository: Path, serve: Callable[..., LiveServer]) -> Labels:
    """Of each series that a real server tells, its labels. It has a reference, and answers with a score."""
    models.put(repository, "pets", 2, with_card(models.classifier(), reference=reference()))
    models.put(repository, "pets", 3, b"no model at all")
    server = serve(models=repository, http_port=0)
    server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert server.app.metrics
    assert server.app.gateway
    # A model whose graph has a score, as its lane tells it.
    scored = server.app.metrics.lane("pets", 2, Answers(LABELS, served_reference(server), threshold=1.0))
    scored([], np.array([[0.5, 0.3, 0.2, 2.0]] * 600, np.float32), 0.001, [])
    labels: Labels = {}
    for family in text_string_to_metric_families(Scraped(server.app.gateway.address()).text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def served_reference(server: LiveServer) -> object:
    """The reference of version 2, as the server read it."""
    [served] = [served for served in server.app.repository.ready() if served.version == 2]
    assert served.model.card
    return served.model.card.reference


def test_every_query_asks_for_metrics_and_labels_that_a_server_tells(told: Labels) -> None:
    """No panel and no alert is empty for ever because a name or a label is not there."""
    wrong = {
        name: (series, labels - told.get(series, set()) - OF_PROMETHEUS)
        for name, query in QUERIES.items()
        for series, labels in asked(query)
        if series not in told or not labels <= told[series] | OF_PROMETHEUS
    }
    assert wrong == {}
    assert all(asked(query) for name, query in QUERIES.items() if name != "TopclassDown")


def test_every_metric_of_ours_is_in_the_operators_page(told: Labels) -> None:
    """docs/operate.md names each, and none that is not there."""
    text = (DEPLOY.parent / "docs" / "operate.md").read_text()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told if name.startswith("topclass_")}
    assert set(re.findall(r"`(topclass_\w+)`", text)) == families


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows(panel: dict) -> None:
    """A title, a sentence, a unit, and queries with legends, of the data source that one chooses."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["expr"].count("(") == target["expr"].count(")")
        assert target["legendFormat"]
        assert target["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_lie_over_each_other() -> None:
    """Each id is there once, and each place of the grid has one panel."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24


@pytest.mark.parametrize(
    "command",
    [("config", "prometheus.yml"), ("rules", "topclass.rules.yml"), ("test", "rules", "topclass.test.yml")],
    ids=lambda command: command[0],
)
def test_promtool_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    """The example configuration and the rules are valid; each alert fires where it should and is quiet where not."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    words = command if command[0] == "test" else ("check", *command)
    done = subprocess.run(
        [promtool, *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    """topclass.test.yml looks at each alert, firing and quiet, so that none is forgotten."""
    quiet, fires = yaml.safe_load((DEPLOY / "prometheus" / "topclass.test.yml").read_text())["tests"]
    alerts = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in quiet["alert_rule_test"]} == alerts
    assert set(re.findall(r'alertname="(\w+)"', json.dumps(fires).replace("\\", ""))) == alerts
    for rule in RULES:
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
