"""INT8 bundles of the trained sample end to end, and calibrations that must not pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt import Embedder
from calibration import looks
from calibration.corpus import TEXTS as TEXTS_FILE
from calibration.evidence import Loss
from calibration.quality import LIMITS
from calibration.table import read_calibration
from export.checkpoint.families import JINA_TASKS
from export.engines.builder import EngineSpec, build_engine
from export.spec import Limits
from runtimes.choices import Target
from runtimes.executors.tensorrt.library import load_tensorrt
from runtimes.manifest import Manifest, read_manifest
from tests.support import cosines, run_cli

CPU = "int8-onnxruntime-t256"
TEXTS = ["Where is the station?", "Wo ist der Bahnhof?", "ありがとうございます", "word " * 100]
OPTIONS = (
    "--precision",
    "int8",
    "--max-tokens",
    256,
    "--parity-tokens",
    64,
    "--calibration-texts",
    48,
)


def build(out: Path, *options: object, target: str = "onnxruntime") -> int:
    return run_cli("engine", "--target", target, "--gpu", "sm89", "--out", out, *OPTIONS, *options)


@pytest.fixture(scope="module")
def int8_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of all five tasks for a CPU."""
    out = tmp_path_factory.mktemp("int8")
    assert build(out, "--task", "all") == 0
    return out


# All five take three minutes; every build of TASK=all PRECISION=int8 judges them.
ENGINE_TASKS = ("retrieval.passage", "classification")


@pytest.fixture(scope="module")
def bundle(int8_out: Path) -> Path:
    return int8_out / "sample" / f"classification-{CPU}"


