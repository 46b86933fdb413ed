"""What docs/monitoring has for Prometheus and Grafana: it can be loaded, and asks for what the function exports."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support import RED_KOI, Function, mask_shape, true_mask

MONITORING = Path(__file__).resolve().parent.parent / "docs" / "monitoring"
# Of Prometheus itself.
OTHERS = {"up"}


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return content


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return group["rules"]


def expressions() -> Iterator[str]:
    """All queries, with Grafana's variables replaced as it replaces them."""
    yield from (rule["expr"] for rule in rules())
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$job", "maskbank")


@pytest.fixture(scope="module")
def exported(start: Callable[..., Function], frames: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names, with labels, that a function exports after a frame, such as 'maskbank_requests_total{status}'."""
    function = start(MASKBANK_SIZE=64, MASKBANK_STORE=f"file://{tmp_path_factory.mktemp('store')}")
    function.ask(frames[0], [mask_shape(true_mask(0, RED_KOI))], [])
    families = text_string_to_metric_families(function.get("/metrics"))
    return {
        name
        for family in families
        for s in family.samples
        for name in (s.name, *(f"{s.name}{{{k}}}" for k in s.labels))
    }


def test_every_query_is_prometheus_and_names_what_is_exported(exported: set[str]) -> None:
    named = set()
    for expression in expressions():
        promql_parser.parse(expression)  # raises ValueError
        for name, selectors in re.findall(r"([a-z_]+)\{(.*?)\}", expression):
            labels = set(re.findall(r"(\w+)=", selectors)) - {"job"}  # which Prometheus adds
            assert name in OTHERS or {f"{name}{{{label}}}" for label in labels} <= exported, expression
        named |= set(re.findall(r"\bmaskbank_[a-z_]+", expression))
    assert named <= exported
    # What a first look needs.
    assert {"maskbank_requests_total", "maskbank_request_seconds_bucket", "maskbank_store_reachable"} <= named


def test_alerts_have_what_prometheus_and_people_need() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 5
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".") and rule["annotations"]["description"].endswith((".", "?"))


def test_a_function_that_is_gone_is_critical_and_one_bad_pod_of_several_is_not() -> None:
    alerts = {rule["alert"]: rule for rule in rules()}
    down, pod = alerts["MaskBankDown"], alerts["MaskBankPodDown"]
    up = 'up{job="maskbank"}'
    assert down["labels"]["severity"] == "critical" and pod["labels"]["severity"] == "warning"
    assert down["expr"] == f"sum by (job) ({up}) == 0 or absent({up})"
    assert pod["expr"] == f"{up} == 0 and on (job) sum by (job) ({up}) > 0"


def test_the_dashboard_can_be_imported() -> None:
    content = dashboard()
    assert content["schemaVersion"] >= 36 and content["uid"] and content["title"]
    variables = {variable["name"] for variable in content["templating"]["list"]}
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"], panel["title"]) for panel in panels]
    for index, (place, title) in enumerate(places):
        assert place["x"] + place["w"] <= 24
        for other, _ in places[:index]:
            beside = place["x"] >= other["x"] + other["w"] or other["x"] >= place["x"] + place["w"]
            below = place["y"] >= other["y"] + other["h"] or other["y"] >= place["y"] + place["h"]
            assert beside or below, f"{title} lies over another panel"
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", json.dumps(panels)))
    assert used == variables


def test_prometheus_finds_the_function() -> None:
    docker, kubernetes = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    [targets] = docker["static_configs"]
    assert (docker["job_name"], targets) == ("maskbank", {"targets": ["nuclio-nuclio-maskbank:8080"]})
    keep, address, job = kubernetes["relabel_configs"]
    assert keep["action"] == "keep" and re.fullmatch(keep["regex"], "maskbank")
    assert re.fullmatch(address["regex"], "10.0.0.7:8090")[1] == "10.0.0.7"
    assert job["replacement"] == "maskbank"
