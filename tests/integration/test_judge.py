"""The gate's functions: nothing is written while judging, and verify takes the gate's texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.reader import Checkpoint
from export.gate.gate import Reference, Verdict, judge, reference_of
from export.gate.parity_file import ParityRecord, ReportRecord, TextRecord, read_parity
from export.gate.texts import THINNING, ParityText, gate_texts, verified_tasks
from export.gate.traced import gate_executors
from export.gate.verify import recorded_texts
from runtimes.errors import GateError
from runtimes.manifest import Manifest, read_manifest
from runtimes.text.tokenizer_file import load_tokenizer
from tests.support import listing

LONGEST = 64


def texts_of(bundle: Path, position: int = 0) -> list[ParityText]:
    manifest = read_manifest(bundle)
    return gate_texts(manifest, load_tokenizer(bundle, manifest), LONGEST, position)


def draft_of(manifest: Manifest) -> Manifest:
    """What the gate has before anything was compared."""
    graphs = [
        replace(a, bytes=0, sha256="0" * 64) for a in manifest.artifacts if a.path[-4:] == "onnx"
    ]
    return replace(manifest, artifacts=tuple(graphs), parity=None)


@pytest.fixture(scope="module")
def reference(small_bundle: Path, small: Checkpoint) -> Reference:
    manifest = read_manifest(small_bundle)
    texts = texts_of(small_bundle)[:12]
    return reference_of(small, draft_of(manifest), load_tokenizer(small_bundle, manifest), texts)


def verdict_of(bundle: Path, reference: Reference) -> Verdict:
    draft = draft_of(read_manifest(bundle))
    executors = gate_executors(draft)
    return judge(bundle, draft, load_tokenizer(bundle, read_manifest(bundle)), reference, executors)


def test_judging_writes_nothing_and_gives_the_same_each_time(
    bundle_copy: Path, reference: Reference
) -> None:
    before = listing(bundle_copy.parent)
    first, second = (verdict_of(bundle_copy, reference) for _ in range(2))
    assert listing(bundle_copy.parent) == before
    assert first == second
    assert first.failure is None
    assert list(first.reports) == ["onnxruntime", "portable"]
    assert first.main is first.reports["onnxruntime"]
    first.require_passed()


def test_judging_stops_at_the_first_comparison_that_fails(
    bundle_copy: Path, reference: Reference
) -> None:
    """And still writes nothing."""
    before = listing(bundle_copy.parent)
    wrong = replace(reference, vectors=np.roll(reference.vectors, 1, axis=0))
    verdict = verdict_of(bundle_copy, wrong)
    assert listing(bundle_copy.parent) == before
    assert list(verdict.reports) == ["onnxruntime"]
    assert str(verdict.failure).startswith("parity failed for onnxruntime: minimum cosine")
    with pytest.raises(GateError, match="nothing was published"):
        verdict.require_passed()


def test_reference_says_what_bf16_costs(reference: Reference) -> None:
    assert reference.name == "torch-sdpa-flash-cpu-float32"
    assert reference.bf16_min_cosine is not None
    assert 0.99 < reference.bf16_min_cosine < 1
    assert reference.vectors.shape == (12, 64)
    assert reference.chunks is None


@pytest.mark.parametrize("name", ["small_bundle", "query_bundle", "chunk_bundle", "fp32_bundle"])
def test_verify_compares_the_texts_that_the_gate_compared(
    request: pytest.FixtureRequest, name: str
) -> None:
    bundle: Path = request.getfixturevalue(name)
    manifest = read_manifest(bundle)
    path = bundle / "parity.json"
    found = recorded_texts(manifest, read_parity(path), load_tokenizer(bundle, manifest))
    assert found is not None
    expected = texts_of(bundle)
    assert [(t.task, t.name, t.task_id) for t in found] == [
        (t.task, t.name, t.task_id) for t in expected
    ]
    assert all((a.ids == b.ids).all() for a, b in zip(found, expected, strict=True))
    compared = json.loads(path.read_text())["graphs"]["onnxruntime"]["texts"]
    assert [(t.task, t.name, len(t.ids)) for t in found] == [
        (t["task"], t["name"], t["tokens"]) for t in compared
    ]


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 5])
def test_texts_of_every_bundle_of_a_build_are_recognised(small_bundle: Path, position: int) -> None:
    """Thinned as the gate thins them; the record does not say which bundle of its build it is."""
    manifest, texts = read_manifest(small_bundle), texts_of(small_bundle, position)
    found = recorded_texts(manifest, record(texts), load_tokenizer(small_bundle, manifest))
    assert found is not None
    assert [t.name for t in found] == [t.name for t in texts]
    assert (len(texts) < len(texts_of(small_bundle)) / 2) == (position > 0)
    assert texts_of(small_bundle, position + THINNING)[0].name == texts[0].name or position == 0


def test_some_of_the_texts_are_not_the_gates(small_bundle: Path) -> None:
    manifest, texts = read_manifest(small_bundle), texts_of(small_bundle)[1:]
    assert recorded_texts(manifest, record(texts), load_tokenizer(small_bundle, manifest)) is None


def test_switchable_bundle_compares_every_task_and_the_base_model(chunk_bundle: Path) -> None:
    manifest, texts = read_manifest(chunk_bundle), texts_of(chunk_bundle)
    tasks = verified_tasks(manifest)
    assert tasks == (*manifest.tasks, "base")
    assert list(dict.fromkeys(text.task for text in texts)) == list(tasks)
    assert list(dict.fromkeys(text.task_id for text in texts)) == [0, 1, 2, 3, 4, -1]


def record(texts: list[ParityText]) -> ParityRecord:
    report = ReportRecord(
        reference="r",
        executed="e",
        min_cosine=1,
        mean_cosine=1,
        threshold=1,
        texts=tuple(TextRecord(name=t.name, task=t.task) for t in texts),
    )
    return ParityRecord(texts_sha256="", parity_tokens=LONGEST, graphs={"onnxruntime": report})
