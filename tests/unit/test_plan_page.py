"""The page of ``adaptrt inspect``: whole, self-contained, and predicted where it is predicted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from export.engines.gpus import GPUS
from export.engines.measured import GpuCheck
from export.engines.plan import Kernel, KernelKind, Plan
from export.engines.plan_figures import (
    KernelClass,
    PlanFigures,
    bytes_by_class,
    class_of,
    flops_by_types,
    milliseconds_by_class,
    milliseconds_by_limit,
)
from export.engines.plan_sizes import Sizes
from export.engines.predict import predict
from export.engines.traffic import traffic
from export.report.plan_page import PlanPage, RuleResult, plan_page
from export.report.plan_picture import modules_of, title_of
from runtimes.choices import Precision
from runtimes.errors import InputError
from tests.unit.test_traffic import FUSION, GEMM, GENERATED, HEADS, KERNELS, LOADS, PLAN, kernel

NAMES = {
    "qkv": ("encoder.layers.0.mixer.Wqkv.MatMul",),
    "rope": ("encoder.layers.0.mixer.Wqkv.Add", "rope.RotaryEmbedding.1", "Attention.0"),
    "sums": ("Cast.3", "encoder.layers.0.norm2.LayerNormalization"),
}
OUTSIDE = ("shapes", "mask", "CastGathCast", "pool", "norm")


def in_layer(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    return tuple(
        replace(k, nodes=NAMES.get(k.name, k.nodes), layer=None if k.name in OUTSIDE else 0)
        for k in kernels
    )


HALF = replace(PLAN, kernels=in_layer(KERNELS))


def page(plan: Plan = HALF, **changes: object) -> str:
    shown = PlanPage(
        subject="a model, a task, FP16",
        plans={"encoder.sm89.engine": plan},
        heads=HEADS,
        max_batch=32,
        max_tokens=8192,
    )
    return plan_page(replace(shown, **changes))  # type: ignore[arg-type]


def text_of(html: str) -> str:
    """What a reader sees, without styles."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.lasttag != "style":
                found.append(data)

    Reader().feed(html)
    return re.sub(r"\s+", " ", " ".join(found))


def test_page_loads_nothing_from_anywhere() -> None:
    html = page()
    assert html.startswith("<!DOCTYPE html>")
    assert not re.search(r"(?:src|href)=|url\(|https?://", html)


def test_page_says_that_times_are_predicted_and_from_what() -> None:
    text = text_of(page())
    assert "Predicted, not measured" in text
    assert "fitted to NVIDIA's published times of BERT-large" in text
    assert "version 2026-11-28" in text
    for gpu in GPUS:
        assert gpu in text


def test_a_gpu_without_an_engine_says_whose_plan_was_used() -> None:
    both = replace(HALF, gpu="sm86")
    name = "encoder.sm86.engine and encoder.sm89.engine"
    text = text_of(page(plans={name: both}))
    for shown in ("A10 sm86 ", "L4 sm89 ", "A100 40GB sm80 (as sm86) ", "H100 SXM sm90 (as sm86) "):
        assert shown in text
    assert "sm89 (as" not in text


def test_measured_figures_replace_predicted_ones() -> None:
    assert " ms measured" not in text_of(page())
    shown = text_of(page(measured={("L4", 8, 512): 1.25})).split("In brackets")[1]
    assert shown.count(" ms measured") == 1
    assert "1.25 ms measured" in shown
    other = text_of(page(measured={("NVIDIA Later", 8, 512): 0.5})).split("In brackets")[1]
    assert re.search(r"NVIDIA Later +– 0\.5 ms measured –", other)


def test_measured_times_are_read_of_the_gpu_check(tmp_path: Path) -> None:
    row = {"case": "8x512", "executor": "tensorrt", "precision": "fp16", "milliseconds": 4.5}
    rows = [
        row,
        row | {"executor": "torch", "milliseconds": 9.0},
        row | {"precision": "int8"},
        row | {"case": "mixed"},
    ]
    device = {"name": "NVIDIA GeForce RTX 4090", "sm": "sm89"}
    path = tmp_path / "gpu-check.json"
    path.write_text(json.dumps({"gpu": device, "timed_size": "full", "rows": rows, "steps": []}))
    assert GpuCheck.read(path).times(Precision.FP16) == {("RTX 4090", 8, 512): 4.5}
    path.write_text(json.dumps({"gpu": {"name": "Orin"}, "timed_size": "full", "rows": [row]}))
    assert GpuCheck.read(path).times(Precision.FP16) == {("Orin", 8, 512): 4.5}
    path.write_text("{}")
    with pytest.raises(InputError, match="`make gpu-check` writes it"):
        GpuCheck.read(path)


def test_calls_beyond_the_bundles_limits_are_not_shown() -> None:
    assert "8192 tokens" in page()
    short = page(max_batch=4, max_tokens=256)
    assert "8192" not in text_of(short)
    assert "4 texts of 256 tokens" in text_of(short)


