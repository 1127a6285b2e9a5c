"""The lock files hold what pyproject.toml allows, and nothing of the machine that wrote them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.interop import client_table

ROOT = Path(__file__).parent.parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
CLIENTS = ROOT / "locks" / "clients"
CLIENT_LOCKS = sorted(CLIENTS.glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILDER = ("cpu", "export")
EXTRAS = {
    "run": ("cpu",),
    "server": ("cpu", "openvino", "api"),
    "base": BUILDER,
    "serve": (*BUILDER, "serve"),
    "api": (*BUILDER, "api"),
    "embed": (*BUILDER, "embed"),
    "ray": ("cpu", "ray"),
    "dev": ("dev",),
    "bench": ("bench",),
    "docs": (*BUILDER, "docs"),
    "eval": (*BUILDER, "eval"),
    "interop": ("interop",),
}
# Pairs that import and do not work together, and what goes wrong.
KNOWN_NOT_TO_WORK = [
    ({"transformers": "5.24.0", "peft": "0.21.2"}, "transformers 5.24 wants peft 0.22"),
    ({"tritonclient": "2.70.0", "ml-dtypes": "0.6.0"}, "tritonclient 2.70 wants ml-dtypes 0.5"),
]


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, the project's own extras followed."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += optional[extra]
    stated = []
    for requirement in map(Requirement, lines):
        own = requirement.name == "adaptrt"
        stated += requirements(*requirement.extras) if own else [requirement]
    return stated


def locked(path: Path) -> list[Requirement]:
    lines = path.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def allowed(versions: dict[str, str]) -> bool:
    stated = {canonicalize_name(r.name): r for r in requirements("dev")}
    return all(stated[canonicalize_name(n)].specifier.contains(v) for n, v in versions.items())


def test_a_light_install_holds_nothing_that_builds() -> None:
    names = {requirement.name for requirement in locked(ROOT / "locks" / "run.txt")}
    assert {"onnxruntime", "tokenizers", "msgspec"} < names
    only_building = {r.name for r in requirements("export")} - {r.name for r in requirements()}
    assert names & only_building == {"huggingface-hub", "httpx"}  # tokenizers brings them


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_no_extra_brings_two_onnx_runtimes(extra: str) -> None:
    """They overwrite each other's files; so what builds brings none, and leaves the choice."""
    found = {r.name for r in requirements(extra)} & {"onnxruntime", "onnxruntime-gpu"}
    expected = {"cpu": 1, "gpu": 1, "dev": 1, "bench": 1, "interop": 1}
    assert len(found) == expected.get(extra, 0)


def test_every_environment_has_a_lock() -> None:
    assert {path.stem for path in LOCKS} == {*EXTRAS, "triton", "python310"}


@pytest.mark.parametrize("path", [*LOCKS, *CLIENT_LOCKS], ids=lambda path: path.stem)
def test_every_line_names_one_version_and_no_place(path: Path) -> None:
    for requirement in locked(path):
        operators = [clause.operator for clause in requirement.specifier]
        assert operators == ["=="], f"{requirement} is not exact"
        assert "*" not in str(requirement.specifier)
        assert requirement.url is None
    assert not re.search(r"://|file:|--hash|--index|--find-links|/", path.read_text())


@pytest.mark.parametrize("name", EXTRAS)
def test_lock_agrees_with_pyproject(name: str) -> None:
    found = {canonicalize_name(r.name): r for r in locked(ROOT / "locks" / f"{name}.txt")}
    for asked in requirements(*EXTRAS[name]):
        pinned = found.get(canonicalize_name(asked.name))
        assert pinned is not None, f"{asked} is not in locks/{name}.txt: run `make lock`"
        version = next(iter(pinned.specifier)).version
        assert asked.specifier.contains(version), f"{asked}, locked {version}: run `make lock`"


def test_triton_lock_agrees_with_what_the_repository_asks_for() -> None:
    wanted = ROOT / "export" / "triton" / "models" / "requirements.txt"
    found = {canonicalize_name(r.name): r for r in locked(ROOT / "locks" / "triton.txt")}
    for asked in locked(wanted):
        version = next(iter(found[canonicalize_name(asked.name)].specifier)).version
        assert asked.specifier.contains(version)


