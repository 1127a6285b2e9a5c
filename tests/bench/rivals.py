"""Contenders that are not ours: texts in, vectors out.

Some run in the environment of another program, so nothing of this project's dependencies but NumPy
is imported before it is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from runtimes.text.tokens import TextTokenizer

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
PADDED_BATCH = 32  # sentence-transformers' default
NAIVE_FILE = "naive.onnx"
NAIVE_INT8_FILE = "naive-int8.xml"
NATIVE_FOLDER = "native"  # the checkpoint as transformers saves it
CLIENT_FOLDER = "naive-client"  # the naive export where sentence-transformers looks for one


def tokenizer_of(folder: Path) -> TextTokenizer:
    from runtimes.text.tokens import TextTokenizer

    return TextTokenizer(folder / "tokenizer.json", max_tokens=8192, pad_id=1)


def _one_by_one(work: Path, vector: Callable[[Any], NDArray[np.float32]]) -> Encode:
    """One unpadded text at a time; ``vector`` takes the inputs and gives ``[1, hidden]``."""
    tokenizer = tokenizer_of(work / "model")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [tokenizer.pad([ids]).inputs() for ids in tokenizer.encode(texts)]
        return np.concatenate([vector(row) for row in rows])

    return encode


def _mean(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[1, sequence, hidden]`` of a text without padding → its vector ``[1, hidden]``."""
    mean = tokens.mean(axis=1)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def reference(work: Path) -> Encode:
    """PyTorch's FlashAttention kernel, one unpadded text at a time, no adapter layers."""
    return _pytorch(work, "float32")


def pytorch_bf16(work: Path) -> Encode:
    """The same in BF16, rotary angles kept in FP32."""
    return _pytorch(work, "bfloat16")


def _pytorch(work: Path, dtype: str) -> Encode:
    import torch

    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model
    from runtimes.executors.torch_reference import FlashReference

    model = reference_model(open_checkpoint(work / "model"), "base")
    runtime = FlashReference(model, dtype=getattr(torch, dtype))
    return _one_by_one(work, lambda row: runtime.run(row)["sentence_embedding"])


def pytorch_bf16_compiled(work: Path) -> Encode:
    """``torch.compile`` of the model in BF16 with dynamic lengths."""
    import torch

    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model

    model = reference_model(open_checkpoint(work / "model"), "base")
    for parameter in model.parameters():  # not .to(): that would round RoPE's frequencies
        parameter.data = parameter.data.to(torch.bfloat16)
    compiled = torch.compile(model.eval(), dynamic=True)

    def vector(row: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            tokens = compiled(input_ids=torch.from_numpy(row["input_ids"])).last_hidden_state
        return _mean(tokens.float().numpy())

    return _one_by_one(work, vector)


def naive(work: Path) -> Encode:
    """``torch.onnx.export`` of the transformers model in ONNX Runtime, one text at a time."""
    import onnxruntime as ort

    session = ort.InferenceSession(work / NAIVE_FILE, providers=["CPUExecutionProvider"])
    return _one_by_one(work, lambda row: _mean(session.run(None, dict(row))[0]))


def naive_openvino(products: str, file: str = NAIVE_FILE) -> Callable[[Path], Encode]:
    """The same export in OpenVINO, multiplying in ``products``: f32 or bf16.

    ``file`` may be the one that NNCF quantised, where that is what the rest is computed in.
    """

    def load(work: Path) -> Encode:
        import openvino as ov

        settings = {"INFERENCE_PRECISION_HINT": products, "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.Core().compile_model(work / file, "CPU", settings)
        request = compiled.create_infer_request()
        return _one_by_one(work, lambda row: _mean(request.infer(dict(row))[0]))

    return load


def rebuilding(work: Path) -> Encode:
    """The official file's way of switching tasks, otherwise our portable graph."""
    from runtimes.executors.ort import OrtRuntime
    from tests.bench.rebuild import FILE

    runtime, task = OrtRuntime(work / FILE), {"task_id": np.array(3, np.int64)}
    return _one_by_one(work, lambda row: runtime.run(row | task)["sentence_embedding"])


def sentence_transformers(dtype: str) -> Callable[[Path], Encode]:
    """The library as its users call it: batches of 32, padded to the longest."""

    def load(work: Path) -> Encode:
        from sentence_transformers import SentenceTransformer, models

        folder = str(work / NATIVE_FOLDER)
        body = models.Transformer(folder, max_seq_length=8192, model_args={"dtype": dtype})
        pooling = models.Pooling(body.get_word_embedding_dimension(), pooling_mode="mean")
        return _padded(
            SentenceTransformer(modules=[body, pooling, models.Normalize()], device="cpu")
        )

    return _silently(load)


def sentence_transformers_export(backend: str) -> Callable[[Path], Encode]:
    """The library on the naive export, by its ``onnx`` or ``openvino`` backend.

    Settings are its own: OpenVINO multiplies in BF16 by default where the CPU can.
    """
    file = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}[backend]

    def load(work: Path) -> Encode:
        from sentence_transformers import SentenceTransformer

        folder = str(work / CLIENT_FOLDER)
        kwargs: dict[str, Any] = {"backend": backend, "model_kwargs": {"file_name": file}}
        return _padded(SentenceTransformer(folder, device="cpu", **kwargs))

    return _silently(load)


def _padded(model: Any) -> Encode:
    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(
            list(texts), batch_size=PADDED_BATCH, show_progress_bar=False
        )
        return vectors

    return encode


def _silently(load: Callable[[Path], Encode]) -> Callable[[Path], Encode]:
    """Without the warnings of a library that warns of its own next version."""

    def loaded(work: Path) -> Encode:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(work)

    return loaded
