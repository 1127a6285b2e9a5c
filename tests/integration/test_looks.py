"""A verdict that the first texts do not decide: more are drawn, and verify takes them too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibration.looks
import export.build.judging
from export.gate.gate import Reference, Verdict, judge
from export.gate.quality_texts import side_of
from tests.support import build, few_gate_texts, run_cli

INT8 = ("--task", "separation", "--calibration-texts", 24, "--max-tokens", 64)
DOUBT = "quality kept by onnxruntime is in doubt: nDCG@10"


@pytest.fixture
def decided_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Verdicts are in doubt before a look; gives the looks that are taken."""
    few_gate_texts(monkeypatch)
    monkeypatch.setattr(calibration.looks, "LOOKS", ((12, 12), (24, 12), (24, 24)))

    def from_look(look: int) -> list[int]:
        seen: list[int] = []

        def judged(
            folder: Path, draft: Any, tokenizer: Any, reference: Reference, executors: Any
        ) -> Verdict:
            verdict = judge(folder, draft, tokenizer, reference, executors)
            seen.append(reference.looks)
            return replace(verdict, undecided=DOUBT if reference.looks < look else None)

        monkeypatch.setattr(export.build.judging, "judge", judged)
        return seen

    return from_look


def test_more_texts_are_drawn_until_it_is_decided(
    tmp_path: Path,
    small_folder: Path,
    decided_at: Callable[[int], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = decided_at(2)
    assert build(tmp_path, "--model", small_folder, *INT8, precision="int8") == 0
    assert seen == [1, 2]
    bundle = tmp_path / "small" / "separation-int8-onnxruntime-t64"
    parity = json.loads((bundle / "parity.json").read_text())
    assert parity["quantisation"]["looks"] == 2
    assert parity["quantisation"]["fallback"] == {}
    names = [text["name"] for text in parity["graphs"]["onnxruntime"]["texts"]]
    sides = Counter(map(side_of, names))
    assert (sides["queries"], sides["negatives"], sides["first"]) == (24, 72, 12)
    assert len(np.load(bundle / "reference.npy")) == len(names) == len(set(names))
    assert {loss["units"] for loss in parity["quantisation"]["losses"]["onnxruntime"]} == {12, 24}
    assert DOUBT in capsys.readouterr().err
    assert run_cli("verify", "--bundle", bundle) == 0
    assert ", quality: nearest to its limit of 8, " in capsys.readouterr().out


def test_what_is_never_decided_is_refused(
    tmp_path: Path,
    small_folder: Path,
    decided_at: Callable[[int], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = decided_at(9)
    options = ("--int8-fallback-max", 0)
    assert build(tmp_path, "--model", small_folder, *INT8, *options, precision="int8") == 3
    assert seen == [1, 2, 3]
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{DOUBT}, on all texts there are; nothing was published" in error
    assert not (tmp_path / "small" / "separation-int8-onnxruntime-t64").exists()