def test_a_gpu_that_cannot_multiply_the_type_has_no_time() -> None:
    product = kernel("fp8", GEMM, "x -1,64 FP8", "y -1,64 Half", "w 64,64 FP8")
    shown = text_of(page(replace(HALF, kernels=(*HALF.kernels, product))))
    assert re.search(r"A10 sm86 [^–]*? – – – ", shown)
    assert not re.search(r"L4 sm89 –", shown)


def test_rules_are_shown_with_their_outcome() -> None:
    assert "The plan's rules" not in page()
    rules = (RuleResult(rule="int8-weights", found="convert: Int8 → Half", passed=False),)
    shown = text_of(page(rules=rules))
    assert "int8-weights convert: Int8 → Half ✗ broken" in shown


def test_picture_has_a_box_for_each_kernel_of_the_layer_and_its_operands() -> None:
    html = page()
    inside = [k for k in HALF.launches if k.layer == 0]
    assert html.count('class="kernel"') == len(inside)
    text = text_of(html)
    assert "tokens × 64 Half, 3 of them" in text  # Q, K and V, heads and width together
    assert "64 × 192 Half" in text
    # QKV to two kernels, these two to attention, and five more, one after the other.
    assert html.count('class="flow"') == 9


def test_streams_are_columns() -> None:
    moved = replace(
        HALF, kernels=tuple(replace(k, stream=2) if k.name == "value" else k for k in HALF.kernels)
    )
    assert "stream 2" in page(moved)
    assert "stream 2" not in page()


def test_markup_in_a_name_is_text() -> None:
    odd = tuple(replace(k, name=f"<b>{k.name}") if k.name == "fc2" else k for k in HALF.kernels)
    assert "<b>fc2" not in page(replace(HALF, kernels=odd))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (kernel("_gemm_mha_v2", GENERATED, "", ""), KernelClass.ATTENTION),
        (kernel("x", FUSION, "", ""), KernelClass.PRODUCT),
        (kernel("c", GENERATED, "", "h 1,64,192 Half", "w 64,192 Int8"), KernelClass.CONVERT),
        (kernel("CastAddMeanSub", GENERATED, "", "y -1,64 Half"), KernelClass.NORM),
        (kernel("AddDivErf", GENERATED, "", "y -1,64 Half"), KernelClass.ACTIVATION),
        (kernel("MoveTran", GENERATED, "", "y -1,64 Half"), KernelClass.MOVE),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_classes_of_kernels(made: Kernel, expected: KernelClass) -> None:
    assert class_of(replace(made, layer=0)) is expected
    if expected in (KernelClass.NORM, KernelClass.ACTIVATION, KernelClass.MOVE):
        assert class_of(replace(made, layer=None)) is KernelClass.ONCE


def test_titles_and_modules_are_words() -> None:
    by_name = {k.name: k for k in HALF.kernels}
    assert modules_of(by_name["rope"]) == "Wqkv, rope"
    assert modules_of(by_name["sums"]) == "norm2"
    assert title_of(by_name["rope"]) == "RoPE, layout"
    assert title_of(by_name["qkv"]) == "product"


def test_shapes_in_words() -> None:
    sizes = Sizes.of(HALF, LOADS[0])
    words = {
        tensor.name: sizes.described(tensor)
        for k in HALF.kernels
        for tensor in (*k.constants, *k.inputs, *k.outputs)
    }
    assert words["q"] == "tokens × 64"
    assert words["m"] == words["mean"] == "tokens"
    assert words["sentence_embedding"] == "texts × 64"
    assert words["w"] == "256 × 64"


def test_figures_count_what_is_launched() -> None:
    figures = PlanFigures.of(HALF)
    assert figures.launches == len(HALF.kernels) - 1
    assert dict(figures.products) == {"Half×Half": 4}
    assert (figures.attentions, figures.accumulators) == (1, ("not said",))
    assert figures.per_layer == sum(k.layer == 0 for k in HALF.launches)
    waits = tuple(replace(k, kind=KernelKind.WAIT) for k in HALF.kernels)
    assert PlanFigures.of(replace(HALF, kernels=waits)).launches == 0


def test_sums_by_class_and_type_and_limit_are_the_whole() -> None:
    works = traffic(HALF, LOADS[1])
    assert sum(bytes_by_class(works).values()) == pytest.approx(sum(w.bytes for w in works))
    assert sum(flops_by_types(works).values()) == sum(w.flops for w in works)
    assert set(flops_by_types(works)) == {"Half×Half", "attention, Half×Half"}
    found = predict(HALF, LOADS[1], GPUS["L4"])
    for sums in (milliseconds_by_class(found.kernels), milliseconds_by_limit(found.kernels)):
        assert sum(sums.values()) == pytest.approx(found.milliseconds)
