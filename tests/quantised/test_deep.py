"""The second trained checkpoint: deeper, with outlier channels, another tokenizer, one length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export.gate.texts
from adaptrt import Embedder
from calibration.corpus import held_back
from calibration.evidence import Loss, Outcome
from calibration.quality import LEAST
from export.checkpoint.families import JINA_TASKS
from runtimes.manifest import read_manifest
from tests.index_support import write_index
from tests.peft_zoo import load_base, mean_vectors, quiet
from tests.support import DEEP, cosines, run_cli

TASK, TOKENS = "retrieval.passage", 256
TEXTS = [
    "Wo steht das Rad?",
    "雨が三日続いた。",
    "The ferry leaves at nine, and nobody minds. " * 6,
]
OPTIONS = ("--model", DEEP, "--max-tokens", TOKENS, "--parity-tokens", 64)


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.gate.texts, "held_back", lambda: held_back()[::4])
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8 for a CPU and for an RTX card, from one calibration, and nothing may fall back."""
    out = tmp_path_factory.mktemp("deep")
    for target in ("onnxruntime", "tensorrt_rtx"):
        options = ("--task", TASK, "--precision", "int8", "--int8-fallback-max", 0)
        where = ("--target", target, "--gpu", "sm89", "--calibration-texts", 96, "--out", out)
        assert run_cli("engine", *OPTIONS, *options, *where) == 0
    return out / "deep"


def natively(task: str, texts: list[str]) -> Any:
    """transformers and PEFT alone."""
    from tokenizers import Tokenizer

    model = load_base(DEEP)
    with quiet():
        name = task.replace(".", "_").replace("-", "_")
        model.load_adapter(str(DEEP / name), adapter_name="task")
        model.set_adapter("task")
    tokenizer = Tokenizer.from_file(str(DEEP / "tokenizer.json"))
    return mean_vectors(model, [np.array(tokenizer.encode(t).ids, np.int64) for t in texts])


def test_shape_is_another_and_channels_stand_out() -> None:
    """Each LayerNorm's output has channels ten times its others', as large encoders have."""
    tokenizer = json.loads((DEEP / "tokenizer.json").read_text(encoding="utf-8"))
    assert (tokenizer["model"]["type"], len(tokenizer["model"]["vocab"])) == ("BPE", 16000)
    model = load_base(DEEP)
    seen: list[torch.Tensor] = []
    for layer in model.layers:
        hook = lambda _, __, y: seen.append(y[0].abs().amax(0))  # noqa: E731
        layer.post_attention_layernorm.register_forward_hook(hook)
    with torch.inference_mode():
        model(input_ids=torch.arange(100, 164)[None])
    assert len(seen) == 12
    for channels in seen:
        assert channels.max() > 5 * channels.median()


@pytest.mark.parametrize("task", JINA_TASKS)
def test_fp32_is_the_reference(tmp_path: Path, task: str) -> None:
    options = ("--task", task, "--precision", "fp32", "--target", "onnxruntime", "--out", tmp_path)
    assert run_cli("engine", *OPTIONS, *options) == 0
    bundle = tmp_path / "deep" / f"{task}-fp32-onnxruntime-t{TOKENS}"
    manifest = read_manifest(bundle)
    assert manifest.dimensions == (192,)
    prefix = manifest.prefixes[task]
    with Embedder.load(bundle) as embedder:
        ours = embedder.encode(TEXTS)
    assert cosines(ours, natively(task, [prefix + text for text in TEXTS])).min() > 0.999999


def test_int8_beside_an_index_in_fp16_is_measured(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Comparable at the loss that the texts themselves show; another task is still refused."""
    for task in (TASK, "separation"):
        options = ("--task", task, "--precision", "fp16", "--target", "onnxruntime")
        assert run_cli("engine", *OPTIONS, *options, "--out", tmp_path) == 0
    half = tmp_path / "deep" / f"{TASK}-fp16-onnxruntime-t{TOKENS}"
    other = tmp_path / "deep" / f"separation-fp16-onnxruntime-t{TOKENS}"
    int8 = out / f"{TASK}-int8-onnxruntime-t{TOKENS}"
    texts = [text.text for text in held_back() if len(text.text) < 200][:64]
    with Embedder.load(half) as embedder:
        index = write_index(tmp_path / "index", embedder, texts)
        stored = embedder.encode(texts)
    capsys.readouterr()
    check = ("index", "check", "--index", index, "--json")
    assert run_cli(*check, "--bundle", int8, "--text-column", "text") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["standing"] == "comparable"
    assert 1e-6 < found["loss"] < 2e-3
    assert found["canaries"]["gate"] == 0.99
    with Embedder.load(int8, index=index) as embedder:
        measured = cosines(embedder.encode(texts), stored)
    assert found["sample"]["least"] == pytest.approx(float(measured.min()), abs=1e-5)
    assert found["sample"]["overlap"] > 0.9
    assert run_cli(*check, "--bundle", half, "--recorded") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["standing"], found["loss"] < 1e-6) == ("compatible", True)
    # What INT8 costs is not what another adapter does.
    assert run_cli(*check, "--bundle", other) == 6
    with Embedder.load(other) as embedder:
        assert cosines(embedder.encode(texts), stored).min() < 0.99


@pytest.mark.parametrize("stem", ["int8-onnxruntime", "int8"])
def test_all_of_int8_is_accepted_for_every_target(out: Path, stem: str) -> None:
    bundle = out / f"{TASK}-{stem}-t{TOKENS}"
    quantisation = read_manifest(bundle).quantisation
    assert quantisation is not None
    assert quantisation.share == 1.0
    parity = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    assert all(graph["min_cosine"] >= 0.997 for graph in parity["graphs"].values())
    assert ("emulated engine" in parity["graphs"]) == (stem == "int8")
    for losses in parity["quantisation"]["losses"].values():
        by_figure = {loss["figure"]: Loss(**loss).outcome for loss in losses}
        assert {*by_figure.values()} <= {Outcome.ACCEPTED, Outcome.NOT_JUDGED}
        # It was trained on these texts: what labels say is judged, and not by chance alone.
        assert by_figure["nDCG@10"] is by_figure["Spearman"] is Outcome.ACCEPTED
        assert LEAST.keys() < by_figure.keys()
