"""Adapters that come as files, without a rebuild."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import AdapterFormat

from export.cli import main
from runtimes import Embedder, InputError

NATIVE = Path(__file__).parents[1] / "data" / "sample-hf"
TEXTS = ["The last train leaves at ten.", "東京は雨です。"]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slot")
    code = main([
        "engine", "--out", str(out), "--target", "onnxruntime", "--precision", request.param,
        "--adapter", "slot", "--rank", "6", "--task", "base", "--max-tokens", "512",
    ])  # fmt: skip
    assert code == 0
    return out / "sample" / f"base-slot-{request.param}"


@pytest.fixture(scope="module")
def adapter(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "separation.onnx_adapter"
    peft = NATIVE / "separation"
    assert main(["adapter", "--peft", str(peft), "--bundle", str(bundle), "--out", str(out)]) == 0
    return out


def test_filled_slot_equals_the_merged_adapter(bundle: Path, adapter: Path, tmp_path: Path) -> None:
    precision = bundle.name.rpartition("-")[2]
    code = main([
        "engine", "--out", str(tmp_path), "--target", "onnxruntime", "--precision", precision,
        "--task", "separation", "--max-tokens", "512",
    ])  # fmt: skip
    assert code == 0
    with Embedder.load(tmp_path / "sample" / f"separation-{precision}") as merged:
        expected = merged.encode(TEXTS)
    with Embedder.load(bundle, adapter=adapter) as filled, Embedder.load(bundle) as empty:
        got, base = filled.encode(TEXTS), empty.encode(TEXTS)
    assert (got * expected).sum(axis=1).min() >= (0.999999 if precision == "fp32" else 0.99999)
    assert (base * expected).sum(axis=1).max() < 0.99


def test_wider_adapter_is_refused_with_the_rank_to_build(bundle: Path, tmp_path: Path) -> None:
    peft = tmp_path / "wide"
    shutil.copytree(NATIVE / "separation", peft)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(peft / "adapter_model.safetensors")
    for name, value in tensors.items():
        down = name.endswith(("lora_A.weight", "lora_embedding_A"))
        tensors[name] = np.concatenate([value, value], axis=0 if down else 1)
    save_file(tensors, peft / "adapter_model.safetensors")
    config = json.loads((peft / "adapter_config.json").read_text())
    (peft / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    out = tmp_path / "wide.onnx_adapter"
    assert main(["adapter", "--peft", str(peft), "--bundle", str(bundle), "--out", str(out)]) == 2
    assert not out.exists()


def rewritten(adapter: Path, out: Path, *, drop: str | None = None, version: int = 0) -> Path:
    read = AdapterFormat.read_adapter(str(adapter))
    parameters = {n: v for n, v in read.get_parameters().items() if n != drop}
    made = AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(version or read.get_model_version())
    made.set_parameters(parameters)
    made.export_adapter(str(out))
    return out


def test_adapter_of_another_model_is_refused(bundle: Path, adapter: Path, tmp_path: Path) -> None:
    other = rewritten(adapter, tmp_path / "x.onnx_adapter", version=7)
    with pytest.raises(InputError, match="made for another model"):
        Embedder.load(bundle, adapter=other)


def test_adapter_that_lacks_a_tensor_is_refused(
    bundle: Path, adapter: Path, tmp_path: Path
) -> None:
    name = "encoder.layers.2.mlp.fc1.lora_up"
    partial = rewritten(adapter, tmp_path / "x.onnx_adapter", drop=name)
    with pytest.raises(InputError, match=f"{name} is missing"):
        Embedder.load(bundle, adapter=partial)


def test_garbage_is_not_an_adapter_file(bundle: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "x.onnx_adapter"
    garbage.write_bytes(b"not an adapter")
    with pytest.raises(InputError, match="not an ONNX Runtime adapter file"):
        Embedder.load(bundle, adapter=garbage)


def test_folder_that_cannot_be_written_exits_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "absent" / "mine.onnx_adapter"
    peft = NATIVE / "separation"
    assert main(["adapter", "--peft", str(peft), "--bundle", str(bundle), "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"error: --out: cannot write into '{out.parent}'; check that the folder is there, "
        "may be written and has space\n"
    )
