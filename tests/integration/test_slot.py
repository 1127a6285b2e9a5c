"""Adapters that come as files, without a rebuild."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import AdapterFormat
from peft import LoraConfig

from adaptrt import Embedder, InputError
from export.bundle.slot_adapter import remedy
from runtimes.manifest import read_manifest
from tests.peft_zoo import load_base, mean_vectors, quiet, train
from tests.support import SAMPLE_HF, build, cosines, edit_json, run_cli
from tests.zoo import write_native

TEXTS = ["The last train leaves at ten.", "東京は雨です。"]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slot")
    choices = ("--adapter", "slot", "--rank", 6, "--task", "base", "--max-tokens", 512)
    assert build(out, *choices, precision=request.param, tokens=2048) == 0
    return out / "sample" / f"base-slot-{request.param}-r6-t512"


@pytest.fixture(scope="module")
def adapter(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "separation.onnx_adapter"
    peft = SAMPLE_HF / "separation"
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 0
    return out


def test_filled_slot_equals_the_merged_adapter(bundle: Path, adapter: Path, tmp_path: Path) -> None:
    precision = read_manifest(bundle).precision
    choices = ("--task", "separation", "--max-tokens", 512)
    assert build(tmp_path, *choices, precision=precision, tokens=2048) == 0
    with Embedder.load(tmp_path / "sample" / f"separation-{precision}-onnxruntime-t512") as merged:
        expected = merged.encode(TEXTS)
    with Embedder.load(bundle, adapter=adapter) as filled, Embedder.load(bundle) as empty:
        got, base = filled.encode(TEXTS), empty.encode(TEXTS)
    assert (got * expected).sum(axis=1).min() >= (0.999999 if precision == "fp32" else 0.99999)
    assert (base * expected).sum(axis=1).max() < 0.99


def test_wider_adapter_is_refused_with_the_rank_to_build(bundle: Path, tmp_path: Path) -> None:
    peft = tmp_path / "wide"
    shutil.copytree(SAMPLE_HF / "separation", peft)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(peft / "adapter_model.safetensors")
    for name, value in tensors.items():
        down = name.endswith(("lora_A.weight", "lora_embedding_A"))
        tensors[name] = np.concatenate([value, value], axis=0 if down else 1)
    save_file(tensors, peft / "adapter_model.safetensors")
    config = json.loads((peft / "adapter_config.json").read_text())
    (peft / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    out = tmp_path / "wide.onnx_adapter"
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 2
    assert not out.exists()


def test_refusal_prints_the_command_that_builds_a_fitting_slot(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """r = 8 on q and v alone, with different A, takes 16 columns."""
    native = write_native(small_folder, tmp_path / "small-hf")
    peft = tmp_path / "own"
    train(native, peft, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    common = ("--model", native, "--out", tmp_path, "--parity-tokens", 64)
    folder, out = tmp_path / "small-hf", tmp_path / "own.onnx_adapter"
    bundle = folder / "base-slot-fp32-r15-b4-t512"
    assert (
        build(
            tmp_path,
            "--model",
            native,
            "--adapter",
            "slot",
            "--rank",
            15,
            "--task",
            "base",
            "--max-tokens",
            512,
            "--max-batch",
            4,
        )
        == 0
    )
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "needs rank 16, the bundle's slot has 15" in error
    assert error.endswith("with the MODEL it was made from ('small-hf')")
    command = error.split("`")[1]
    assert command == (
        "make engine ADAPTER=slot RANK=16 TASK=base PRECISION=fp32 TARGET=onnxruntime "
        "MAX_BATCH=4 MAX_TOKENS=512"
    )
    settings = [word.split("=") for word in command.split()[2:]]
    options = [part for key, value in settings for part in ("--" + as_option(key), value)]
    assert run_cli("engine", *common, *options) == 0
    bundle = folder / "base-slot-fp32-b4-t512"
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 0
    model = load_base(native)
    with quiet():
        model.load_adapter(str(peft), adapter_name="own")
        model.set_adapter("own")
    with Embedder.load(bundle, adapter=out) as filled:
        expected = mean_vectors(model, filled.tokenizer.encode(TEXTS))
        got = filled.encode(TEXTS, prefix=False)
    assert cosines(got, expected).min() >= 0.999999


def as_option(variable: str) -> str:
    return variable.lower().replace("_", "-")


@pytest.mark.parametrize("name", ["absent/x.onnx_adapter", "folder.onnx_adapter"])
def test_adapter_that_cannot_be_written_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "folder.onnx_adapter").mkdir()
    peft, out = SAMPLE_HF / "separation", tmp_path / name
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / Path(name).parts[0]) in error
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx_adapter"]


def test_adapter_beyond_any_slot_is_sent_elsewhere(bundle: Path) -> None:
    assert "ADAPTER_PATH" in remedy(read_manifest(bundle), 1025)


def test_adapter_that_fp16_cannot_hold_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Its infinities went into the file."""
    peft = Path(shutil.copytree(SAMPLE_HF / "separation", tmp_path / "strong"))
    edit_json(peft / "adapter_config.json", lora_alpha=1e9)
    out = tmp_path / "strong.onnx_adapter"
    fits = "fp32" in bundle.name
    arguments = ("adapter", "--peft", peft, "--bundle", bundle, "--out", out)
    assert run_cli(*arguments) == (0 if fits else 2)
    assert out.exists() == fits


def test_adapter_file_does_not_take_a_folders_place(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx_adapter"
    out.mkdir()
    peft = SAMPLE_HF / "separation"
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", out) == 2
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


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
