"""Names of bundles: each choice that changes what is in one; and which graphs they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from export.build.staged import graph_files
from export.bundle.plan import BundlePlan, plan_bundle
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.spec import BuildSpec, Limits
from runtimes.choices import (
    Accumulation,
    AdapterMode,
    GraphKind,
    HeadName,
    Interface,
    Layout,
    Precision,
    Target,
)
from runtimes.errors import InputError
from runtimes.schemes import SCHEMES
from tests.support import SAMPLE_HF

DEFAULT = BuildSpec(
    model="x",
    task="classification",
    precision=Precision.FP16,
    target=Target.TENSORRT_RTX,
    out=Path("build"),
    layout=Layout.HUB,
)
FLAT: dict[str, Any] = {"layout": Layout.FLAT}
ORT: dict[str, Any] = {"target": Target.ONNXRUNTIME}
SWITCHABLE: dict[str, Any] = FLAT | {"adapter": AdapterMode.SWITCHABLE}
OFFICIAL = SWITCHABLE | {"interface": Interface.OFFICIAL}
SLOT: dict[str, Any] = FLAT | {"adapter": AdapterMode.SLOT, "task": "base"}
CHUNKS: dict[str, Any] = FLAT | {"head": HeadName.CHUNKS}


def plan(checkpoint: Checkpoint, **choices: Any) -> BundlePlan:
    spec = replace(DEFAULT, **choices)
    return plan_bundle(spec, checkpoint, spec.task, shared=False)


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        ({}, "classification-fp16"),
        ({"task": "retrieval.query", "precision": Precision.INT8}, "retrieval.query-int8"),
        (ORT, "classification-fp16-onnxruntime"),
        ({"target": Target.TENSORRT, "gpus": ("sm90",)}, "classification-fp16-tensorrt"),
        ({"target": Target.TENSORRT10}, "classification-fp16-tensorrt10"),
        (CHUNKS, "classification-chunks-fp16"),
        (SWITCHABLE, "switchable-fp16"),
        (SWITCHABLE | CHUNKS | ORT, "switchable-chunks-fp16-onnxruntime"),
        (OFFICIAL | ORT, "official-fp16"),
        (SLOT | ORT, "base-slot-fp16"),
        (SLOT | ORT | {"rank": 8}, "base-slot-fp16-r8"),
        ({"rank": 8}, "classification-fp16"),
        (FLAT, "classification-fp16-flat"),
        ({"profiles": ("short", "long")}, "classification-fp16-short-long"),
        (ORT | {"profiles": ("short", "long")}, "classification-fp16-onnxruntime"),
        ({"refittable": True}, "classification-fp16-refittable"),
        ({"attention_accumulation": Accumulation.FP16}, "classification-fp16-fp16-attention"),
        ({"limits": Limits(max_batch=8)}, "classification-fp16-b8"),
        (
            {
                "limits": Limits(max_batch=8, max_tokens=512),
                "refittable": True,
                "profiles": ("short",),
            },
            "classification-fp16-short-refittable-b8-t512",
        ),
        ({"gpus": ("sm75",), "workspace_gib": 2, "parity_tokens": 64}, "classification-fp16"),
        (ORT | {"name": "mine"}, "mine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_name_says_the_choices(small: Checkpoint, choices: dict[str, Any], name: str) -> None:
    assert plan(small, **choices).name == name


@pytest.mark.parametrize(
    "choices", [ORT, {"precision": Precision.BF16}, {"target": Target.TENSORRT10}], ids=str
)
def test_accumulation_is_for_fp16_engines(small: Checkpoint, choices: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"ATTENTION_ACCUMULATION=fp16: is for engines"):
        plan(small, attention_accumulation=Accumulation.FP16, **choices)


def combinations() -> Iterator[dict[str, Any]]:
    forms: list[dict[str, Any]] = [
        {},
        CHUNKS,
        {"task": "separation"},
        SWITCHABLE,
        SWITCHABLE | CHUNKS,
        OFFICIAL,
        SLOT | {"rank": 4},
        SLOT | {"rank": 5},
    ]
    rest = product(
        Target,
        (Precision.FP16, Precision.FP32),
        ((), ("short", "long")),
        (False, True),
        (32, 8),
        (8192, 512),
    )
    for form, (target, precision, profiles, refittable, batch, tokens) in product(forms, rest):
        ort_only = target is Target.ONNXRUNTIME
        if (form.get("adapter") is AdapterMode.SLOT or "interface" in form) and not ort_only:
            continue
        if refittable and ("adapter" in form or not target.builds_here):
            continue
        if profiles and not target.runs_engine:  # only engines have any, so nothing differs
            continue
        limits = Limits(max_batch=batch, max_tokens=tokens)
        yield form | {
            "target": target,
            "precision": precision,
            "profiles": profiles,
            "refittable": refittable,
            "limits": limits,
        }


def test_no_two_choices_share_a_name(small: Checkpoint) -> None:
    """The README's own commands overwrote each other's engines."""
    names = [plan(small, **choices).name for choices in combinations()]
    assert len(names) > 200
    assert len(set(names)) == len(names)


def test_stem_says_the_weights_alone(small: Checkpoint) -> None:
    """A calibration is found by it, whatever the target; NAME is no part of it."""
    stems = {plan(small, **choices).stem for choices in combinations()}
    assert stems == {
        "classification",
        "classification-chunks",
        "separation",
        "switchable",
        "switchable-chunks",
        "official",
        "base-slot",
    }
    assert plan(small, name="mine", precision=Precision.INT8).stem == "classification"


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        ({"task": "mine"}, "mine-fp16"),
        ({"task": "separation"}, "separation-own-fp16"),
        ({"task": "mine"} | SWITCHABLE, "switchable-own-fp16"),
        ({"task": "mine"} | OFFICIAL | ORT, "official-own-fp16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_own_adapter_is_told_from_the_published_ones(choices: dict[str, Any], name: str) -> None:
    own = SAMPLE_HF / "separation"
    opened = open_checkpoint(SAMPLE_HF, adapter_path=own, adapter_task=choices["task"])
    made = plan(opened, adapter_path=own, **choices)
    assert made.name == name
    assert made.stem == name.removesuffix("-fp16")


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", ".hidden", "a b", "x" * 65, "a\n", "calibration"]
)
def test_name_is_one_plain_word(name: str) -> None:
    with pytest.raises(InputError, match="NAME: got ") as refusal:
        replace(DEFAULT, name=name)
    assert "\n" not in str(refusal.value)


def test_one_name_is_not_for_several_bundles() -> None:
    with pytest.raises(InputError, match="NAME: TASK=all builds several bundles"):
        replace(DEFAULT, task="all", name="mine")
    assert replace(DEFAULT, task="all", name="mine", **SWITCHABLE).name == "mine"


@pytest.mark.parametrize("precision", Precision)
def test_no_graph_is_written_that_nothing_runs_in_the_precision(
    small: Checkpoint, precision: Precision
) -> None:
    """Nothing multiplies INT8 in ONNX Runtime on a GPU; BF16's portable graph is PyTorch's.

    What a Jetson's parser reads knows no blocks of a weight.
    """
    spec = replace(DEFAULT, target=Target.TENSORRT_RTX, precision=precision, gpus=("sm89",))
    kinds = set(graph_files(plan(small), spec))
    quantised = SCHEMES[precision].storage is not None
    left_out = {GraphKind.OPENVINO, *([GraphKind.ONNXRUNTIME_CUDA] if quantised else [])}
    left_out |= {GraphKind.PRIMITIVE} if SCHEMES[precision].weight_only else set()
    assert set(GraphKind) - kinds == left_out
    if Target.OPENVINO not in SCHEMES[precision].targets:
        return
    rest = Precision.BF16 if quantised else None
    spec = replace(spec, target=Target.OPENVINO, rest=rest)
    assert set(graph_files(plan(small), spec)) == {GraphKind.OPENVINO, GraphKind.ONNXRUNTIME}
