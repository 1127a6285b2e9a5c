"""What several test modules share: damaged checkpoints, text graphs, a fake runtime, the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
from export.cli import main
from export.graph.trace import trace
from export.graph.weights import CastReport, Contents, Slot, tensor_blocks, write_weights
from export.lowering.pipelines import lower
from runtimes.bundle_files import GRAPH_FILES
from runtimes.choices import GraphKind
from runtimes.files import sha256
from runtimes.heads import LAST_HIDDEN_STATE
from tests.runtime_support import ARCHITECTURE as ARCHITECTURE
from tests.runtime_support import PAD_ID as PAD_ID
from tests.runtime_support import PREFIX as PREFIX
from tests.runtime_support import VOCABULARY as VOCABULARY
from tests.runtime_support import Array as Array
from tests.runtime_support import CallableRuntime as CallableRuntime
from tests.runtime_support import changed as changed
from tests.runtime_support import cosines as cosines
from tests.runtime_support import make_manifest as make_manifest
from tests.runtime_support import padded as padded
from tests.runtime_support import sample_tokenizer as sample_tokenizer

SAMPLE_HF = Path(__file__).parent / "data" / "sample-hf"
DEEP = Path(__file__).parent / "data" / "deep"  # see docs/benchmarks/recipes.md
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
