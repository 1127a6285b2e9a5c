"""What a build leaves: the files, the manifest, every task of a checkpoint, any precision."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tensorrt_rtx_bindings as rtx

import export.build.pipeline
from adaptrt import Embedder, InputError
from export.checkpoint.families import JINA_TASKS
from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import open_checkpoint
from export.checkpoint.source import SAMPLE
from export.gate.texts import texts_sha256
from export.graph.trace import trace
from runtimes.choices import Embeddings, Precision
from runtimes.files import sha256
from runtimes.manifest import read_manifest
from runtimes.tables import gate_of
from tests.support import build, cosines, listing, run_cli
from tests.zoo import write_native

GRAPHS = {f"onnx/model{kind}.onnx" for kind in ("", ".portable", ".tensorrt", ".primitive")}
TEXTS = ["Guten Tag", "東京", "a longer text about nothing in particular " * 6]


def encode(bundle: Path, **options: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with Embedder.load(bundle) as embedder:
        return embedder.encode(TEXTS, **options)  # type: ignore[arg-type]


def test_bundle_holds_graphs_weights_engine_tokenizer_and_parity(fp16_bundle: Path) -> None:
    names = set(listing(fp16_bundle))
    assert names >= GRAPHS | {
        "manifest.json",
        "onnx/model.onnx_data",
        "encoder.sm89.engine",
        "tokenizer.json",
        "parity.json",
    }
    assert not any(name.startswith(".") for name in names)


def test_manifest_says_what_was_built_from_what_and_how_it_was_verified(fp16_bundle: Path) -> None:
    raw = json.loads((fp16_bundle / "manifest.json").read_text())
    assert raw["schema"] == 1
    assert raw["model"]["name"] == "sample"
    assert raw["model"]["format"] == "original"
    assert raw["model"]["sha256"] == model_sha256(open_checkpoint(SAMPLE))
    assert raw["model"]["licence"]
    assert (raw["task"], raw["adapter"], raw["precision"]) == ("classification", "merged", "fp16")
    assert raw["target"] == {"name": "tensorrt_rtx", "requested": "tensorrt_rtx"}
    assert (raw["max_batch"], raw["max_tokens"], raw["prefix"]) == (32, 8192, "")
    assert raw["dimensions"] == [32, 64, 128, 256]
    parity = raw["parity"]
    assert parity["passed"] is True
    assert parity["executed"] == "onnxruntime-cpu"  # no GPU ran the engine, so never more
    assert parity["reference"] == "torch-sdpa-flash-cpu-float32"
    assert parity["rows"] >= 48
    assert 0.9999 <= parity["min_cosine"] <= parity["mean_cosine"] <= 1
    assert raw["versions"]["onnxruntime"] == onnxruntime.__version__
    assert rtx.__version__ in raw["versions"]["tensorrt"]


def test_artefacts_have_kind_precision_gpu_and_true_hashes(fp16_bundle: Path) -> None:
    artifacts = {a.path: a for a in read_manifest(fp16_bundle).artifacts}
    assert artifacts["onnx/model.portable.onnx"].kind == "portable"
    assert artifacts["onnx/model.onnx"].kind == "onnxruntime"
    assert artifacts["onnx/model.primitive.onnx"].kind == "primitive"
    engine = artifacts["encoder.sm89.engine"]
    assert (engine.kind, engine.gpu, engine.precision) == ("tensorrt_rtx", "sm89", "fp16")
    for path, entry in artifacts.items():
        assert entry.bytes == (fp16_bundle / path).stat().st_size
        assert entry.sha256 == sha256(fp16_bundle / path)


def test_parity_file_lists_every_text_of_every_executed_graph(fp16_bundle: Path) -> None:
    raw = json.loads((fp16_bundle / "parity.json").read_text())
    assert raw["texts_sha256"] == texts_sha256(gate_of(Precision.FP16, Embeddings.SAME))
    assert {"portable", "onnxruntime"} <= raw["graphs"].keys()
    for graph in raw["graphs"].values():
        assert len(graph["texts"]) == graph["rows"]
        assert max(text["tokens"] for text in graph["texts"]) >= 2000
        assert min(text["cosine"] for text in graph["texts"]) == graph["min_cosine"]
    assert 0.99 < raw["reference_bf16_min_cosine"] < 1  # the noise floor shown beside the figures


def test_bf16_is_executed_as_the_traced_module_and_the_manifest_says_so(bf16_bundle: Path) -> None:
    raw = json.loads((bf16_bundle / "parity.json").read_text())
    executed = {name: graph["executed"] for name, graph in raw["graphs"].items()}
    assert executed == {"portable": "torch-cpu-traced-module", "onnxruntime": "onnxruntime-cpu"}
    assert raw["graphs"]["portable"]["min_cosine"] >= 0.999


def test_precisions_of_one_task_agree(
    fp32_bundle: Path, fp16_bundle: Path, bf16_bundle: Path
) -> None:
    exact = encode(fp32_bundle)
    assert cosines(encode(fp16_bundle), exact).min() >= 0.9999
    assert cosines(encode(bf16_bundle), exact).min() >= 0.999


def test_prefix_is_applied_by_the_bundles_own_embedder(query_bundle: Path) -> None:
    assert read_manifest(query_bundle).prefix.startswith("Represent the query")
    assert np.abs(encode(query_bundle) - encode(query_bundle, prefix=False)).max() > 1e-3


def test_all_tasks_build_from_one_trace(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = trace.cache_info().misses
    assert build(tmp_path, "--model", small_folder, "--task", "all") == 0
    assert trace.cache_info().misses <= before + 1
    folders = {task: tmp_path / "small" / f"{task}-fp32-onnxruntime" for task in JINA_TASKS}
    assert {p.name for p in (tmp_path / "small").iterdir()} == {f.name for f in folders.values()}
    vectors = {task: encode(folder, prefix=False) for task, folder in folders.items()}
    assert len({v.tobytes() for v in vectors.values()}) == len(JINA_TASKS)
    assert capsys.readouterr().out.count("parity: ") == len(JINA_TASKS)


def test_native_base_builds(small_folder: Path, tmp_path: Path) -> None:
    native = write_native(small_folder, tmp_path / "small-hf")
    assert build(tmp_path / "out", "--model", native, "--task", "base") == 0
    manifest = read_manifest(tmp_path / "out" / "small-hf" / "base-fp32-onnxruntime")
    assert (manifest.task, manifest.model.format, manifest.prefix) == ("base", "native", "")


def test_sample_is_announced_with_the_real_models_command(
    fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fp32_bundle.is_dir()
    assert build(tmp_path, "--task", "nope") == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert "sample" in first
    assert "MODEL=jinaai/jina-embeddings-v3" in first


def test_small_limits_build_in_silence(
    small_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The gate's own texts are longer than such a bundle takes; that is no news to the user."""
    options = (
        "--model",
        small_folder,
        "--task",
        "base",
        "--max-tokens",
        16,
        "--max-batch",
        1,
        "--quiet",
    )
    assert build(tmp_path, *options) == 0
    assert re.sub(r"^target: .*\n", "", capfd.readouterr().err) == ""


