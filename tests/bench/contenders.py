"""Who is timed, each in a process of its own: texts in, vectors out. How each is shown."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.source import SAMPLE
from runtimes.text.tokens import TextTokenizer
from tests.bench.cases import CASES

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
PADDED_BATCH = 32  # sentence-transformers' default
NAIVE_FILE = "naive.onnx"


def tokenizer_of(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder / "tokenizer.json", max_tokens=8192, pad_id=1)


def reference(work: Path) -> Encode:
    """PyTorch's FlashAttention kernel, one unpadded text at a time, no adapter layers."""
    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model
    from runtimes.executors.torch_reference import FlashReference

    runtime = FlashReference(reference_model(open_checkpoint(work / "model"), "base"))
    tokenizer = tokenizer_of(work / "model")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [tokenizer.pad([ids]).inputs() for ids in tokenizer.encode(texts)]
        return np.concatenate([runtime.run(row)["sentence_embedding"] for row in rows])

    return encode


def naive(work: Path) -> Encode:
    """``torch.onnx.export`` of the transformers model in ONNX Runtime, one text at a time."""
    import onnxruntime as ort

    session = ort.InferenceSession(work / NAIVE_FILE, providers=["CPUExecutionProvider"])
    tokenizer = tokenizer_of(work / "model")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = []
        for ids in tokenizer.encode(texts):
            tokens = session.run(None, dict(tokenizer.pad([ids]).inputs()))[0][0]
            mean = tokens.mean(axis=0)
            vectors.append(mean / np.linalg.norm(mean))
        return np.stack(vectors)

    return encode


def rebuilding(work: Path) -> Encode:
    """The official file's way of switching tasks, otherwise our portable graph."""
    from runtimes.executors.ort import OrtRuntime
    from tests.bench.rebuild import FILE

    runtime, tokenizer = OrtRuntime(work / FILE), tokenizer_of(work / "model")
    task = np.array(3, np.int64)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [tokenizer.pad([ids]).inputs() for ids in tokenizer.encode(texts)]
        return np.concatenate(
            [runtime.run(r | {"task_id": task})["sentence_embedding"] for r in rows]
        )

    return encode


def sentence_transformers(work: Path) -> Encode:
    """The library as its users call it: batches of 32, padded to the longest."""
    from sentence_transformers import SentenceTransformer, models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = models.Transformer(str(work / "native"), max_seq_length=8192)
        pooling = models.Pooling(body.get_word_embedding_dimension(), pooling_mode="mean")
        model = SentenceTransformer(modules=[body, pooling, models.Normalize()], device="cpu")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(
            list(texts), batch_size=PADDED_BATCH, show_progress_bar=False
        )
        return vectors

    return encode


@dataclass(frozen=True)
class Bundle:
    """A bundle of ours: its folder's name, how it is built, the task it is asked for."""

    name: str
    options: tuple[str, ...]
    task: str | None = None


BUNDLES = {
    "adaptrt": Bundle("base-fp32-onnxruntime", ("--precision", "fp32", "--task", "base")),
    "adaptrt INT8": Bundle("base-int8-onnxruntime", ("--precision", "int8", "--task", "base")),
    "adaptrt switchable": Bundle(
        "switchable-fp32-onnxruntime",
        ("--precision", "fp32", "--adapter", "switchable"),
        "classification",
    ),
}


def _bundle_folder(work: Path, contender: str) -> Path:
    return work / "bundles" / "model" / BUNDLES[contender].name


def ours(contender: str) -> Callable[[Path], Encode]:
    """The bundle behind a contender's name, through ``Embedder``."""

    def load(work: Path) -> Encode:
        from adaptrt import Embedder

        embedder = Embedder.load(_bundle_folder(work, contender))
        task = BUNDLES[contender].task
        return lambda texts: embedder.encode(texts, task=task, prefix=False)

    return load


@dataclass(frozen=True)
class Contender:
    """How one is loaded, which cases it is there for, and its look in every picture.

    ``memory_flaw`` says why the memory that the worker reports for it is not its own, in any run;
    flaws of a single run stand in that run's report (``tests.bench.reports.memory_flaw``).
    """

    load: Callable[[Path], Encode]
    colour: str
    marker: str
    cases: tuple[str, ...] = CASES
    memory_flaw: str | None = None


_SINGLE = ("1x128", "1x512", "1x2048", "8x512", "1x8192")
_SHORT = ("1x128", "1x512")  # what switching costs is the same, or less, at any length

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
CONTENDERS: dict[str, Contender] = {
    "PyTorch FlashAttention": Contender(reference, "#D55E00", "D", _SINGLE),
    "naive ONNX export": Contender(naive, "#E69F00", "v", _SINGLE),
    # One text at a time it is PyTorch without a pinned kernel.
    "sentence-transformers": Contender(
        sentence_transformers, "#CC79A7", "P", ("1x128", "1x512", "8x512", "corpus")
    ),
    "adaptrt": Contender(ours("adaptrt"), "#0072B2", "o"),
    "adaptrt INT8": Contender(ours("adaptrt INT8"), "#56B4E9", "s"),
    "rebuild per call": Contender(
        rebuilding,
        "#000000",
        "X",
        _SHORT,
        memory_flaw="the rebuilt weights, kept after the first call, count as loaded",
    ),
    "adaptrt switchable": Contender(ours("adaptrt switchable"), "#009E73", "^", _SHORT),
}


def prepare(work: Path, size: str, contenders: Sequence[str]) -> None:
    """What the contenders need, each made once per work folder: checkpoint, bundles, exports."""
    from tests.bench import rebuild
    from tests.zoo import SIZES, write_original

    model = work / "model"
    if not (model / "model.safetensors").is_file():
        if size == "sample":
            shutil.copytree(SAMPLE, model)
        else:
            write_original(model, SIZES[size])
    for contender in contenders:
        if contender in BUNDLES and not _bundle_folder(work, contender).is_dir():
            _build(work, BUNDLES[contender])
    others = {"naive ONNX export", "sentence-transformers"} & set(contenders)
    if others and not (work / NAIVE_FILE).is_file():
        _export_naive(work)
    if "rebuild per call" in contenders and not (work / rebuild.FILE).is_file():
        rebuild.export_rebuild(model, work / rebuild.FILE)


def _build(work: Path, bundle: Bundle) -> None:
    where = ("--model", str(work / "model"), "--out", str(work / "bundles"))
    options = bundle.options
    if "int8" in options:  # few and short texts: ranges do not change the speed
        _adaptrt(
            "calibrate",
            *where,
            "--task",
            "base",
            "--calibration-texts",
            "24",
            "--max-tokens",
            "128",
        )
        table = work / "bundles" / "model" / "calibration" / "base.json"
        options += ("--calibration", str(table))
    _adaptrt("engine", *where, "--target", "onnxruntime", "--parity-tokens", "64", *options)


def _adaptrt(*arguments: str) -> None:
    from tests.bench.random_model import main

    if code := main([*arguments]):
        raise SystemExit(code)


def _export_naive(work: Path) -> None:
    """The transformers model as its users export it (opset 18), and a native copy of it."""
    import torch

    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model

    model = reference_model(open_checkpoint(work / "model"), "base").eval()
    model.save_pretrained(work / "native")  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SAMPLE / name, work / "native" / name)
    example = (torch.ones((2, 16), dtype=torch.int64), torch.ones((2, 16), dtype=torch.int64))
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=8192)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            example,
            str(work / NAIVE_FILE),
            dynamo=True,
            opset_version=18,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            external_data=True,
            verbose=False,
        )