@pytest.fixture(scope="module")
def engines(int8_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the tasks with TensorRT-RTX engines, from the ranges computed before."""
    out = tmp_path_factory.mktemp("engine")
    for task in ENGINE_TASKS:
        table = int8_out / "sample" / "calibration" / f"{task}.json"
        options = ("--task", task, "--calibration", table)
        assert build(out, *options, target="tensorrt_rtx") == 0
    assert not (out / "sample" / "calibration").exists()
    return out / "sample"


@pytest.fixture(scope="module")
def engine_bundle(engines: Path) -> Path:
    return engines / "classification-int8-t256"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def check_graphs(parity: dict[str, Any], *engines: str) -> None:
    """The mean is better than plain min-max quantisation's 0.9996, even with so few texts."""
    executors = ("portable", "onnxruntime", *engines)
    labels = {label for name in executors for label in (name, f"{name}, 32 dimensions")}
    assert parity["graphs"].keys() == labels
    for graph in parity["graphs"].values():
        assert graph["min_cosine"] >= 0.99
        assert graph["mean_cosine"] > 0.9996


@pytest.mark.parametrize("task", JINA_TASKS)
def test_every_task_passes_its_gate_with_little_fallback(int8_out: Path, task: str) -> None:
    manifest = read_manifest(int8_out / "sample" / f"{task}-{CPU}")
    assert manifest.quantisation is not None
    assert manifest.quantisation.share >= 0.75
    parity = json.loads((int8_out / "sample" / f"{task}-{CPU}" / "parity.json").read_text())
    check_graphs(parity)
    assert parity["quantisation"]["losses"].keys() == parity["graphs"].keys()
    for losses in parity["quantisation"]["losses"].values():
        assert {loss["figure"] for loss in losses} == LIMITS.keys()
        assert all(Loss(**loss).allowed for loss in losses)


@pytest.mark.parametrize("task", ENGINE_TASKS)
def test_engine_passes_emulated(engines: Path, task: str) -> None:
    """Where the sums of its products overflow, this is NaN."""
    parity = json.loads((engines / f"{task}-int8-t256" / "parity.json").read_text())
    check_graphs(parity, "emulated engine")
    for label in ("emulated engine", "emulated engine, 32 dimensions"):
        losses = parity["quantisation"]["losses"][label]
        assert {(loss["task"], Loss(**loss).allowed) for loss in losses} == {(task, True)}


def test_gate_ran_on_texts_that_no_calibration_sees(int8_out: Path) -> None:
    """All of them for the first task of a build, every third for the others."""
    for task, count in ((JINA_TASKS[0], 192), ("classification", 64)):
        parity = json.loads((int8_out / "sample" / f"{task}-{CPU}" / "parity.json").read_text())
        names = [text["name"] for text in parity["graphs"]["portable"]["texts"]]
        assert sum(name.startswith("held-") for name in names) == count
        asked = looks.LOOKS[parity["quantisation"]["looks"] - 1][0]
        assert sum(name.startswith("queries-") for name in names) == asked
        assert sum(name.startswith("negatives-") for name in names) == 3 * asked
    own = [json.loads(line) for line in TEXTS_FILE.read_text(encoding="utf-8").splitlines()]
    held, used = (
        {r["text"] for r in own if r["split"] == split} for split in ("held_back", "calibration")
    )
    assert not held & used


def test_weights_and_engine_are_in_int8(engine_bundle: Path, fp16_bundle: Path) -> None:
    """The four GEMMs of six layers hold 4.7 M weights, one byte less for each."""
    before, after = (
        {a.path: a.bytes for a in read_manifest(b).artifacts} for b in (fp16_bundle, engine_bundle)
    )
    weights = 6 * (3 + 1 + 4 + 4) * 256 * 256
    saved = before["encoder.sm89.engine"] - after["encoder.sm89.engine"]
    assert saved > 0.8 * weights
    # The bundle for 8192 tokens has 2 MB more of RoPE's tables.
    tables = (8192 - 256) * 16 * 2 * 2
    saved = before["onnx/model.onnx_data"] - after["onnx/model.onnx_data"] - tables
    assert 0.9 * weights < saved < 1.1 * weights


def test_bundle_serves_and_verifies(
    bundle: Path, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Embedder.load(bundle) as quantised, Embedder.load(fp32_bundle) as exact:
        found = quantised.encode(TEXTS)
        assert cosines(found, exact.encode(TEXTS)).min() > 0.998
        assert cosines(quantised.encode(TEXTS[:1]), found[:1]).min() > 0.999999
    assert run_cli("verify", "--bundle", bundle) == 0
    assert "onnxruntime, 32 dimensions: " in capsys.readouterr().out


def test_manifest_and_report_name_what_is_int8(bundle: Path, manifest: Manifest) -> None:
    assert manifest.quantisation is not None
    assert len(manifest.quantisation.quantised) + len(manifest.quantisation.fallback) == 24
    kinds = {a.kind for a in manifest.artifacts}
    assert {"calibration", "report"} <= kinds
    report = (bundle / "report.html").read_text(encoding="utf-8")
    assert ">5.mlp.fc2<" in report
    assert "http://" not in report.replace("http://www.w3.org/", "")
    table = read_calibration(bundle / "calibration.json")
    assert table.key == manifest.quantisation.calibration_key
    assert sum(table.corpus.counts.length.values()) == 4 * 48


def test_calibration_is_reused_for_the_same_question_only(
    int8_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(int8_out / "sample" / "calibration", tmp_path / "sample" / "calibration")
    path = tmp_path / "sample" / "calibration" / "separation.json"
    before = path.read_bytes()
    options = ("--task", "separation", "--max-tokens", 256, "--out", tmp_path)
    assert run_cli("calibrate", *options, "--calibration-texts", 48) == 0
    assert "as it was" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert run_cli("calibrate", *options, "--calibration-texts", 24) == 0
    assert "as it was" not in capsys.readouterr().out
    assert path.read_bytes() != before


@pytest.fixture
def one_text(tmp_path: Path) -> Path:
    path = tmp_path / "one.txt"
    path.write_text("Hi\n", encoding="utf-8")
    return path


def test_range_of_one_short_text_fails_the_gate_and_publishes_nothing(
    tmp_path: Path, one_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--calibration-data", one_text, "--calibration-texts", 5)
    assert build(out, *options) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: INT8 fails its gate even with ")
    assert "INT8_FALLBACK_MAX 25%" in lines[-1]
    assert "nothing was published" in lines[-1]
    assert sum("fell back" in line for line in lines) > 0  # the table
    assert [p.name for p in (out / "sample").iterdir()] == ["calibration"]


def test_given_table_must_be_of_the_same_model_and_task(
    bundle: Path, tmp_path: Path, one_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of other texts it may be; tests/integration/test_calibrations.py sees the warning."""
    table = ("--calibration", bundle / "calibration.json")
    old = json.loads(table[1].read_text(encoding="utf-8"))
    del old["profile"]
    (tmp_path / "old.json").write_text(json.dumps(old | {"schema": 1}))
    texts = ("--calibration-data", one_text)
    assert build(tmp_path / "out", "--calibration", tmp_path / "old.json", *texts) == 2
    assert "it does not say what its texts are like" in capsys.readouterr().err.splitlines()[-1]
    assert build(tmp_path / "out", *table, "--task", "separation") == 2
    assert "its task is 'classification', expected 'separation'" in capsys.readouterr().err
    narrow = json.loads(table[1].read_text(encoding="utf-8"))
    next(iter(narrow["tensors"].values()))["channel_max"].pop()
    (tmp_path / "narrow.json").write_text(json.dumps(narrow))
    assert build(tmp_path / "out", "--calibration", tmp_path / "narrow.json") == 2
    assert "its GEMMs are not the model's" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_empty_corpus_is_an_error(
    tmp_path: Path, one_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_text.write_text("\n  \n", encoding="utf-8")
    assert build(tmp_path / "out", "--calibration-data", one_text) == 2
    assert "no text in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_slot_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(tmp_path / "out", "--adapter", "slot") == 2
    assert "INT8's ranges cannot know the adapter" in capsys.readouterr().err


def test_switchable_keeps_its_adapters_out_of_int8(tmp_path: Path, fp32_bundle: Path) -> None:
    assert build(tmp_path, "--adapter", "switchable", "--calibration-texts", 120) == 0
    folder = tmp_path / "sample" / f"switchable-{CPU}"
    manifest = read_manifest(folder)
    assert manifest.quantisation is not None
    assert manifest.quantisation.share >= 0.75
    with Embedder.load(folder) as switchable, Embedder.load(fp32_bundle) as exact:
        ours = switchable.encode(TEXTS * 2, task=["classification"] * 4 + ["separation"] * 4)
        expected = exact.encode(TEXTS)
    assert cosines(ours[:4], expected).min() > 0.998
    assert np.all(cosines(ours[4:], expected) < cosines(ours[:4], expected))
    # TensorRT-RTX reads and builds the same graph; the gate in FP16 would take minutes here.
    engine = EngineSpec(
        limits=Limits(max_batch=4, max_tokens=256),
        gpu="sm89",
        workspace=2**32,
        inputs=manifest.inputs,
    )
    trt = load_tensorrt(Target.TENSORRT_RTX)
    build_engine(trt, folder / "model.tensorrt.onnx", tmp_path / "switchable.engine", engine)
    weights = sum(a.bytes for a in manifest.artifacts if a.path.endswith(".onnx_data"))
    in_fp32 = weights + 3 * 6 * (3 + 1 + 4 + 4) * 256 * 256  # what an engine of FP32 GEMMs holds
    assert (tmp_path / "switchable.engine").stat().st_size < 0.85 * in_fp32
