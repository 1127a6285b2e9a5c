"""One graph, every task: a mixed batch against merged graphs, and controls that must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export.graph.encoder
import export.graph.weights
from adaptrt import Embedder, InputError
from export.checkpoint.lora import Adapter, Bank, LoraPair
from export.checkpoint.reader import open_checkpoint
from export.gate.compare import compare, embed, parity_failure
from export.gate.reference import reference_model
from export.gate.texts import ParityText
from export.graph.trace import trace
from runtimes.choices import HeadName
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.torch_reference import FlashReference
from runtimes.text.tokens import TextTokenizer
from tests.support import run_cli
from tests.zoo import write_original

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
FP32 = "fp32-onnxruntime-t1024"
TEXTS = [
    "The last train leaves at ten.",
    "Wo ist der Bahnhof?",
    "東京は雨です。",
    "La lluvia",
    "ok",
    "Une phrase un peu plus longue que les autres, pour changer.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("zoo") / "model")


def build(checkpoint: Path, out: Path, *more: str, adapter: str = "switchable") -> int:
    where = ("--model", checkpoint, "--out", out, "--target", "onnxruntime")
    return run_cli("engine", *where, "--max-tokens", 1024, "--adapter", adapter, *more)


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 and FP16 switchable bundles and the five merged FP32 ones."""
    out = tmp_path_factory.mktemp("bundles")
    assert build(checkpoint, out, "--precision", "fp32") == 0
    assert build(checkpoint, out, "--precision", "fp16") == 0
    assert build(checkpoint, out, "--precision", "fp32", "--task", "all", adapter="merged") == 0
    assert build(checkpoint, out, "--precision", "fp32", "--task", "base", adapter="merged") == 0
    return out / "model"


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 3, 1, 4, 2, 0)])
def test_mixed_batch_equals_merged_graphs_row_by_row(bundles: Path, order: tuple[int]) -> None:
    tasks = (*TASKS, "base")
    chosen = [tasks[i] for i in order]
    with Embedder.load(bundles / f"switchable-{FP32}") as switchable:
        tokens = switchable.tokenizer.pad(
            switchable.tokenizer.encode(TEXTS, [switchable.manifest.prefixes[t] for t in chosen])
        )
        ids = np.array([-1 if t == "base" else TASKS.index(t) for t in chosen])
        mixed = switchable.runtime.run(tokens.inputs() | {"task_id": ids})["sentence_embedding"]
    for row, (text, task) in enumerate(zip(TEXTS, chosen, strict=True)):
        with Embedder.load(bundles / f"{task}-{FP32}") as merged:
            expected = merged.encode([text])[0]
        assert np.abs(mixed[row] - expected).max() <= 1e-5, task
        assert float(mixed[row].astype(np.float64) @ expected) >= 0.999999, task


def test_encode_takes_one_task_or_one_per_text(bundles: Path) -> None:
    with Embedder.load(bundles / f"switchable-{FP32}") as embedder:
        same = embedder.encode(TEXTS[:2], task="separation")
        listed = embedder.encode(TEXTS[:2], task=["separation", "base"])
        assert np.allclose(same[0], listed[0], atol=1e-6)
        assert np.abs(same[1] - listed[1]).max() > 1e-3
        with pytest.raises(InputError, match=r"expected one of retrieval\.query.*base"):
            embedder.encode(TEXTS)
        with pytest.raises(InputError, match="1 tasks for 2 texts"):
            embedder.encode(TEXTS[:2], task=["base"])


@pytest.mark.parametrize("number", [-2, 5])
def test_task_id_out_of_range_is_refused_with_the_list(bundles: Path, number: int) -> None:
    graph = bundles / f"switchable-{FP32}" / "model.onnxruntime.onnx"
    ids = np.array([[0, 5, 2]])
    with OrtRuntime(graph, tasks=TASKS) as runtime, pytest.raises(InputError, match="3 classific"):
        runtime.run(
            {"input_ids": ids, "attention_mask": np.ones_like(ids), "task_id": np.array([number])}
        )


def test_merged_bundle_names_the_bundle_that_has_the_task(bundles: Path) -> None:
    with Embedder.load(bundles / f"separation-{FP32}") as embedder:
        with pytest.raises(InputError, match=r"load .*classification-fp32-onnxruntime-t1024"):
            embedder.encode(TEXTS, task="classification")
        with pytest.raises(InputError, match="TASK=mine"):
            embedder.encode(TEXTS, task="mine")


