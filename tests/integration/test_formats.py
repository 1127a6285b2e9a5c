"""Both formats of the sample, every task: one set of vectors, and those of transformers + PEFT."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.families import JINA_TASKS
from export.checkpoint.reader import Checkpoint
from runtimes.choices import BASE_TASK, GraphKind
from tests.peft_zoo import load_base, mean_vectors, quiet
from tests.support import (
    SAMPLE_HF,
    Array,
    cosines,
    first_output,
    graph_path,
    sample_tokenizer,
    write_graphs,
)

TASKS = (*JINA_TASKS, BASE_TASK)
TEXTS = [
    "Der Zug nach Basel fährt heute von Gleis sieben.",
    "How do I reset the thermostat?",
    "東京の桜は三月の終わりに咲きます。",
    "El informe se entregó tarde, pero nadie lo leyó. " * 12,
    "x",
]
Vectors = Callable[[str], Array]


@pytest.fixture(scope="module")
def rows() -> list[Array]:
    return list(sample_tokenizer().encode(TEXTS))


@pytest.fixture(scope="module")
def natively(rows: list[Array]) -> Vectors:
    """transformers and PEFT alone, from the native files, as their documentation says."""

    @cache
    def vectors(task: str) -> Array:
        model = load_base(SAMPLE_HF)
        if task != BASE_TASK:
            folder = SAMPLE_HF / task.replace(".", "_").replace("-", "_")
            with quiet():
                model.load_adapter(str(folder), adapter_name="task")
                model.set_adapter("task")
        return mean_vectors(model, rows)

    return vectors


def run(path: Path, rows: list[Array]) -> Array:
    tokens = sample_tokenizer().pad(rows)
    return first_output(str(path), tokens.inputs())


@pytest.mark.parametrize("task", TASKS)
def test_fp32_graphs_of_both_formats_are_one_and_the_reference(
    original: Checkpoint,
    native: Checkpoint,
    rows: list[Array],
    natively: Vectors,
    tmp_path: Path,
    task: str,
) -> None:
    first = write_graphs(tmp_path / "original", original, task, "float32")
    second = write_graphs(tmp_path / "native", native, task, "float32")
    ours = run(graph_path(first, GraphKind.ONNXRUNTIME), rows)
    np.testing.assert_array_equal(ours, run(graph_path(second, GraphKind.ONNXRUNTIME), rows))
    files = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in (first, second)]
    assert files[0] == files[1]
    assert cosines(ours, natively(task)).min() >= 0.999999
    np.testing.assert_allclose(ours, natively(task), atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_fp16_graph_is_the_reference(
    original: Checkpoint, rows: list[Array], natively: Vectors, tmp_path: Path, task: str
) -> None:
    folder = write_graphs(tmp_path, original, task, "float16")
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME):
        ours = run(graph_path(folder, kind), rows)
        assert ours.dtype == np.float32
        assert cosines(ours, natively(task)).min() >= 0.9999


def test_tasks_differ_enough_to_be_told_apart(natively: Vectors) -> None:
    """Guards the tests above: a lost or wrong adapter would show at their thresholds."""
    for index, task in enumerate(TASKS):
        for other in TASKS[index + 1 :]:
            assert cosines(natively(task), natively(other)).min() < 0.9999, (task, other)