def test_second_build_gives_the_same_bytes(
    small_bundle: Path, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build.pipeline, "trace", trace.__wrapped__)  # nothing from the cache
    assert build(tmp_path, "--model", small_folder, "--task", "separation") == 0
    again = tmp_path / "small" / "separation-fp32-onnxruntime"
    assert set(listing(again)) == set(listing(small_bundle))
    for name in GRAPHS | {"onnx/model.onnx_data", "tokenizer.json"}:
        assert (again / name).read_bytes() == (small_bundle / name).read_bytes(), name


def test_repeated_gpu_builds_one_engine(small_folder: Path, tmp_path: Path) -> None:
    assert (
        run_cli(
            "engine",
            "--model",
            small_folder,
            "--task",
            "base",
            "--target",
            "tensorrt_rtx",
            "--gpu",
            "sm89,sm89",
            "--max-tokens",
            64,
            "--parity-tokens",
            1,
            "--out",
            tmp_path,
        )
        == 0
    )
    manifest = read_manifest(tmp_path / "small" / "base-fp16-t64")
    assert [a.gpu for a in manifest.artifacts if a.kind == "tensorrt_rtx"] == ["sm89"]


def test_unknown_executor_is_refused_not_replaced(fp32_bundle: Path) -> None:
    with pytest.raises(InputError, match="runtime: got 'cuda', expected"):
        Embedder.load(fp32_bundle, runtime="cuda")
