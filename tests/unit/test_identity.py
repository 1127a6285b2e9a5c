"""What tells models apart: each file that shapes a vector, and no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

import export.checkpoint.identity
from export.build.inputs import open_build
from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import open_checkpoint
from export.spec import BuildSpec
from runtimes.choices import Precision, Target
from runtimes.files import sha256
from tests.support import SAMPLE_HF

TASK_FOLDERS = (
    "classification",
    "retrieval_passage",
    "retrieval_query",
    "separation",
    "text_matching",
)


def identity(folder: Path, own: Path | None = None) -> str:
    return model_sha256(open_checkpoint(folder, adapter_path=own, adapter_task="mine"))


@pytest.fixture
def native(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE_HF, tmp_path / "native"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An adapter of the user's own."""
    return Path(shutil.copytree(SAMPLE_HF / "separation", tmp_path / "own"))


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(before) == len(after)
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def last_mantissa_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1  # BF16, the less significant byte first
    path.write_bytes(bytes(raw))


def rope(folder: Path) -> None:
    change(folder / "config.json", "20000.0", "20001.0")


def score(folder: Path) -> None:
    change(folder / "tokenizer.json", '"single_word": false', '"single_word":  true')


def weights(folder: Path) -> None:
    last_mantissa_bit(folder / "model.safetensors")


def adapter_weights(task: str) -> Callable[[Path], None]:
    return lambda folder: last_mantissa_bit(folder / task / "adapter_model.safetensors")


def adapter_scaling(task: str) -> Callable[[Path], None]:
    return lambda folder: change(
        folder / task / "adapter_config.json", '"lora_alpha": 1', '"lora_alpha": 2'
    )


CHANGES = {"config.json": rope, "tokenizer.json": score, "model.safetensors": weights} | {
    f"{task}/{file}": make(task)
    for task in TASK_FOLDERS
    for file, make in (("weights", adapter_weights), ("scaling", adapter_scaling))
}


@pytest.mark.parametrize("changed", CHANGES)
def test_every_file_that_shapes_a_vector_is_part_of_the_model(native: Path, changed: str) -> None:
    """A byte each, and the files stay valid."""
    before = identity(native)
    CHANGES[changed](native)
    opened = open_checkpoint(native)
    assert all(opened.adapter(task).modules for task in opened.tasks)
    assert model_sha256(opened) != before


@pytest.mark.parametrize("changed", [adapter_weights(""), adapter_scaling("")])
def test_own_adapters_weights_and_scaling_are_part_of_the_model(
    own: Path, changed: Callable[[Path], None]
) -> None:
    before = identity(SAMPLE_HF, own)
    assert before != identity(SAMPLE_HF)
    changed(own)
    assert identity(SAMPLE_HF, own) != before


def test_adapters_that_change_places_make_another_model(native: Path) -> None:
    before = identity(native)
    first, second = native / "separation", native / "classification"
    first.rename(native / "x")
    second.rename(first)
    (native / "x").rename(second)
    assert identity(native) != before


def test_own_adapter_is_not_taken_for_one_of_the_models(own: Path, native: Path) -> None:
    """The same bytes in another place."""
    shutil.rmtree(native / "separation")
    without = identity(native)
    assert len({without, identity(native, own), identity(SAMPLE_HF)}) == 3


def split(folder: Path, names: tuple[str, str]) -> None:
    """The weights in two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    owners = {key: names[index % 2] for index, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: v for k, v in tensors.items() if owners[k] == name}, folder / name)
    index = json.dumps({"weight_map": owners})
    (folder / "model.safetensors.index.json").write_text(index)


def test_each_shard_and_its_name_are_part_of_the_model(native: Path, tmp_path: Path) -> None:
    names = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    other = Path(shutil.copytree(native, tmp_path / "other"))
    split(native, names)
    split(other, ("model-1-of-3.safetensors", "model-2-of-3.safetensors"))
    found = [identity(native), identity(other)]
    for name in names:
        last_mantissa_bit(native / name)
        found.append(identity(native))
    change(native / "model.safetensors.index.json", '"weight_map": {', '"weight_map":{ ')
    found.append(identity(native))
    assert len(set(found)) == len(found)


def test_what_no_reader_reads_does_not_matter(native: Path, own: Path, tmp_path: Path) -> None:
    before = identity(native, own)
    for folder in (native, own, native / "separation"):
        (folder / "README.md").write_text("x")
        (folder / ".gitattributes").write_text("x")
        (folder / "adapter_model.old.safetensors").write_text("x")
    (native / "onnx").mkdir()
    (native / "tokenizer_config.json").write_text("{}")
    (native / "model.safetensors.index.json").write_text("{}")  # a single file is preferred
    assert identity(native, own) == before
    moved = native.rename(tmp_path / "moved")
    assert identity(moved, own.rename(tmp_path / "moved-own")) == before


def test_adapter_that_cannot_be_opened_fails_only_when_it_is_asked_for(native: Path) -> None:
    before = identity(native)
    (native / "separation" / "adapter_model.safetensors").write_bytes(b"broken")
    assert identity(native) != before


def test_a_build_hashes_every_file_once(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def count(path: Path) -> str:
        seen.append(path)
        return sha256(path)

    monkeypatch.setattr(export.checkpoint.identity, "sha256", count)
    spec = BuildSpec(
        model=str(native),
        task="separation",
        precision=Precision.FP32,
        target=Target.ONNXRUNTIME,
        out=tmp_path,
    )
    assert open_build(spec).sha256 == identity(native)
    names = {path.relative_to(native).as_posix() for path in seen}
    assert len(seen) == 2 * len(names)  # the build's, and ours
    assert names == {"config.json", "tokenizer.json", "model.safetensors"} | {
        f"{task}/adapter_{file}"
        for task in TASK_FOLDERS
        for file in ("config.json", "model.safetensors")
    }
