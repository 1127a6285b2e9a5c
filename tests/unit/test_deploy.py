"""What lies in ``deploy/`` is valid, fits together, and names what the server has."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from compose_spec import PyCompose

from export.console.parser import COMMANDS, make_parser
from runtimes.api.metrics import Metrics
from tests.documents import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
MANIFESTS = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"})
# The oldest release that still gets fixes, and the newest that the schemas are of.
RELEASES = ("1.34", "1.37")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
# Names of series that Prometheus itself and Kubernetes add.
THEIRS = {"up"}
ROUTES = {"/health/live", "/health/ready", "/metrics", "/v1/embeddings", "/v1/models"}


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
    return found


def container() -> dict[str, Any]:
    (found,) = manifest("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def dashboard() -> dict[str, Any]:
    text = (DEPLOY / "grafana" / "dashboards" / "adaptrt.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Each query in PromQL with where it stands."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def series() -> dict[str, set[str]]:
    """Every series that /metrics has, and its labels."""
    found: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        endings = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
        for ending in endings:
            found[family.name + ending] = set()
    for metric in vars(Metrics()).values():
        for name in getattr(metric, "_labelnames", ()):
            for ending in ("", "_total", "_bucket", "_sum", "_count"):
                if metric._name + ending in found:
                    found[metric._name + ending].add(name)
    return found


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_of_kubernetes_schemas(path: Path, release: str) -> None:
    kubernetes_validate.validate(manifest(path.name), release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
def test_a_misspelt_entry_would_be_seen(release: str) -> None:
    wrong = copy.deepcopy(manifest("deployment.yaml"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, release, strict=True)


def test_kustomization_lists_every_manifest() -> None:
    assert sorted(manifest("kustomization.yaml")["resources"]) == [p.name for p in MANIFESTS]


def test_manifests_speak_of_the_same_pods() -> None:
    deployment = manifest("deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("service.yaml")["spec"]["selector"] == labels
    assert manifest("disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("network.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    assert manifest("autoscaler.yaml")["spec"]["scaleTargetRef"]["name"] == "adaptrt"
    ports = {port["name"] for port in container()["ports"]}
    assert manifest("service.yaml")["spec"]["ports"][0]["targetPort"] in ports
    assert {container()[f"{kind}Probe"]["httpGet"]["port"] for kind in PROBES} == ports
    claim = manifest("bundles.yaml")["metadata"]["name"]
    volumes = deployment["template"]["spec"]["volumes"]
    assert claim in [v.get("persistentVolumeClaim", {}).get("claimName") for v in volumes]


PROBES = ("startup", "readiness", "liveness")


def test_probes_ask_what_the_server_answers() -> None:
    paths = {kind: container()[f"{kind}Probe"]["httpGet"]["path"] for kind in PROBES}
    assert paths["liveness"] == "/health/live"
    assert paths["startup"] == paths["readiness"] == "/health/ready"
    source = (ROOT / "runtimes" / "api" / "app.py").read_text(encoding="utf-8")
    assert all(f'"{path}"' in source for path in (*paths.values(), *ROUTES))
    (asked,) = re.findall(r"urlopen\('http://127.0.0.1:8080([^']*)'", DOCKERFILE)
    assert asked == "/health/ready"


def test_pods_have_no_more_rights_than_they_need() -> None:
    pod = manifest("deployment.yaml")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    own = container()["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE


def test_servers_are_given_time_to_answer_what_they_have_begun() -> None:
    """The default deadline, and what passes before SIGTERM comes."""
    options = parsed("api", "--bundle", "/bundle")
    pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    pod = manifest("deployment.yaml")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= options.deadline + pause
    grace = yaml.safe_load(COMPOSE)["services"]["api"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= options.deadline


def parsed(*words: str) -> Any:
    return make_parser(dict.fromkeys(COMMANDS, lambda _: 0)).parse_args(list(words))


def test_the_containers_commands_are_what_the_parser_takes() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, *words = json.loads(entry)
    assert program == "adaptrt"
    for arguments in (json.loads(command), container()["args"]):
        options = parsed(*words, *arguments)
        assert options.host == "0.0.0.0"
        assert options.port == 8080 == container()["ports"][0]["containerPort"]


def test_the_image_is_made_of_files_that_are_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}\n" in allowed, name
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = tomllib.loads(project)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) <= set(names)


def test_compose_is_of_its_specification() -> None:
    services = PyCompose.from_yaml(substituted(COMPOSE)).to_dict()["services"]
    assert set(services) == {"api", "prometheus", "grafana"}
    for service in yaml.safe_load(COMPOSE)["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "image" not in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    with pytest.raises(ValueError, match="helthcheck"):
        PyCompose.from_yaml("services:\n  a:\n    image: x\n    helthcheck: {}\n")


def substituted(text: str) -> str:
    """What compose puts in the place of variables."""
    return re.sub(r"\$\{[A-Z]+[^}]*\}", "/folder", text)


def test_compose_mounts_files_that_are_there() -> None:
    services = yaml.safe_load(substituted(COMPOSE))["services"]
    volumes = [volume for service in services.values() for volume in service["volumes"]]
    local = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    assert len(local) == 3
    assert all((DEPLOY / folder).is_dir() for folder in local)
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    provider = (DEPLOY / "grafana/provisioning/dashboards/adaptrt.yaml").read_text(encoding="utf-8")
    assert f"path: {Path(home).parent}" in provider
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8")
    assert f"uid: {dashboard()['panels'][0]['datasource']['uid']}" in source


@pytest.mark.parametrize(("where", "query"), [*queries()], ids=lambda value: value[:40])
def test_queries_parse_and_name_series_and_labels_that_there_are(where: str, query: str) -> None:
    promql_parser.parse(query)
    assert unknown(query) == []


def unknown(query: str, known: dict[str, set[str]] | None = None) -> list[str]:
    """Series, and labels behind ``by`` and in braces, that the server does not have."""
    known = series() if known is None else known
    bare = re.sub(r'"[^"]*"', '""', query)
    names = [n for n in re.findall(r"\b(adaptrt_\w+|up)\b", bare) if n not in THEIRS]
    labels = {"instance", "job", "le", *(label for name in names for label in known.get(name, ()))}
    used = re.findall(r"(\w+)\s*=~?", "".join(re.findall(r"\{[^}]*\}", bare)))
    used += re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", bare)))
    return [n for n in names if n not in known] + [name for name in used if name not in labels]


def test_unknown_series_and_labels_would_be_seen() -> None:
    assert unknown("rate(adaptrt_words_total[1m])") == ["adaptrt_words_total"]
    assert unknown("sum by (colour) (rate(adaptrt_texts_total[1m]))") == ["colour"]
    assert unknown('adaptrt_ready{colour="red"}') == ["colour"]
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum(rate(adaptrt_texts_total[1m])")


def test_every_series_is_on_the_dashboard_or_is_told_apart_by_another() -> None:
    shown = " ".join(query for _, query in queries())
    families = {family.name for family in Metrics().registry.collect()}
    assert sorted(name for name in families if name not in shown) == []


def test_the_autoscalers_metric_is_the_adapters_and_the_servers() -> None:
    (metric,) = manifest("autoscaler.yaml")["spec"]["metrics"]
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert name in series()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize(
    "words",
    [
        ("yamllint", "--strict", "--config-file", DEPLOY / ".yamllint.yaml", DEPLOY),
        ("hadolint", DEPLOY / "Dockerfile"),
    ],
    ids=lambda words: words[0],
)
def test_linters_have_nothing_to_say(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    program = Path(sys.executable).parent / words[0]
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd / && sudo apt-get install x\n")
    program = Path(sys.executable).parent / "hadolint"
    command = [program, tmp_path / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert {"DL3006", "DL3004"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yml"), ("test", "rules", "rules.test.yml")],
    ids=lambda words: words[0],
)
def test_promtool_takes_the_configuration_and_the_alerts_fire(words: tuple[str, ...]) -> None:
    command = ["promtool", *words[:-1], str(DEPLOY / "prometheus" / words[-1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
