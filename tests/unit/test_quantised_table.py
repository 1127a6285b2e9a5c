"""A quantised table of embeddings: numbers and scales, and every graph against the formula."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import export.graph.weights
from export.checkpoint.names import WORD
from export.checkpoint.reader import Checkpoint
from export.emulation.engine import EmulatedEngine
from export.graph.encoder import load_encoder
from export.graph.quantise_table import quantise_table
from export.graph.table import SCALES, TABLE, QuantisedTable
from export.graph.trace import PortableGraph, trace
from export.graph.weights import Contents, tensor_blocks, write_weights
from export.lowering.pipelines import lower
from runtimes.choices import Embeddings, GraphKind, Precision
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.torch_reference import TorchModule
from runtimes.schemes import INT4W, INT8W, SCHEMES, Storage
from runtimes.tables import TABLES, gate_of
from tests.support import Array, cosines, op_types, padded, present
from tests.unit.test_emulation import plan as no_departures

TASK, TOKENS = "separation", 64
INT4 = replace(INT4W, block=32)  # the small model is 64 wide
STORAGES = {"int8": INT8W, "int4": INT4}
BATCH = padded([40, 7, 23])
KINDS = (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME, GraphKind.TENSORRT, GraphKind.PRIMITIVE)


def write(
    folder: Path, small: Checkpoint, table: QuantisedTable, kinds: tuple[GraphKind, ...]
) -> PortableGraph:
    """Graphs with the table, and their weights."""
    graph = quantise_table(trace(small.config, table.dtype, 32, TOKENS), table)
    for kind in kinds:
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / f"{kind}.onnx").write_bytes(proto.SerializeToString())
    contents = Contents(small, small.adapter(TASK), table=table)
    write_weights(folder, graph.slots, contents, TOKENS)
    return graph


def formula(
    folder: Path, small: Checkpoint, table: QuantisedTable, *, swapped: bool = False
) -> tuple[Array, Array]:
    """The traced module without and with the rows that are left of the table.

    ``swapped`` takes the scales of the rows in another order.
    """
    graph = trace(small.config, table.dtype, 32, TOKENS)
    contents = Contents(small, small.adapter(TASK))
    write_weights(folder, graph.slots, contents, TOKENS)
    encoder = load_encoder(small.config, table.dtype, TOKENS, folder, graph.slots)
    words = encoder.embeddings.word_embeddings.weight
    module = TorchModule(encoder)
    exact = module.run(BATCH)["sentence_embedding"]
    rows = np.concatenate(list(tensor_blocks(contents, TABLE, TOKENS)))
    steps = table.tensor(TABLE, rows).astype(np.float32)
    scales = table.tensor(SCALES, rows).astype(np.float32)
    scales = scales[::-1] if swapped else scales
    wide = np.repeat(scales.reshape(len(rows), -1), rows.shape[1] // (scales.size // len(rows)), 1)
    words.data = words.new_tensor(steps * wide)
    return np.asarray(exact), np.asarray(module.run(BATCH)["sentence_embedding"])


def run(folder: Path, kind: GraphKind) -> Array:
    with OrtRuntime(folder / f"{kind}.onnx") as runtime:
        return np.asarray(runtime.run(BATCH)["sentence_embedding"])


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_a_row_is_quantised_without_a_look_at_any_other(storage: Storage) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    table = QuantisedTable(storage, "float16")
    for name in (TABLE, SCALES):
        whole, part = table.tensor(name, rows), table.tensor(name, rows[7:9])
        assert np.array_equal(whole[7:9], part)
    assert table.tensor(TABLE, rows).shape == rows.shape
    assert table.tensor(SCALES, rows).shape == table.scale_shape(*rows.shape)


def test_int8_errs_by_half_a_step_at_most() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    rows[3] = 0  # a padding token's
    left = QuantisedTable(INT8W, "float32").restored(rows)
    steps = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(left - rows) <= 0.5001 * np.maximum(steps, 1e-4)).all()
    assert not left[3].any()


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_every_graph_reads_the_rows_that_are_left(
    storage: Storage, small: Checkpoint, tmp_path: Path
) -> None:
    table = QuantisedTable(storage, "float32")
    kinds = KINDS if storage is INT8W else KINDS[:3]  # opset 20 knows no blocks
    exact, expected = formula(tmp_path, small, table)
    _, wrong = formula(tmp_path, small, table, swapped=True)
    write(tmp_path, small, table, kinds)
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME):
        found = run(tmp_path, kind)
        assert (1 - cosines(found, expected)).max() < 1e-9, kind
        assert (1 - cosines(found, exact)).max() > 1e-6, kind  # it is quantised
        assert (1 - cosines(found, wrong)).max() > 1e-4, kind  # and scales are the row's own


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_half_precision_and_the_engine_on_a_cpu(
    storage: Storage, small: Checkpoint, tmp_path: Path
) -> None:
    table = QuantisedTable(storage, "float16")
    _, expected = formula(tmp_path, small, table)
    write(tmp_path, small, table, KINDS[:3])
    assert (1 - cosines(run(tmp_path, GraphKind.ONNXRUNTIME), expected)).max() < 1e-5
    with EmulatedEngine(tmp_path / f"{GraphKind.TENSORRT}.onnx", no_departures()) as engine:
        found = engine.run(BATCH)["sentence_embedding"]
    assert (1 - cosines(found, expected)).max() < 1e-5


@pytest.mark.parametrize(
    ("storage", "dtype"), list(product(STORAGES.values(), ("float16", "bfloat16")))
)
def test_the_traced_module_reads_the_same_file(
    storage: Storage, dtype: str, small: Checkpoint, tmp_path: Path
) -> None:
    """BF16's gate is that module."""
    table = QuantisedTable(storage, dtype)
    _, expected = formula(tmp_path, small, table)
    graph = write(tmp_path, small, table, ())
    module = TorchModule(load_encoder(small.config, dtype, TOKENS, tmp_path, graph.slots))
    found = module.run(BATCH)["sentence_embedding"]
    assert (1 - cosines(found, expected)).max() < 1e-4


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_no_graph_holds_the_table_in_another_type(storage: Storage, small: Checkpoint) -> None:
    table = QuantisedTable(storage, "float16")
    graph = quantise_table(trace(small.config, "float16", 32, TOKENS), table)
    entries, width = small.config.vocab, small.config.hidden
    for kind in GraphKind:
        if kind is GraphKind.PRIMITIVE and storage is INT4:
            continue
        model = lower(graph.model(), kind)
        stored = model.graph.initializers[TABLE]
        assert present(stored.shape).numpy() == (entries, width)
        assert str(present(stored.dtype).numpy()) == storage.dtype
        readers = {use.node.op_type for use in stored.uses()}
        on_ort = kind in (GraphKind.ONNXRUNTIME, GraphKind.ONNXRUNTIME_CUDA)
        gathers = "GatherBlockQuantized" if storage is INT4 else "Gather"
        assert readers == {gathers if on_ort else "DequantizeLinear"}
        assert ("DequantizeLinear" in op_types(model)) is not on_ort


