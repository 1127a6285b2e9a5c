"""Negative controls: a build that is wrong in one way must fail the gate and publish nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import export.build.pipeline
import export.graph.encoder
import export.graph.weights
from export.checkpoint.families import FAMILIES
from export.checkpoint.lora import Adapter, LoraPair, merge
from export.checkpoint.names import NORM1, NORM2
from export.checkpoint.reader import Checkpoint
from export.graph.trace import trace
from runtimes.choices import HeadName
from tests.support import build, edit_json, listing

Patch = pytest.MonkeyPatch


def merge_instead(patch: Patch, wrong: Any) -> None:
    """What ``weights.merge`` adds to a weight is what ``wrong`` makes of the update."""
    patch.setattr(
        export.graph.weights,
        "merge",
        lambda weight, pair, *rows: merge(weight, wrong(pair) if pair is not None else None, *rows),
    )


def checkpoint_adapter(patch: Patch, change: Any) -> None:
    """The build's own adapter is replaced; the reference reads the checkpoint by itself."""
    right = Checkpoint.adapter
    patch.setattr(Checkpoint, "adapter", lambda self, task: change(self, task, right))


def wrong_adapter(patch: Patch) -> None:
    checkpoint_adapter(
        patch, lambda self, task, right: replace(right(self, "separation"), task=task)
    )


def no_adapter(patch: Patch) -> None:
    checkpoint_adapter(patch, lambda self, task, right: Adapter(task, {}))


def lost_embedding_adapter(patch: Patch) -> None:
    def change(self: Checkpoint, task: str, right: Any) -> Adapter:
        modules = dict(right(self, task).modules)
        del modules["embeddings.word_embeddings"]
        return Adapter(task, modules)

    checkpoint_adapter(patch, change)


def exchanged_modules(patch: Patch) -> None:
    """A and B of two layers' output projections change places."""

    def change(self: Checkpoint, task: str, right: Any) -> Adapter:
        modules = dict(right(self, task).modules)
        first, second = (f"encoder.layers.{i}.mixer.out_proj" for i in (0, 1))
        modules[first], modules[second] = modules[second], modules[first]
        return Adapter(task, modules)

    checkpoint_adapter(patch, change)


def scaling_of_one(patch: Patch) -> None:
    merge_instead(patch, lambda pair: LoraPair(pair.down, pair.up, 1.0))


def subtracted(patch: Patch) -> None:
    merge_instead(patch, lambda pair: LoraPair(pair.down, pair.up, -pair.scaling))


def rope_base_10000(patch: Patch) -> None:
    right = export.graph.weights.rope_table
    patch.setattr(
        export.graph.weights,
        "rope_table",
        lambda config, *rest: right(replace(config, rope_theta=10000.0), *rest),
    )


def no_positions(patch: Patch) -> None:
    right = export.graph.weights.rope_table
    patch.setattr(
        export.graph.weights,
        "rope_table",
        lambda config, which, tokens: 0 * right(config, which, tokens) + (which == "cos"),
    )


def exchanged_names(patch: Patch) -> None:
    """The table of families takes one norm for the other; the reference has names of its own."""
    row = FAMILIES["xlm-roberta"]
    names = {**row.names, NORM1: row.names[NORM2], NORM2: row.names[NORM1]}
    patch.setitem(FAMILIES, "xlm-roberta", replace(row, names=names))


def first_token_pooling(patch: Patch) -> None:
    """What the official file's pooler output rests on; users took it for the embedding."""

    def pooled(x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        first = torch.tanh(x[:, 0] * attention_mask[:, :1])
        unit: torch.Tensor = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
        return unit

    patch.setitem(export.graph.encoder.POOLINGS, HeadName.SENTENCE, pooled)


def padding_in_the_mean(patch: Patch) -> None:
    def mean_of_all(x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mean = (x + 0 * attention_mask.unsqueeze(-1)).mean(1)
        unit: torch.Tensor = mean / torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
        return unit

    patch.setitem(export.graph.encoder.POOLINGS, HeadName.SENTENCE, mean_of_all)


WEIGHT_CONTROLS = [
    wrong_adapter,
    no_adapter,
    lost_embedding_adapter,
    exchanged_modules,
    scaling_of_one,
    subtracted,
    rope_base_10000,
    no_positions,
    exchanged_names,
]
GRAPH_CONTROLS = [first_token_pooling, padding_in_the_mean]


@pytest.fixture
def former(small_bundle: Path, tmp_path: Path) -> Path:
    """An OUT that holds a good bundle of the small checkpoint already; the bundle's folder."""
    final = tmp_path / "out" / "small" / "separation-fp32-onnxruntime"
    shutil.copytree(small_bundle, final)
    return final


def check_refused(out: Path, capsys: pytest.CaptureFixture[str], *options: Any) -> None:
    before = listing(out)
    capsys.readouterr()
    assert build(out, *options) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: parity failed for ")
    assert "expected at least 0.999999" in error
    assert error.count(" tokens): 0.") + error.count(" tokens): -0.") == 3  # the worst three texts
    assert "nothing was published" in error
    assert listing(out) == before


@pytest.mark.parametrize("control", WEIGHT_CONTROLS, ids=lambda control: control.__name__)
def test_wrong_weights_exit_3_and_keep_the_former_bundle(
    former: Path,
    small_folder: Path,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
    control: Any,
) -> None:
    task = "classification" if control is wrong_adapter else "separation"
    target = former.with_name(f"{task}-fp32-onnxruntime")
    if target != former:
        former.rename(target)
        renamed: dict[str, Any] = {
            "task": task,
            "tasks": [task],
            "prefixes": {task: ""},
            "output_ranges": {},
        }
        edit_json(target / "manifest.json", **renamed)
    control(monkeypatch)
    check_refused(target.parents[1], capsys, "--model", small_folder, "--task", task)


@pytest.mark.parametrize("control", GRAPH_CONTROLS, ids=lambda control: control.__name__)
def test_wrong_pooling_exits_3_and_keeps_the_former_bundle(
    former: Path,
    small_folder: Path,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
    control: Any,
) -> None:
    control(monkeypatch)
    # Wrong graphs must neither come from the cache of right ones nor stay in it.
    monkeypatch.setattr(export.build.pipeline, "trace", trace.__wrapped__)
    out = former.parents[1]
    check_refused(out, capsys, "--model", small_folder, "--task", "separation")


@pytest.mark.parametrize(
    "control", [wrong_adapter, rope_base_10000], ids=lambda control: control.__name__
)
def test_trained_sample_shows_the_same_mistakes(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str], control: Any
) -> None:
    control(monkeypatch)
    out = tmp_path / "out"
    assert build(out) == 3
    assert "parity failed" in capsys.readouterr().err.splitlines()[-1]
    assert [p for p in out.rglob("*") if p.is_file()] == []
    assert not any(p.name.startswith(".") for p in out.rglob("*"))


def test_same_build_without_a_mistake_passes(former: Path, small_folder: Path) -> None:
    """Guards the controls: nothing but the mistake makes them fail."""
    assert build(former.parents[1], "--model", small_folder, "--task", "separation") == 0
