"""What an executor costs: one file (tests/reference_executor.py) and one row of the table.

With the row in its place, a bundle that is built is judged by it, verified by it, and embeds by
it, while nothing else of the project knows its name.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtimes import Embedder, InputError
from runtimes.arrays import Arrays
from runtimes.executors.base import RuntimeBase
from runtimes.manifest import Manifest
from runtimes.open import EXECUTORS, OpenOptions
from tests.reference_executor import REFERENCE, ReferenceRuntime, open_reference
from tests.support import build, cosines, run_cli

TEXTS = ["Guten Tag", "東京は雨です。", "a longer text about nothing in particular " * 3]


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(EXECUTORS, REFERENCE.name, REFERENCE)
    return REFERENCE.name


@pytest.fixture(scope="module")
def judged_bundle(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """Built while the row was in the table."""
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, REFERENCE.name, REFERENCE)
        assert build(folder, "--model", small_folder, "--parity-tokens", 64) == 0
    return folder / "small" / "classification-fp32-onnxruntime"


def test_gate_judges_it_under_its_own_label(judged_bundle: Path) -> None:
    graphs = json.loads((judged_bundle / "parity.json").read_text())["graphs"]
    assert list(graphs) == ["onnxruntime", "portable", "onnx_reference"]
    report = graphs["onnx_reference"]
    assert report["executed"] == ReferenceRuntime.name
    assert report["min_cosine"] >= 0.999999
    assert len(report["texts"]) == len(graphs["portable"]["texts"]) > 20


def test_verify_runs_it_again(
    judged_bundle: Path, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("verify", "--bundle", judged_bundle) == 0
    assert f"{row}: " in capsys.readouterr().out


def test_bundle_of_before_the_row_verifies_and_says_what_was_not_run(
    small_bundle: Path, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("verify", "--bundle", small_bundle) == 0
    out = capsys.readouterr().out
    assert f"{row}: not run, the gate that the bundle was built with did not have it" in out
    assert "portable: not run" not in out


def test_verify_without_the_row_says_that_it_cannot(judged_bundle: Path) -> None:
    assert run_cli("verify", "--bundle", judged_bundle) == 2


def test_embedder_gives_the_same_vectors(judged_bundle: Path, row: str) -> None:
    with (
        Embedder.load(judged_bundle) as usual,
        Embedder.load(judged_bundle, runtime=row, device="cpu") as other,
    ):
        assert other.runtime.name == ReferenceRuntime.name
        ours, theirs = usual.encode(TEXTS), other.encode(TEXTS)
    assert cosines(ours, theirs).min() >= 1 - 1e-6


def test_contract_of_the_head_is_put_around_it(chunk_bundle: Path, row: str) -> None:
    """A switchable bundle with a chunk head: the executor knows of neither."""
    with Embedder.load(chunk_bundle) as usual, Embedder.load(chunk_bundle, runtime=row) as other:
        tasks = ["separation", "base", "retrieval.query"]
        ours, theirs = (e.encode(TEXTS, task=tasks) for e in (usual, other))
        chunks = [
            e.encode_chunks(TEXTS[2], sentences=1, task="base").vectors for e in (usual, other)
        ]
    assert cosines(ours, theirs).min() >= 1 - 1e-6
    assert cosines(*chunks).min() >= 1 - 1e-6


def test_options_that_it_does_not_take_are_refused(
    judged_bundle: Path, row: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"device: got 'cuda', but runtime onnx_reference runs on"):
        Embedder.load(judged_bundle, runtime=row, device="cuda")
    with pytest.raises(InputError, match="adapter: "):
        Embedder.load(judged_bundle, runtime=row, adapter=tmp_path / "x.onnx_adapter")
    with pytest.raises(InputError, match="runtime: got 'onnx_referenc', expected one of"):
        Embedder.load(judged_bundle, runtime="onnx_referenc")


class Blurred(RuntimeBase):
    """Vectors near their place: each is the mean of itself and its neighbour."""

    name = "onnx-reference-blurred"

    def __init__(self, runtime: ReferenceRuntime) -> None:
        self._runtime = runtime

    def run(self, inputs: Arrays) -> Arrays:
        outputs = self._runtime.run(inputs).items()
        return {name: (rows + np.roll(rows, 1, 0)) / 2 for name, rows in outputs}


def test_wrong_executor_fails_the_gate_and_nothing_is_published(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Negative control."""

    def open_blurred(folder: Path, manifest: Manifest, options: OpenOptions) -> Blurred:
        return Blurred(open_reference(folder, manifest, options))

    monkeypatch.setitem(EXECUTORS, REFERENCE.name, replace(REFERENCE, opener=open_blurred))
    assert build(tmp_path, "--model", small_folder, "--parity-tokens", 64) == 3
    assert "parity failed for onnx_reference" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
