"""FP8 bundles of the trained sample end to end: engines, gate, fallback, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import export.gate.texts
from adaptrt import Embedder
from calibration.corpus import held_back
from calibration.evidence import Loss
from export.engines.plan_file import bundle_plans
from runtimes.manifest import Manifest, read_manifest
from tests.support import cosines, run_cli

TEXTS = ["Where is the station?", "Wo ist der Bahnhof?", "ありがとうございます", "word " * 100]
SIZE = ("--max-tokens", 256, "--parity-tokens", 64, "--calibration-texts", 48)
FC2 = "encoder.layers.5.mlp.fc2"


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    """Every sixth held-back text; all pairs of query and passage, which rank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.gate.texts, "held_back", lambda: held_back()[::6])
        yield


def build(out: Path, precision: str, *options: object) -> int:
    where = ("--target", "tensorrt_rtx", "--out", out)
    return run_cli("engine", "--precision", precision, *where, *SIZE, *options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual engines that multiply FP8."""
    out = tmp_path_factory.mktemp("fp8")
    assert build(out, "fp8") == 0
    assert (out / "sample" / "calibration" / "classification-fp8.json").is_file()
    return out / "sample" / "classification-fp8-t256"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def test_every_product_passes_the_gate_in_fp8(bundle: Path, manifest: Manifest) -> None:
    assert manifest.quantisation is not None
    assert (manifest.quantisation.scheme, manifest.quantisation.share) == ("fp8", 1)
    parity = json.loads((bundle / "parity.json").read_text())
    for graph in parity["graphs"].values():
        assert graph["min_cosine"] > 0.998
        assert 0.9995 < graph["mean_cosine"] < 0.99995  # and no better type was compared
    for losses in parity["quantisation"]["losses"].values():
        assert all(Loss(**loss).allowed for loss in losses)
    assert "<title>FP8 report" in (bundle / "report.html").read_text(encoding="utf-8")


def test_engines_are_those_of_gpus_that_multiply_fp8(bundle: Path, manifest: Manifest) -> None:
    engines = {a.gpu for a in manifest.artifacts if a.path.endswith(".engine")}
    assert engines == {"sm89", "sm120"}


def test_engines_multiply_fp8_and_scale_before_they_round(bundle: Path, manifest: Manifest) -> None:
    """Four products a layer and no other; with a factor of 1 sums would be stored unscaled."""
    for plans in bundle_plans(bundle, manifest).values():
        for plan in plans:
            products = [
                (k.inputs[0].type, k.weight.type, k.outputs[0].type)
                for k in plan.products
                if k.weight is not None
            ]
            assert Counter(products) == {("FP8", "FP8", "Half"): 24}, plan.gpu
            assert len(plan.attentions) == 6
            assert all(k.alpha is not None and k.alpha < 0.1 for k in plan.products)


def test_weights_are_stored_in_e4m3_with_one_scale(bundle: Path) -> None:
    values = ir.load(bundle / "onnx" / "model.portable.onnx").graph.initializers
    assert values[f"{FC2}.weight"].dtype == ir.DataType.FLOAT8E4M3FN
    assert values[f"{FC2}.weight_scale"].shape == ir.Shape(())
    stored = values[f"{FC2}.weight"].const_value
    assert stored is not None
    numbers = stored.numpy().astype(np.float32)
    assert np.abs(numbers).max() == 448  # its whole range, and no NaN


def test_bundle_serves_and_verifies(bundle: Path, fp32_bundle: Path) -> None:
    with Embedder.load(bundle) as quantised, Embedder.load(fp32_bundle) as exact:
        found = quantised.encode(TEXTS)
        assert cosines(found, exact.encode(TEXTS)).min() > 0.998
        assert cosines(quantised.encode(TEXTS[:1]), found[:1]).min() > 0.999999
    assert run_cli("verify", "--bundle", bundle) == 0


@pytest.fixture
def clipping_table(bundle: Path, tmp_path: Path) -> Path:
    """The bundle's calibration with the last GEMM's range a hundredth of what it is."""
    raw: dict[str, Any] = json.loads((bundle / "calibration.json").read_text(encoding="utf-8"))
    entry = raw["tensors"][FC2]
    entry["amplitude"] /= 100
    entry["scale"] = max(entry["amplitude"] / 448, 2.0**-14)
    entry["cosine"] = 0.9  # alone
    path = tmp_path / "clipping.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def test_product_that_fails_the_gate_falls_back_to_fp16(
    tmp_path: Path, clipping_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--gpu", "sm89", "--calibration", clipping_table)
    assert build(out, "fp8", *options) == 0
    assert "FP8: parity failed for portable: minimum cosine 0." in capsys.readouterr().err
    bundle = out / "sample" / "classification-fp8-t256"
    quantisation = read_manifest(bundle).quantisation
    assert quantisation is not None
    assert list(quantisation.fallback) == [FC2]
    assert quantisation.fallback_type == "float16"
    before = out / "sample" / "classification-fp8-t256" / "manifest.json"
    kept = before.read_bytes()
    assert build(out, "fp8", *options, "--int8-fallback-max", 0) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: FP8 fails its gate even with 0 of 24 GEMMs")
    assert before.read_bytes() == kept


def test_ranges_of_another_type_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ("--calibration", bundle / "calibration.json")
    assert build(tmp_path / "out", "int8", *table) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "its type is 'float8_e4m3fn', expected 'int8'" in error
    assert not (tmp_path / "out").exists()
