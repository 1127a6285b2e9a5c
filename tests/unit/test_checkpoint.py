"""Opening a checkpoint: bad ones are refused with file, tensor and expectation, nothing written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.checkpoint.families import JINA_TASKS
from export.checkpoint.names import tensor_shapes
from export.checkpoint.reader import Checkpoint, open_checkpoint
from runtimes.errors import InputError
from tests.support import SAMPLE_HF, build, edit_json, edit_tensors, listing
from tests.zoo import write_native

NORM = "roberta.encoder.layers.1.norm2.weight"
WQKV_A = "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_A"
FC1 = "roberta.encoder.layers.0.mlp.fc1.parametrizations.weight.original"
Damage = Callable[[Path], object]


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Damage:
    return lambda folder: edit_tensors(folder / "model.safetensors", edit)


def poison(name: str, value: float) -> Damage:
    def edit(state: dict[str, Any]) -> None:
        state[name].reshape(-1)[3] = value

    return tensors(edit)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def escape(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    index = {"weight_map": {"w": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


HEADERS: dict[str, tuple[Damage, str]] = {
    "missing tensor": (
        tensors(lambda t: t.pop(NORM)),
        rf"tensor {NORM} is missing \(1 in all\), expected shape \[64\]",
    ),
    "missing adapter": (
        tensors(lambda t: t.pop(WQKV_A)),
        rf"tensor {WQKV_A} is missing .*\[5, 4, 64\]",
    ),
    "extra tensor": (
        tensors(lambda t: t.update(stray=np.ones(3, np.float32))),
        r"model\.safetensors: unexpected tensor stray \(1 in all\)",
    ),
    "misshapen tensor": (
        tensors(lambda t: t.update({NORM: t[NORM][:63]})),
        rf"{NORM} has shape \[63\], expected \[64\]",
    ),
    "transposed adapter": (
        tensors(lambda t: t.update({WQKV_A: t[WQKV_A].swapaxes(1, 2)})),
        rf"{WQKV_A} has shape \[5, 64, 4\], expected \[5, 4, 64\]",
    ),
    "F64 tensor": (
        tensors(lambda t: t.update({NORM: t[NORM].astype(np.float64)})),
        rf"{NORM} is F64, expected one of",
    ),
    "fewer layers in config": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=1),
        r"unexpected tensor roberta\.encoder\.layers\.1\.",
    ),
    "other rank in config": (
        lambda f: edit_json(f / "config.json", lora_rank=8),
        r"has shape .*, expected .*8",
    ),
    "wrong model_type": (
        lambda f: edit_json(f / "config.json", model_type="bert"),
        r"model_type is 'bert', expected 'xlm-roberta'",
    ),
    "no RoPE base": (
        lambda f: edit_json(f / "config.json", drop=("rotary_emb_base",)),
        r"rotary_emb_base is None, expected a positive number",
    ),
    "truncated file": (cut, r"model\.safetensors: not a complete safetensors file"),
    "pickle only": (only_pickle, r"pytorch_model\.bin: pickle files are never read"),
    "shard outside": (escape, r"'\.\./x\.safetensors' is not the plain name"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_bad_checkpoint_is_refused_when_opened(damaged: Path, case: str) -> None:
    damage, words = HEADERS[case]
    damage(damaged)
    with pytest.raises(InputError, match=words) as caught:
        open_checkpoint(damaged)
    assert str(damaged) in str(caught.value)


VALUES: dict[str, tuple[Damage, str]] = {
    "NaN in a base tensor": (poison(FC1, np.nan), f"{FC1} holds NaN or infinity"),
    "infinity in a norm": (poison(NORM, np.inf), f"{NORM} holds NaN or infinity"),
    "NaN in an adapter": (poison(WQKV_A, np.nan), f"{WQKV_A} holds NaN or infinity"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
    "tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        r"tokenizer\.json: not a tokenizer file",
    ),
}


@pytest.mark.parametrize("case", [*HEADERS, *VALUES])
def test_refused_checkpoint_exits_2_and_leaves_nothing_behind(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    damage, words = (HEADERS | VALUES)[case]
    damage(damaged)
    out = tmp_path / "out"
    task = JINA_TASKS[0]  # entry 0 of the banks, where the poison is
    assert build(out, "--model", damaged, "--task", task) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(words, error)
    assert list(out.rglob("*")) == []


@pytest.mark.parametrize("task", ["sentiment", "Classification", "retrieval"])
def test_unknown_task_lists_the_known_ones_and_writes_nothing(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    assert build(tmp_path / "out", "--model", small_folder, "--task", task) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"no adapter '{task}'" in error
    assert all(known in error for known in (*JINA_TASKS, "base", "ADAPTER_PATH"))
    assert not (tmp_path / "out").exists()


def test_model_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        open_checkpoint(tmp_path / "absent")


def test_sharded_checkpoint_reads_equal(small: Checkpoint, damaged: Path) -> None:
    state = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(3):
        shard = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: state[name] for name in names[number::3]}
        save_file(part, damaged / shard)
        weight_map |= dict.fromkeys(part, shard)
    (damaged / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = open_checkpoint(damaged)
    for name in tensor_shapes(small.config):
        np.testing.assert_array_equal(sharded.read(name), small.read(name))
    ours, theirs = sharded.adapter("separation"), small.adapter("separation")
    assert ours.modules.keys() == theirs.modules.keys()
    for name, pair in ours.modules.items():
        np.testing.assert_array_equal(pair.delta(), theirs.modules[name].delta())


def test_base_has_no_adapter(small: Checkpoint) -> None:
    assert small.adapter("base").modules == {}


def test_tasks_are_in_task_id_order_and_follow_the_config(damaged: Path) -> None:
    assert open_checkpoint(damaged).tasks == JINA_TASKS
    before = open_checkpoint(damaged).adapter(JINA_TASKS[0])
    edit_json(damaged / "config.json", lora_adaptations=list(reversed(JINA_TASKS)))
    after = open_checkpoint(damaged)
    assert after.tasks == tuple(reversed(JINA_TASKS))
    for name, pair in after.adapter(JINA_TASKS[-1]).modules.items():
        np.testing.assert_array_equal(pair.down, before.modules[name].down)


def test_own_adapter_joins_the_tasks_last(small_folder: Path, tmp_path: Path) -> None:
    own = open_checkpoint(small_folder, adapter_path=tmp_path, adapter_task="legal")
    assert own.tasks == (*JINA_TASKS, "legal")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("emb_ln.bias"), r"tensor emb_ln\.bias is missing"),
        (lambda t: t.update(x=t["emb_ln.bias"]), "unexpected tensor x"),
        (lambda t: t.update({"emb_ln.bias": t["emb_ln.bias"][:5]}), r"\[5\], expected \[64\]"),
    ],
)
def test_native_base_is_checked_the_same(
    small_folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], words: str
) -> None:
    folder = write_native(small_folder, tmp_path / "native")
    assert open_checkpoint(folder).format == "native"
    edit_tensors(folder / "model.safetensors", edit)
    with pytest.raises(InputError, match=words):
        open_checkpoint(folder)


def test_native_checkpoint_without_its_adapter_folder_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLE_HF, tmp_path / "hf"))
    shutil.rmtree(folder / "text_matching")
    assert open_checkpoint(folder).adapter("separation").modules
    with pytest.raises(InputError, match=r"text_matching/adapter_config\.json: no such file"):
        open_checkpoint(folder).adapter("text-matching")


def test_nothing_is_written_into_the_checkpoint(damaged: Path, tmp_path: Path) -> None:
    before = listing(damaged)
    assert build(tmp_path / "out", "--model", damaged, "--task", "separation") == 0
    assert listing(damaged) == before
