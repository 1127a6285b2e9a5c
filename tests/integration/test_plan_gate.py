"""A build whose engine breaks a rule of the plan is published only where the rule is waived."""

from __future__ import annotations

from pathlib import Path

import pytest

import export.engines.plan_rules
from export.engines.plan_rules import LAUNCHES
from runtimes.choices import PlanRule
from runtimes.manifest import read_manifest
from tests.support import listing, run_cli


def build(out: Path, model: Path, *more: object) -> int:
    options = ("--target", "tensorrt_rtx", "--gpu", "sm89", "--task", "separation")
    size = ("--max-tokens", 64, "--parity-tokens", 32)
    return run_cli("engine", "--model", model, "--out", out, *options, *size, *more)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five launches a layer are half of what any graph has."""
    monkeypatch.setattr(export.engines.plan_rules, "LAUNCHES", dict.fromkeys(LAUNCHES, 5))


@pytest.mark.usefixtures("strict")
def test_engine_that_breaks_a_rule_is_published_only_by_leave(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path, small_folder) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "encoder.sm89.engine: the compiled plan breaks the rule launches: layer 0: " in error
    assert "launches, at most 5, expected no more launches a layer" in error
    assert error.endswith("--allow-plan launches publishes it all the same")
    assert not list((tmp_path / "small").glob("*separation*"))

    assert build(tmp_path, small_folder, "--allow-plan", "launches,fp32-product") == 0
    bundle = tmp_path / "small" / "separation-fp16-t64"
    assert read_manifest(bundle).plan_waived == (PlanRule.LAUNCHES,)

    before = listing(bundle)
    assert build(tmp_path, small_folder, "--allow-plan", "fp32-product") == 3
    assert listing(bundle) == before


def test_engine_that_keeps_every_rule_waives_none(fp16_bundle: Path) -> None:
    assert read_manifest(fp16_bundle).plan_waived == ()


def test_waiver_is_for_engines(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--target", "onnxruntime", "--allow-plan", "launches", "--out", tmp_path)
    assert run_cli("engine", "--model", small_folder, *options) == 2
    assert "--allow-plan: is for bundles with engines" in capsys.readouterr().err