def test_every_client_has_an_environment_and_a_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (names,) = re.findall(r"^CLIENT_NAMES := (.*)$", makefile, re.MULTILINE)
    assert {path.stem for path in CLIENT_LOCKS} == {path.stem for path in CLIENTS.glob("*.in")}
    assert {path.stem for path in CLIENT_LOCKS} == set(names.split())
    assert {client.environment for client in client_table.CLIENTS} == {
        *names.split(),
        "transformers.js",
    }


@pytest.mark.parametrize("path", CLIENT_LOCKS, ids=lambda path: path.stem)
def test_lock_of_a_client_agrees_with_what_is_asked_for(path: Path) -> None:
    found = {canonicalize_name(r.name): r for r in locked(path)}
    for asked in locked(path.with_suffix(".in")):
        version = next(iter(found[canonicalize_name(asked.name)].specifier)).version
        assert asked.specifier.contains(version)


def test_lock_of_the_node_client_names_versions_and_no_place() -> None:
    folder = CLIENTS / "transformers.js"
    lock = json.loads((folder / "package-lock.json").read_text())
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 20
    for name, package in packages.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+[\w.-]*", package["version"]), name
        assert "resolved" not in package, f"{name}: run `make lock`"
    for name, version in asked.items():
        assert packages[f"node_modules/{name}"]["version"] == version


@pytest.mark.parametrize("name", [name for name in EXTRAS if name not in ("dev", "interop", "ray")])
def test_environments_can_be_installed_over_each_other(name: str) -> None:
    """The development environment adds packages and changes none; two stand apart from it."""
    dev: dict[str, set[str]] = {r.name: set() for r in locked(ROOT / "locks" / "dev.txt")}
    for requirement in locked(ROOT / "locks" / "dev.txt"):
        dev[requirement.name].add(str(requirement.specifier))
    for requirement in locked(ROOT / "locks" / f"{name}.txt"):
        if requirement.name in dev:
            assert str(requirement.specifier) in dev[requirement.name]


@pytest.mark.parametrize(("versions", "reason"), KNOWN_NOT_TO_WORK)
def test_ranges_exclude_what_is_known_not_to_work(versions: dict[str, str], reason: str) -> None:
    assert not allowed(versions), reason


def test_range_check_sees_a_pair_that_works() -> None:
    """Guards the test above."""
    assert allowed({"transformers": "5.23.0", "peft": "0.21.2"})


def test_makefile_installs_from_locks_alone() -> None:
    """But for the target that asks for the newest versions."""
    installs = [
        line.strip()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "$(PIP_INSTALL)" in line
    ]
    from_pyproject = [line for line in installs if "-r $<" not in line and "--no-deps" not in line]
    assert len(installs) > 4
    assert [line for line in from_pyproject if "$(NEWEST_VENV)" not in line] == []


def test_a_device_gets_what_the_project_asks_for() -> None:
    """And CUDA's bindings; the lock of it holds versions for either JetPack's Python."""
    asked = locked(ROOT / "locks" / "device.in")
    cuda = {str(r.specifier) for r in asked if r.name == "cuda-bindings"}
    assert cuda == {"==12.8.0", "<14,>=13.0"}
    stated = {r.name: str(r.specifier) for r in asked if r.name != "cuda-bindings"}
    assert stated == {r.name: str(r.specifier) for r in requirements()}
    device = locked(ROOT / "export" / "engines" / "device" / "requirements.txt")
    for python, numpy, bindings in (("3.10", "==2.2.6", "==12.8.0"), ("3.12", "==2.", "==13.")):
        environment = {"python_version": python, "python_full_version": f"{python}.4"}
        found = {
            r.name: str(r.specifier)
            for r in device
            if r.marker is None or r.marker.evaluate(environment)
        }
        assert found["numpy"].startswith(numpy)
        assert found["cuda-bindings"].startswith(bindings)