def test_int4_has_no_graph_for_opset_20(small: Checkpoint) -> None:
    table = QuantisedTable(INT4, "float16")
    graph = quantise_table(trace(small.config, "float16", 32, TOKENS), table)
    with pytest.raises(ValueError, match="block_size is newer than opset 20"):
        lower(graph.model(), GraphKind.PRIMITIVE)


def test_table_that_two_nodes_read_is_refused(small: Checkpoint) -> None:
    graph = trace(small.config, "float32", 32, TOKENS)
    model = graph.model()
    (gather,) = (n for n in model.graph if WORD in str(n.name) and n.op_type == "Gather")
    copy = ir.node("Identity", [gather.inputs[0]])
    model.graph.insert_before(gather, copy)
    twice = replace(graph, proto=ir.to_proto(model).SerializeToString())
    with pytest.raises(ValueError, match="expected one Gather"):
        quantise_table(twice, QuantisedTable(INT8W, "float32"))


def test_a_bundle_is_judged_by_the_laxer_of_two_gates() -> None:
    assert gate_of(Precision.FP32, Embeddings.SAME).min_cosine == 0.999999
    int8 = gate_of(Precision.FP32, Embeddings.INT8)
    assert (int8.min_cosine, int8.mean_cosine, int8.gates_quality) == (0.9999, 0.9999, False)
    for precision, scheme in SCHEMES.items():
        same = gate_of(precision, Embeddings.SAME)
        assert (same.min_cosine, same.mean_cosine) == (scheme.min_cosine, scheme.mean_cosine)
        assert same.gates_quality is scheme.gates_quality
        assert gate_of(precision, Embeddings.INT4).gates_quality
    assert gate_of(Precision.INT8, Embeddings.INT8).min_cosine == 0.99
    assert TABLES[Embeddings.SAME].storage is None


def test_kept_rows_are_those_of_the_whole_table(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a block of the checkpoint's rows holds no kept one."""
    monkeypatch.setattr(export.graph.weights, "BLOCK_ROWS", 1000)
    kept = np.array([0, 1, 2, 3, 7, 998, 4001, 4999])
    for storage in STORAGES.values():
        whole = Contents(small, small.adapter(TASK), table=QuantisedTable(storage, "float16"))
        some = replace(whole, kept=kept, unknown_id=3)
        for name in (TABLE, SCALES):
            every, few = (np.concatenate(list(tensor_blocks(c, name, 64))) for c in (whole, some))
            assert np.array_equal(every[kept], few)
