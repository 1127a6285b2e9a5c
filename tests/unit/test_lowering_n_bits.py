"""UseMatMulNBits against ONNX's reference and NumPy, and on whole graphs of the small model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from calibration.rounding import rounded_weight, stored_steps, weight_scales
from export.checkpoint.reader import Checkpoint
from export.graph.encoder import load_encoder
from export.graph.gemms import gemm_modules
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import PrecisionPlan
from export.graph.trace import trace
from export.graph.weights import Contents, packed, write_weights
from export.lowering.pipelines import lower
from export.lowering.use_mat_mul_n_bits import UseMatMulNBits
from export.quantisation.sensitivity import TrialEncoder
from runtimes.choices import GraphKind, Precision
from runtimes.executors.ort import OrtRuntime
from runtimes.schemes import INT4W, INT8W, SCHEMES, Storage
from runtimes.text.tokens import Tokens
from tests.support import Array, cosines, first_output, op_types, padded, parse_graph

K, N = 384, 40
BATCH = padded([40, 7, 23])
TASK, TOKENS = "separation", 64


def write_product(folder: Path, weight: Array, storage: Storage, *, bias: bool = True) -> ir.Model:
    """x · DQ(W) + bias with the stored weight in a file."""
    scales = weight_scales(weight, "float32", storage)
    raw = packed(stored_steps(weight, scales, storage))
    (folder / "weights").write_bytes(raw.tobytes())
    along = "axis = 0" if storage.block is None else f"axis = 1, block_size = {storage.block}"
    add = "y = Add(product, bias)" if bias else "y = Identity(product)"
    model = parse_graph(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        graph (float[rows, {K}] x) => (float[rows, {N}] y) {{
            wide = DequantizeLinear<{along}>(w, scales)
            turned = Transpose<perm = [1, 0]>(wide)
            product = MatMul(x, turned)
            {add}
        }}""",
        scales=scales,
        bias=np.arange(N, dtype=np.float32),
        w=np.zeros((N, K), np.int8),
    )
    dtype = ir.DataType.from_numpy(np.dtype(storage.dtype))
    value = model.graph.initializers["w"]
    value.type = ir.TensorType(dtype)
    value.const_value = ir.ExternalTensor(
        "weights", 0, raw.nbytes, dtype, shape=ir.Shape((N, K)), name="w", base_dir=folder
    )
    return model


def reference(model: ir.Model, folder: Path, x: Array) -> Array:
    """ONNX's own evaluator, in NumPy."""
    path = folder / "reference.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    (result,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    return np.asarray(result)


def run(model: ir.Model, folder: Path, x: Array) -> Array:
    path = folder / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return first_output(str(path), {"x": x})


STORAGES = [*(replace(INT4W, block=block) for block in (32, 64, 128)), INT8W]


@pytest.mark.parametrize("storage", STORAGES, ids=["32", "64", "128", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_kernel_multiplies_what_the_bundle_stores(
    storage: Storage, bias: bool, tmp_path: Path
) -> None:
    """INT8 activations, ONNX Runtime's default here, would be off by 5e-3."""
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((K, N), (7, K)))
    model = write_product(tmp_path, weight, storage, bias=bias)
    expected = x @ rounded_weight(weight, "float32", storage) + bias * np.arange(N)
    scale = float(np.abs(expected).max())
    assert np.abs(reference(model, tmp_path, x) - expected).max() < 1e-5 * scale
    lowered = UseMatMulNBits()(model).model
    names = op_types(lowered)
    assert names.count("com.microsoft::MatMulNBits") == 1
    assert not {"MatMul", "DequantizeLinear", "Transpose", "Add"} & set(names)
    assert np.abs(run(lowered, tmp_path, x) - expected).max() < 1e-5 * scale
    (product,) = (node for node in lowered.graph if node.op_type == "MatMulNBits")
    product.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 4)
    assert np.abs(run(lowered, tmp_path, x) - expected).max() > 1e-3 * scale
    flip = next(v for n, v in lowered.graph.initializers.items() if "middle" in n)
    flip.const_value = ir.Tensor(np.array(0, np.uint8), name=flip.name)
    assert np.abs(run(lowered, tmp_path, x) - expected).max() > 0.1 * scale


def test_product_of_activations_stays(tmp_path: Path) -> None:
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 23]>
        graph (float[4, 4] x) => (float[4, 4] y) {
            turned = Transpose<perm = [1, 0]>(x)
            y = MatMul(x, turned)
        }"""
    )
    result = UseMatMulNBits()(model)
    assert not result.modified
    assert op_types(result.model) == ["Transpose", "MatMul"]


def test_weight_in_no_file_is_refused(tmp_path: Path) -> None:
    model = write_product(tmp_path, np.ones((K, N), np.float32), INT8W)
    model.graph.initializers["w"].const_value = None
    with pytest.raises(ValueError, match="w: lies in no weight file"):
        UseMatMulNBits()(model)


@pytest.mark.parametrize("precision", [Precision.INT4W, Precision.INT8W])
def test_every_graph_computes_what_the_formula_says(
    precision: Precision, small: Checkpoint, tmp_path: Path
) -> None:
    """Two of INT4's GEMMs left it, one for INT8 and one for the graph's own type."""
    graph = trace(small.config, "float32", 32, TOKENS)
    write_weights(tmp_path, graph.slots, Contents(small, small.adapter(TASK)), TOKENS)
    encoder = load_encoder(small.config, "float32", TOKENS, tmp_path, graph.slots)
    scheme = SCHEMES[precision]
    tokens = Tokens(BATCH["input_ids"], BATCH["attention_mask"])
    trial = TrialEncoder(encoder, tokens, scheme.operands)
    eased, out, *rest = gemm_modules(small.config)
    moved = frozenset({eased} if scheme.eases_to else ())
    quantised = dict.fromkeys([*([eased] if moved else []), *rest])
    formula, exact = trial.vectors(quantised), trial.exact
    plan = PrecisionPlan(scheme, "float32", quantised, {out: "too sensitive"}, moved)
    stored = quantise_graph(graph, plan)
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME):
        proto = ir.to_proto(lower(stored.model(), kind))
        (tmp_path / f"{kind}.onnx").write_bytes(proto.SerializeToString())
    contents = Contents(small, small.adapter(TASK), plan=plan)
    write_weights(tmp_path, stored.slots, contents, TOKENS)
    found = {}
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME):
        with OrtRuntime(tmp_path / f"{kind}.onnx", integer_products=False) as runtime:
            found[kind] = runtime.run(BATCH)["sentence_embedding"]
    assert cosines(*found.values()).min() > 0.9999999
    off = 1 - cosines(found[GraphKind.PORTABLE], exact).max()
    assert off > (1e-4 if moved else 1e-8)  # it is quantised
    closeness = 1 - cosines(found[GraphKind.PORTABLE], formula).min()
    assert closeness < (0.02 if moved else 1e-6)  # the formula has the eased one in INT4
    model = ir.load(tmp_path / f"{GraphKind.ONNXRUNTIME}.onnx")
    assert op_types(model).count("com.microsoft::MatMulNBits") == len(quantised)
    bits = [n.attributes["bits"].as_int() for n in model.graph if n.op_type == "MatMulNBits"]
    assert bits.count(8) == (1 if moved else len(quantised))
