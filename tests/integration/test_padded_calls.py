"""Padding as the TensorRT executors pad, through the graphs that engines are built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.choices import GraphKind
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.tensorrt.padding import cut_outputs, grid_sizes, pad_inputs
from runtimes.heads import graph_inputs, head_of
from runtimes.manifest import read_manifest
from runtimes.profiles import Profile
from runtimes.tensors import check_shapes
from tests.support import cosines

SHAPES = ((1, 3), (3, 9), (5, 20), (7, 33), (2, 61))
WIDE = Profile(name="wide", min=(1, 1), opt=(4, 64), max=(32, 128))


def inputs_of(names: set[str], rows: int, tokens: int, chunks: int) -> dict[str, Any]:
    """Rows of different lengths, among them one token; chunks of different sizes."""
    rng = np.random.default_rng(rows * tokens)
    lengths = rng.integers(1, tokens + 1, rows)
    lengths[0], lengths[-1] = tokens, 1
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    weights = rng.random((rows, chunks, tokens)) * mask[:, None]
    every = {
        "input_ids": np.where(mask, rng.integers(4, 1000, (rows, tokens)), 1),
        "attention_mask": mask,
        "task_id": rng.integers(-1, 5, rows),
        "chunk_weights": (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32),
    }
    return {name: array for name, array in every.items() if name in names}


def run_padded(bundle: Path, shape: tuple[int, int], *, broken: bool = False) -> tuple[Any, Any]:
    """The vectors of a call as it is, and of the same call padded and cut."""
    manifest = read_manifest(bundle)
    described = graph_inputs(manifest.adapter, manifest.interface, manifest.head)
    output = head_of(manifest.interface, manifest.head).output
    inputs = inputs_of({tensor.name for tensor in described}, *shape, chunks=5)
    sizes = check_shapes(described, inputs)
    limits = {axis: axis.greatest((32, 128)) for axis in sizes}
    grid = grid_sizes(sizes, limits, WIDE, compiles=True)
    assert grid != sizes
    padded = dict(pad_inputs(described, inputs, grid))
    if broken:
        padded["attention_mask"] = np.ones_like(padded["attention_mask"])
    with OrtRuntime(bundle / manifest.artifact(GraphKind.PORTABLE).path) as runtime:
        alone = runtime.run(inputs)[output.name]
        found = cut_outputs([output], runtime.run(padded), sizes)[output.name]
    assert alone.shape == found.shape
    width = alone.shape[-1]
    return alone.reshape(-1, width), found.reshape(-1, width)


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_changes_no_vector_of_a_switchable_graph_with_chunks(
    chunk_bundle: Path, shape: tuple[int, int]
) -> None:
    assert cosines(*run_padded(chunk_bundle, shape)).min() >= 1 - 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_changes_a_half_precision_vector_by_rounding(
    fp16_bundle: Path, shape: tuple[int, int]
) -> None:
    assert cosines(*run_padded(fp16_bundle, shape)).min() >= 1 - 1e-5


def test_padding_without_a_mask_is_seen(fp16_bundle: Path) -> None:
    """The negative control."""
    assert cosines(*run_padded(fp16_bundle, (3, 9), broken=True)).min() < 0.999
