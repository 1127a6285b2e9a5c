"""Bundles whose table of embeddings is quantised: built, compiled, verified, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptrt import Embedder, build
from export.engines.checks import check_engines
from export.engines.plan_file import bundle_plans
from export.graph.table import SCALES, TABLE
from export.graph.trace import stored_slots
from export.spec import BuildSpec
from runtimes.bundle_files import OPENVINO_FILE
from runtimes.choices import Embeddings, GraphKind, Precision, Target
from runtimes.errors import GateError
from runtimes.manifest import Manifest, TableCost, read_manifest
from tests.support import cosines, few_gate_texts, listing, present, rehash, run_cli
from tests.zoo import Size, write_original

TASK, TEXTS = "separation", ["Where is the station?", "東京は雨です。", "ok"]


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few_gate_texts(patch)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as a block of INT4."""
    return write_original(tmp_path_factory.mktemp("model"), Size(hidden=128))


def built(
    model: Path, out: Path, embeddings: str, target: str, precision: str = "fp16"
) -> tuple[Path, Manifest]:
    (bundle,) = build(
        model,
        task=TASK,
        precision=precision,
        embeddings=embeddings,
        target=target,
        gpu="sm89",
        max_tokens=64,
        parity_tokens=24,
        out=out,
    )
    return bundle.path, bundle.manifest


@pytest.fixture(scope="module")
def bundles(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With engines, by how the table is stored."""
    out = tmp_path_factory.mktemp("bundles")
    return {name: built(model, out, name, "tensorrt_rtx")[0] for name in Embeddings}


@pytest.mark.parametrize(("name", "least"), [("int8", 0.9999), ("int4", 0.99)])
def test_bundle_holds_the_table_as_it_says(
    name: str, least: float, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(bundles[name])
    parity, cost = present(manifest.parity), present(manifest.table_cost)
    assert (manifest.embeddings, manifest.precision) == (name, "fp16")
    assert parity.threshold == least <= parity.min_cosine
    assert least <= cost.min_cosine < cost.mean_cosine < 1  # and it costs something
    graph = bundles[name] / present(manifest.engine_graph).path
    slots = {slot.name: slot for slot in stored_slots(graph)}
    assert (slots[TABLE].dtype, slots[SCALES].dtype) == (name, "float16")
    ((plan,),) = bundle_plans(bundles[name], manifest).values()
    tables = [c for k in plan.launches for c in k.constants if c.shape == slots[TABLE].shape]
    assert [table.type for table in tables] == [name.capitalize()]
    capsys.readouterr()
    assert run_cli("verify", "--bundle", bundles[name]) == 0
    with Embedder.load(bundles["same"]) as whole, Embedder.load(bundles[name]) as smaller:
        found = cosines(whole.encode(TEXTS), smaller.encode(TEXTS))
    assert least <= found.min() < 0.9999999


def test_openvino_compiles_a_gather_of_int8(model: Path, tmp_path: Path) -> None:
    """What it executes, not what the file holds."""
    import openvino as ov

    folder, _ = built(model, tmp_path, "int8", "openvino", precision="fp32")
    compiled = ov.Core().compile_model(folder / OPENVINO_FILE, "CPU")
    gathers = [
        [value.get_element_type().get_type_name() for value in node.inputs()]
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Gather"
    ]
    assert "i8" in {types[0] for types in gathers}


def test_bundle_without_has_no_cost_and_another_gate(bundles: dict[str, Path]) -> None:
    manifest = read_manifest(bundles["same"])
    assert (manifest.embeddings, manifest.table_cost) == ("same", None)


def test_engine_that_holds_the_table_in_half_breaks_the_rule(bundles: dict[str, Path]) -> None:
    """The plan of the one bundle's engine, judged as the other's."""
    manifest = read_manifest(bundles["int8"])
    plans = bundle_plans(bundles["same"], read_manifest(bundles["same"]))
    spec = BuildSpec(
        model="",
        task=TASK,
        precision=Precision.FP16,
        target=Target.TENSORRT_RTX,
        out=Path(),
        gpus=("sm89",),
        embeddings=Embeddings.INT8,
    )
    graph = bundles["int8"] / manifest.artifact(GraphKind.TENSORRT).path
    with pytest.raises(GateError, match=r"breaks the rule quantised-table: .*: the table in Half"):
        check_engines(plans, spec, manifest.architecture, graph, {})
    check_engines(bundle_plans(bundles["int8"], manifest), spec, manifest.architecture, graph, {})


def test_scale_of_another_row_is_found(bundles: dict[str, Path]) -> None:
    """With its hashes made right: what a builder with a fault would have published."""
    folder = bundles["int8"]
    graph = folder / read_manifest(folder).artifact(GraphKind.ONNXRUNTIME).path
    slot = {slot.name: slot for slot in stored_slots(graph)}[SCALES]
    raw = np.memmap(graph.parent / slot.file, np.float16, "r+", slot.offset, slot.shape)
    before = raw.copy()
    raw[:] = np.roll(before, 1)
    raw.flush()
    try:
        rehash(folder)
        assert run_cli("verify", "--bundle", folder) == 3
    finally:
        raw[:] = before
        raw.flush()
        rehash(folder)


def test_manifest_with_a_cost_and_no_such_table_is_refused(bundles: dict[str, Path]) -> None:
    from runtimes.manifest_rules import broken_rule

    cost = TableCost(rows=1, min_cosine=1.0, mean_cosine=1.0)
    claimed = replace(read_manifest(bundles["same"]), table_cost=cost)
    assert "table_cost" in present(broken_rule(claimed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--embeddings", "int5"), "EMBEDDINGS: got 'int5', expected one of same, int8, int4"),
        (("--embeddings", ""), "EMBEDDINGS: got ''"),
        (("--embeddings", "int4", "--target", "tensorrt10"), "use EMBEDDINGS=int8"),
        (("--embeddings", "int4", "--target", "openvino"), "TARGET=openvino keeps no table"),
        (("--embeddings", "int4"), "its blocks of 128 numbers do not divide 64"),
        (("--embeddings", "int8", "--refittable"), "leave EMBEDDINGS or --refittable out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: tuple[str, ...],
    words: str,
    small_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run_cli("engine", "--model", small_folder, "--out", out, *options) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert listing(tmp_path) == {}
