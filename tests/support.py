"""What several test modules share: damaged checkpoints, text graphs, a fake runtime, the CLI."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import calibration.looks
import calibration.quality
import export.gate.texts
from calibration.corpus import held_back
from export.checkpoint.lora import Adapter
from export.checkpoint.reader import Checkpoint
from export.checkpoint.source import SAMPLE
from export.cli import main
from export.graph.trace import trace
from export.graph.weights import CastReport, Contents, Slot, tensor_blocks, write_weights
from export.lowering.pipelines import lower
from runtimes.bundle_files import GRAPH_FILES
from runtimes.choices import AdapterMode, GraphKind, HeadName, Interface, Precision, Target
from runtimes.executors.base import RuntimeBase
from runtimes.files import sha256
from runtimes.heads import LAST_HIDDEN_STATE
from runtimes.manifest import (
    SCHEMA,
    SCHEMA_MINOR,
    Architecture,
    BuiltFor,
    Manifest,
    Model,
    Parity,
    Quantisation,
    Vocabulary,
)
from runtimes.text.tokens import TextTokenizer

SAMPLE_HF = Path(__file__).parent / "data" / "sample-hf"
DEEP = Path(__file__).parent / "data" / "deep"  # see docs/benchmarks/recipes.md
PAD_ID = 1
PREFIX = "query: "
ARCHITECTURE: dict[str, Any] = {
    "hidden": 8,
    "layers": 1,
    "heads": 2,
    "intermediate": 16,
    "vocab": 16000,
    "token_types": 1,
    "max_positions": 8194,
    "layer_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "pad_id": PAD_ID,
}
Array = np.ndarray[Any, Any]
T = TypeVar("T")


def run_cli(*arguments: object) -> int:
    """``adaptrt`` in this process; the exit code."""
    return main([str(argument) for argument in arguments])


def build(out: Path, *arguments: object, precision: str = "fp32", tokens: int = 64) -> int:
    """``adaptrt engine`` without TensorRT; the gate's texts stay short."""
    return run_cli(
        "engine",
        "--target",
        "onnxruntime",
        "--precision",
        precision,
        "--parity-tokens",
        tokens,
        "--out",
        out,
        *arguments,
    )


def few_gate_texts(patch: pytest.MonkeyPatch) -> None:
    """Few of a quantised build's texts. Random weights hardly rank: quality is judged mildly."""
    patch.setattr(export.gate.texts, "held_back", lambda: held_back()[::12])
    patch.setattr(calibration.looks, "LOOKS", ((12, 12),))
    patch.setattr(calibration.quality, "LIMITS", dict.fromkeys(calibration.quality.LIMITS, 2.0))


def listing(folder: Path) -> dict[str, bytes]:
    """Every path below ``folder``, dot-folders too, with the bytes of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change or drop keys of a JSON object on disk."""
    value = {k: v for k, v in json.loads(path.read_text()).items() if k not in drop}
    path.write_text(json.dumps(value | changes))


def changed(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested JSON with one entry changed; ``...`` removes it."""
    inner = tree = copy.deepcopy(tree)
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return tree


def edit_tensors(path: Path, edit: Callable[[dict[str, Array]], None]) -> None:
    """Rewrite a safetensors file after ``edit`` changed its dictionary in place."""
    tensors = load_file(path)
    edit(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)


def parse_graph(text: str, **weights: Array) -> ir.Model:
    """ONNX text to a typed model; ``weights`` become initializers."""
    proto = onnx.parser.parse_model(text)
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def present(value: T | None) -> T:
    """``value``, which may not be None."""
    assert value is not None
    return value


def op_types(model: ir.Model) -> list[str]:
    """``domain::op`` of every node of the main graph, in order; the standard domain is bare."""
    return [f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph]


def run_model(model: ir.Model, inputs: Mapping[str, Array]) -> Array:
    """The first output, by ONNX Runtime."""
    return first_output(ir.to_proto(model).SerializeToString(), inputs)


def first_output(model: bytes | str, inputs: Mapping[str, Array]) -> Array:
    """What a serialised graph or a file makes of its token vectors, by ONNX Runtime on the CPU."""
    opened = session(model)
    names = [o.name for o in opened.get_outputs() if o.name != LAST_HIDDEN_STATE.name]
    output: Array = opened.run(names, dict(inputs))[0]
    return output


def session(model: bytes | str) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU that keeps its warnings to itself."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def write_graphs(
    folder: Path, checkpoint: Checkpoint, task: str, dtype: str, tokens: int = 8192
) -> Path:
    """All four graphs of one task and their weights, as a bundle holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = trace(checkpoint.config, dtype, 32, tokens)
    for kind, name in GRAPH_FILES.items():
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / name).write_bytes(proto.SerializeToString())
    adapter = checkpoint.adapter(task)
    write_slots(folder, graph.slots, checkpoint, adapter, tokens)
    return folder