def test_tasks_share_one_copy_of_unchanged_tensors(bundles: Path) -> None:
    shared = [bundles / f"{task}-{FP32}" / "onnx" / "model.onnx_data_1" for task in TASKS]
    assert len({path.stat().st_ino for path in shared}) == 1
    own = {(bundles / f"{task}-{FP32}" / "onnx" / "model.onnx_data").read_bytes() for task in TASKS}
    assert len(own) == len(TASKS)


def test_adapters_of_different_ranks_sit_in_one_bank() -> None:
    rng = np.random.default_rng(0)

    def adapter(rank: int) -> Adapter:
        down = rng.standard_normal((6, rank)).astype(np.float32)
        up = rng.standard_normal((rank, 3)).astype(np.float32)
        return Adapter("t", {"m": LoraPair(down, up, 0.5)})

    first, second = adapter(2), adapter(5)
    bank = Bank.of([first, second])
    assert bank.tasks().tolist() == [0, 0, 1, 1, 1, 1, 1, *[-2] * 9]  # nobody's, to sixteen
    x = rng.standard_normal((4, 6)).astype(np.float32)
    for task, chosen in enumerate((first, second)):
        select = (bank.tasks() == task).astype(np.float32)
        got = ((x @ bank.down("m", 6)) * select) @ bank.up("m", 3)
        assert np.allclose(got, x @ chosen.modules["m"].delta(), atol=1e-6)
    assert not (((x @ bank.down("m", 6)) * (bank.tasks() == -1)) @ bank.up("m", 3)).any()


def exchanged(adapters: list[Adapter]) -> list[Adapter]:
    first, second, *rest = adapters
    return [replace(second, task=first.task), replace(first, task=second.task), *rest]


def factors_exchanged(adapters: list[Adapter]) -> list[Adapter]:
    """A and B swapped, as a reader that takes embeddings for linear layers would."""

    def swap(pair: LoraPair) -> LoraPair:
        down, up = pair.down.shape, pair.up.shape
        return LoraPair(np.resize(pair.up.T, down), np.resize(pair.down.T, up), pair.scaling)

    return [Adapter(a.task, {n: swap(p) for n, p in a.modules.items()}) for a in adapters]


def dropped(adapters: list[Adapter]) -> list[Adapter]:
    last = adapters[-1]
    zero = {n: replace(p, up=np.zeros_like(p.up)) for n, p in last.modules.items()}
    return [*adapters[:-1], Adapter(last.task, zero)]


def unscaled(adapters: list[Adapter]) -> list[Adapter]:
    return [
        Adapter(a.task, {n: replace(p, scaling=1.0) for n, p in a.modules.items()})
        for a in adapters
    ]


@pytest.mark.parametrize("spoil", [exchanged, factors_exchanged, dropped, unscaled])
def test_gate_refuses_a_wrong_bank(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[list[Adapter]], list[Adapter]],
) -> None:
    make = Bank.of
    monkeypatch.setattr(Bank, "of", lambda adapters: make(spoil(adapters)))
    assert build(checkpoint, tmp_path, "--precision", "fp32") == 3
    assert "worst texts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_gate_refuses_rope_base_10000(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = export.graph.weights.rope_table
    monkeypatch.setattr(
        export.graph.weights,
        "rope_table",
        lambda config, which, n: table(replace(config, rope_theta=10000.0), which, n),
    )
    assert build(checkpoint, tmp_path, "--precision", "fp32") == 3
    assert list(tmp_path.iterdir()) == []


def test_gate_refuses_the_first_token_in_place_of_the_mean(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        export.graph.encoder.POOLINGS,
        HeadName.SENTENCE,
        lambda x, mask: x[:, 0] / x[:, 0].norm(dim=-1, keepdim=True),
    )
    trace.cache_clear()
    try:
        assert build(checkpoint, tmp_path, "--precision", "fp32") == 3
    finally:
        trace.cache_clear()
    assert list(tmp_path.iterdir()) == []


def test_gate_refuses_the_pooler_output_in_place_of_the_mean(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    tokenizer = TextTokenizer(checkpoint / "tokenizer.json", max_tokens=64, pad_id=1)
    texts = [ParityText(str(i), ids) for i, ids in enumerate(tokenizer.encode(TEXTS))]
    model = reference_model(opened, "separation")
    reference = embed(FlashReference(model), texts, tokenizer)
    with torch.inference_mode():
        pooled = [model(input_ids=torch.from_numpy(t.ids)[None]).pooler_output for t in texts]
    vectors = torch.nn.functional.normalize(torch.cat(pooled), dim=-1).numpy()
    names = ("r", "e")
    report = compare(reference, reference, texts, names=names, threshold=0.999999)
    assert parity_failure(report, "mean") is None
    report = compare(reference, vectors, texts, names=names, threshold=0.999)
    assert "parity failed" in str(parity_failure(report, "pooler"))
