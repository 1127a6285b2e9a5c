"""A quantised build whose gate fails at first: what is done again, what is done once, in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import export.build.judging
import export.build.pipeline
import export.build.quantised
import export.build.staged
from export.engines.builder import BuiltEngine, EngineSpec
from export.gate.gate import Verdict, judge
from runtimes.manifest import read_manifest
from tests.support import few_gate_texts, run_cli

FAILURE = "parity failed for portable: minimum cosine 0.9800000, expected at least 0.99"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a build did, in order. Engines are short files; the gate's texts are few."""
    seen: list[str] = []

    def build_engine(trt: Any, graph: Path, out: Path, spec: EngineSpec) -> BuiltEngine:
        seen.append("engine")
        out.write_bytes(b"plan")
        return BuiltEngine(memory=None, plans=())

    monkeypatch.setattr(export.build.staged, "build_engine", build_engine)
    for module, name in (
        (export.build.pipeline, "write_model"),
        (export.build.quantised, "write_model"),
        (export.build.judging, "reference_of"),
        (export.build.judging, "judge"),
        (export.build.pipeline, "write_parity"),
    ):
        monkeypatch.setattr(module, name, noting(seen, module, name))
    few_gate_texts(monkeypatch)
    return seen


def noting(seen: list[str], module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name)

    def noted(*arguments: Any, **more: Any) -> Any:
        seen.append(name)
        return function(*arguments, **more)

    return noted


def build(out: Path, model: Path, precision: str, *more: object) -> int:
    options = ("--target", "tensorrt_rtx", "--gpu", "sm89", "--task", "separation", *more)
    size = ("--max-tokens", 64, "--parity-tokens", 32)
    return run_cli(
        "engine", "--model", model, "--precision", precision, "--out", out, *options, *size
    )


def test_engines_are_built_once_after_the_gate_passed(
    tmp_path: Path, small_folder: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts: list[Verdict] = []

    def fails_twice(*arguments: Any) -> Verdict:
        events.append("judge")
        verdict = judge(*arguments)
        verdicts.append(verdict)
        return replace(verdict, failure=FAILURE) if len(verdicts) < 3 else verdict

    monkeypatch.setattr(export.build.judging, "judge", fails_twice)
    options = ("--calibration-texts", 24, "--int8-fallback-max", 0.9)
    assert build(tmp_path, small_folder, "int8", *options) == 0
    attempt = ["write_model", "judge"]
    first = ["write_model", "reference_of", "judge"]
    assert events == [*first, *attempt, *attempt, "engine", "write_parity"]
    bundle = tmp_path / "small" / "separation-int8-t64"
    quantisation = read_manifest(bundle).quantisation
    assert quantisation is not None
    assert len(quantisation.fallback) >= 2
    assert all(reason.startswith(FAILURE) for reason in quantisation.fallback.values())
    graphs = json.loads((bundle / "parity.json").read_text())["graphs"]
    assert list(graphs) == list(verdicts[-1].reports)


def test_engine_that_fails_emulated_falls_back(
    tmp_path: Path, small_folder: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = "parity failed for emulated engine: minimum cosine nan"

    def fails_once(folder: Path, *_: Any) -> Verdict | None:
        events.append("emulate")
        return Verdict(reports={}, failure=failure) if events.count("emulate") == 1 else None

    monkeypatch.setattr(export.build.judging, "judge_engines", fails_once)
    options = ("--calibration-texts", 24, "--int8-fallback-max", 0.9)
    assert build(tmp_path, small_folder, "int8", *options) == 0
    attempt = ["judge", "engine", "emulate"]
    first = ["write_model", "reference_of", *attempt]
    assert events == [*first, "write_model", *attempt, "write_parity"]
    quantisation = read_manifest(tmp_path / "small" / "separation-int8-t64").quantisation
    assert quantisation is not None
    assert all(reason.startswith(failure) for reason in quantisation.fallback.values())
    assert quantisation.fallback


def test_no_engine_is_built_where_the_gate_never_passes(
    tmp_path: Path,
    small_folder: Path,
    events: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    def fails(*arguments: Any) -> Verdict:
        events.append("judge")
        return replace(judge(*arguments), failure=FAILURE)

    monkeypatch.setattr(export.build.judging, "judge", fails)
    options = ("--calibration-texts", 24, "--int8-fallback-max", 0)
    assert build(tmp_path, small_folder, "int8", *options) == 3
    assert events == ["write_model", "reference_of", "judge"]
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: INT8 fails its gate even with 0 of 8 GEMMs")
    page = tmp_path / "small" / "calibration" / "separation-int8-t64-refused.html"
    assert error.endswith(f"{FAILURE}; nothing was published; what was tried: {page}")
    assert not (tmp_path / "small" / "separation-int8-t64").exists()
    said = page.read_text(encoding="utf-8")
    assert f"Do not ship it, nothing was published: {FAILURE}." in said
    assert "Ship it:" not in said
    assert ">published<" not in said


def test_page_of_a_refusal_goes_when_a_build_passes(
    tmp_path: Path, small_folder: Path, events: list[str]
) -> None:
    place = tmp_path / "small" / "calibration"
    page = place / "separation-int8-t64-refused.html"
    place.mkdir(parents=True)
    page.write_text("of a build before")
    assert build(tmp_path, small_folder, "int8", "--calibration-texts", 24) == 0
    assert not page.exists()
    assert events[-1] == "write_parity"


def test_unquantised_build_makes_its_engine_first(
    tmp_path: Path, small_folder: Path, events: list[str]
) -> None:
    """It takes seconds and can fail, the gate takes minutes."""
    assert build(tmp_path, small_folder, "fp32") == 0
    assert events == ["write_model", "engine", "reference_of", "judge", "write_parity"]