def write_slots(
    folder: Path,
    slots: tuple[Slot, ...],
    checkpoint: Checkpoint,
    adapter: Adapter,
    tokens: int = 64,
) -> CastReport:
    """One task's weight file in ``folder``."""
    return write_weights(folder, slots, Contents(checkpoint, adapter), tokens)


def blocks(checkpoint: Checkpoint, adapter: Adapter, name: str, tokens: int = 64) -> list[Array]:
    """One merged tensor as the blocks it is written in."""
    return list(tensor_blocks(Contents(checkpoint, adapter), name, tokens))


def merged_tensor(checkpoint: Checkpoint, adapter: Adapter, name: str) -> Array:
    """One merged tensor, whole."""
    return np.concatenate(blocks(checkpoint, adapter, name))


def edit_graph(path: Path, edit: Callable[[onnx.GraphProto], None]) -> None:
    """Rewrite an ONNX file after ``edit`` changed its graph in place; its weights stay outside."""
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    path.write_bytes(model.SerializeToString())


def rehash(bundle: Path) -> None:
    """What a careful forger would do: the manifest's sizes and hashes follow the files."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    for entry in raw["artifacts"]:
        file = bundle / entry["path"]
        entry |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
    path.write_text(json.dumps(raw))


def graph_path(folder: Path, kind: GraphKind) -> Path:
    """Where :func:`write_graphs` put a graph."""
    return folder / GRAPH_FILES[kind]


def padded(lengths: list[int], *, vocab: int = 16000, seed: int = 0) -> dict[str, Array]:
    """A right-padded batch of random ids."""
    rng = np.random.default_rng(seed)
    ids = np.full((len(lengths), max(lengths)), PAD_ID, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, vocab, length)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def cosines(a: Array, b: Array) -> Array:
    """Row by row in FP64; written apart from the product's own."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    found: Array = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return found


class CallableRuntime(RuntimeBase):
    """The fake behind the runtime seam: a function from ids and mask to vectors."""

    name = "fake"

    def __init__(self, function: Callable[[Array, Array], Array]) -> None:
        self.function = function
        self.calls: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.calls.append(ids.shape)
        return {"sentence_embedding": self.function(ids, mask)}

    def close(self) -> None:
        self.closed = True


def sample_tokenizer(max_tokens: int = 8192) -> TextTokenizer:
    return TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=max_tokens, pad_id=PAD_ID)


VOCABULARY = {
    "rows": 9,
    "of": 16000,
    "source": "languages de",
    "min_count": 1,
    "unknown": "error",
    "texts": 3,
    "coverage": {"de": {"texts": 3, "covered": 2}},
    "gate": {"texts": 48, "covered": 7},
    "corpus_sha256": "0" * 64,
    "tokenizer_sha256": "0" * 64,
}
PARITY = {
    "reference": "torch-sdpa-flash-cpu-float32",
    "executed": "onnxruntime-cpu",
    "rows": 1,
    "min_cosine": 1.0,
    "mean_cosine": 1.0,
    "max_abs": 0.0,
    "threshold": 0.99,
    "passed": True,
}


def make_manifest(**changes: Any) -> Manifest:
    """A merged bundle's manifest with no artefacts; records may be given as in its JSON.

    Nothing is checked but the choices' names; an architecture needs only what differs.
    """
    entries: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_minor": SCHEMA_MINOR,
        "model": {"name": "fake", "sha256": "0" * 64},
        "architecture": ARCHITECTURE,
        "task": "retrieval.query",
        "tasks": ("retrieval.query",),
        "adapter": "merged",
        "slot_rank": None,
        "interface": "sentence",
        "precision": "fp32",
        "target": {"name": "onnxruntime"},
        "max_batch": 4,
        "max_tokens": 64,
        "dimensions": (2, 4, 8),
        "prefix": PREFIX,
        "prefixes": {"retrieval.query": PREFIX},
        "pad_id": PAD_ID,
        "artifacts": (),
        "parity": PARITY,
        "versions": {"adaptrt": "0"},
    }
    entries |= changes
    return Manifest(**{key: _RECORDS.get(key, _as_it_is)(entries[key]) for key in entries})


def _as_it_is(value: Any) -> Any:
    return value


_RECORDS: dict[str, Callable[[Any], Any]] = {
    "model": lambda raw: Model(**raw),
    "architecture": lambda raw: Architecture(**ARCHITECTURE | raw),
    "target": lambda raw: BuiltFor(**raw | {"name": Target(raw["name"])}),
    "parity": lambda raw: Parity(**raw),
    "quantisation": lambda raw: Quantisation(
        **raw | {"scheme": Precision(raw["scheme"]), "quantised": tuple(raw["quantised"])}
    ),
    "vocabulary": lambda raw: None if raw is None else msgspec.convert(raw, Vocabulary),
    "adapter": AdapterMode,
    "interface": Interface,
    "head": HeadName,
    "precision": Precision,
}
