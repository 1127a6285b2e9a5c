"""The weight file: one layout for all tasks, streamed blocks, overflow and flush named."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import JinaEmbeddingsV3Config
from transformers.models.jina_embeddings_v3.modeling_jina_embeddings_v3 import (
    JinaEmbeddingsV3RotaryEmbedding,
)

import export.graph.weights
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.graph.trace import trace
from export.graph.weights import layout, rope_table
from runtimes.bundle_files import WEIGHT_FILE
from runtimes.errors import InputError
from tests.support import blocks, edit_tensors, merged_tensor, write_slots

PAGE = 4096
TENSORS = {
    "b": ("float32", (3, 5)),
    "a": ("float16", (4096,)),
    "c.weight": ("bfloat16", (1,)),
    "B": ("float32", (2, 1024)),
}
WORD = "embeddings.word_embeddings.weight"
FC2 = "encoder.layers.1.mlp.fc2"
FC2_KEY = f"roberta.{FC2}.parametrizations.weight.original"


def test_layout_is_page_aligned_without_overlap() -> None:
    slots = layout(TENSORS)
    assert {slot.name: (slot.dtype, slot.shape) for slot in slots} == TENSORS
    assert all(slot.offset % PAGE == 0 for slot in slots)
    for slot, following in pairwise(slots):
        assert slot.offset + slot.nbytes <= following.offset < slot.offset + slot.nbytes + PAGE
    assert {s.name: s.nbytes for s in slots} == {"b": 60, "a": 8192, "c.weight": 2, "B": 8192}


def test_layout_does_not_depend_on_the_order_of_the_tensors() -> None:
    assert layout(dict(reversed(TENSORS.items()))) == layout(TENSORS)


@pytest.mark.parametrize("block_rows", [1, 999, 5000, 16000])
def test_streamed_blocks_are_the_whole_table(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    adapter = small.adapter("classification")
    whole = small.read(WORD) + adapter.modules["embeddings.word_embeddings"].delta()
    monkeypatch.setattr(export.graph.weights, "BLOCK_ROWS", block_rows)
    streamed = blocks(small, adapter, WORD)
    assert len(streamed) == -(-16000 // block_rows)
    assert max(len(block) for block in streamed) == block_rows
    np.testing.assert_allclose(np.concatenate(streamed), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "numpy_type"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)],
)
def test_file_holds_every_merged_tensor_cast_once(
    small: Checkpoint, tmp_path: Path, dtype: str, numpy_type: Any
) -> None:
    adapter = small.adapter("separation")
    names = {WORD: (16000, 64), f"{FC2}.weight": (128, 64), "emb_ln.bias": (64,)}
    slots = layout({name: (dtype, shape) for name, shape in names.items()})
    report = write_slots(tmp_path, slots, small, adapter)
    assert dict(report.flushed) == {}
    raw = (tmp_path / WEIGHT_FILE).read_bytes()
    assert len(raw) % PAGE == 0
    for slot in slots:
        data = np.frombuffer(raw, numpy_type, int(np.prod(slot.shape)), slot.offset)
        expected = merged_tensor(small, adapter, slot.name).astype(numpy_type)
        assert data.reshape(slot.shape).tobytes() == expected.tobytes(), slot.name


def spoiled(folder: Path, value: float, count: int = 1) -> Checkpoint:
    """The small checkpoint with ``count`` weights of one matrix set to ``value``, all FP32."""

    def edit(tensors: dict[str, Any]) -> None:
        weight = tensors[FC2_KEY].astype(np.float32)
        weight.reshape(-1)[:count] = value
        tensors[FC2_KEY] = weight

    edit_tensors(folder / "model.safetensors", edit)
    return open_checkpoint(folder)


@pytest.mark.parametrize("value", [1e6, -1e6, 65520.0])
def test_weight_beyond_fp16_is_refused_by_name(damaged: Path, tmp_path: Path, value: float) -> None:
    checkpoint = spoiled(damaged, value)
    slots = trace(checkpoint.config, "float16", 32, 8192).slots
    words = rf"65504.*{FC2}\.weight \(1 values\).*PRECISION=bf16 or fp32"
    with pytest.raises(InputError, match=words):
        write_slots(tmp_path, slots, checkpoint, checkpoint.adapter("base"), 8192)


@pytest.mark.parametrize(("value", "dtype"), [(65504.0, "float16"), (1e6, "bfloat16")])
def test_largest_weight_a_type_holds_is_taken(
    damaged: Path, tmp_path: Path, value: float, dtype: str
) -> None:
    checkpoint = spoiled(damaged, value)
    slots = layout({f"{FC2}.weight": (dtype, (128, 64))})
    report = write_slots(tmp_path, slots, checkpoint, checkpoint.adapter("base"))
    assert dict(report.flushed) == {}


@pytest.mark.parametrize(("count", "share"), [(8192, 1.0), (1024, 0.125), (40, None)])
def test_bulk_flush_to_zero_is_reported_by_name(
    damaged: Path, tmp_path: Path, count: int, share: float | None
) -> None:
    checkpoint = spoiled(damaged, 1e-9, count)
    slots = layout({f"{FC2}.weight": ("float16", (128, 64)), "emb_ln.bias": ("float16", (64,))})
    report = write_slots(tmp_path, slots, checkpoint, checkpoint.adapter("base"))
    expected = {} if share is None else {f"{FC2}.weight": pytest.approx(share)}
    assert dict(report.flushed) == expected


@pytest.mark.parametrize("head", [(256, 8), (64, 4), (1024, 16)])
def test_rope_table_is_transformers_bit_for_bit(
    original: Checkpoint, head: tuple[int, int]
) -> None:
    hidden, heads = head
    config = JinaEmbeddingsV3Config(
        hidden_size=hidden,
        num_attention_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    )
    positions = torch.arange(8192)[None]
    cos, sin = JinaEmbeddingsV3RotaryEmbedding(config)(torch.zeros(1), positions)
    ours = replace(original.config, hidden=hidden, heads=heads)
    half = hidden // heads // 2
    for which, theirs in (("cos", cos), ("sin", sin)):
        table = rope_table(ours, which, 8192)
        assert table.dtype == np.float32
        np.testing.assert_array_equal(table, theirs[0, :, :half].numpy())


def test_rope_table_follows_the_base(original: Checkpoint) -> None:
    other = replace(original.config, rope_theta=10000.0)
    ours = rope_table(original.config, "cos", 64)
    assert not np.array_equal(ours, rope_table(other, "cos", 64))
    # by hand: position 3, frequency 1 of a head of 32, base 10000
    assert rope_table(other, "sin", 64)[3, 1] == pytest.approx(np.sin(3 * 10000 ** (-2 / 32)))


def test_every_task_fills_the_same_layout(small: Checkpoint, tmp_path: Path) -> None:
    slots = trace(small.config, "float32", 32, 8192).slots
    contents = {}
    for task in ("classification", "separation", "base"):
        write_slots(tmp_path, slots, small, small.adapter(task), 8192)
        contents[task] = (tmp_path / WEIGHT_FILE).read_bytes()
    assert len({len(raw) for raw in contents.values()}) == 1
    assert len(set(contents.values())) == 3
