"""What one large matrix product reaches on this machine, by library and precision, in GFLOP/s.

``python -m tests.bench.ceilings LIBRARY PRECISION`` measures one in a process of its own, since
libraries' threads would wait for each other's. A constant right-hand side, packed beforehand where
the library does that, as the weights of a model are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np

# Rows, the summed axis, columns: a large one, and a layer's widest at 512 tokens.
SHAPES = {"2048³": (2048, 2048, 2048), "512×1024×4096": (512, 1024, 4096)}
LARGE = "2048³"
REPEATS = 7  # the first two pack weights and wake threads
Product = Callable[[], object]
Ceilings = dict[str, dict[str, float]]  # {"BF16 oneDNN": {"2048³": 400.0, …}}


def _onednn_float(kind: str, rows: int, inner: int, columns: int) -> Product:
    """PyTorch's linear layer in oneDNN with packed weights, as its compiler calls it."""
    import torch

    dtype = getattr(torch, kind)
    left, weights = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weights, rows)
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda: linear(left, packed, None, "none", [], "")


def _onednn_int8(rows: int, inner: int, columns: int) -> Product:
    import torch

    left = torch.ones(rows, inner, dtype=torch.int8)
    right = torch.ones(columns, inner, dtype=torch.int8).t()
    return lambda: torch._int_mm(left, right)


def _onnxruntime(model: Any, left: np.ndarray[Any, Any]) -> Product:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": left})


def _onnx_model(text: str, weights: np.ndarray[Any, Any]) -> Any:
    """A graph as ONNX text with its constant ``b``."""
    import onnx

    head = '<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>\n'
    model = onnx.parser.parse_model(head + text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "b"))
    return model


def _onnxruntime_fp32(rows: int, inner: int, columns: int) -> Product:
    text = f"gemm (float[{rows},{inner}] a) => (float[{rows},{columns}] c) {{ c = MatMul(a, b) }}"
    model = _onnx_model(text, np.ones((inner, columns), np.float32))
    return _onnxruntime(model, np.ones((rows, inner), np.float32))


def _onnxruntime_int8(rows: int, inner: int, columns: int) -> Product:
    """Of the operator that INT8 graphs for a CPU have, whose result is FP32."""
    text = (
        f"gemm (uint8[{rows},{inner}] a) => (float[{rows},{columns}] c)\n"
        "<float s = {1}, uint8 za = {0}, int8 zb = {0}>\n"
        "{ c = com.microsoft.MatMulIntegerToFloat(a, b, s, s, za, zb) }"
    )
    model = _onnx_model(text, np.ones((inner, columns), np.int8))
    return _onnxruntime(model, np.ones((rows, inner), np.uint8))


def _openvino(products: str, rows: int, inner: int, columns: int, *, quantised: bool) -> Product:
    import openvino as ov
    from openvino import opset13 as op

    left = op.parameter([rows, inner], np.float32)
    weights = op.constant(np.ones((inner, columns), np.float32))
    a, b = left.output(0), weights.output(0)
    if quantised:
        low, high = (op.constant(np.float32(value)) for value in (-1, 1))
        a = op.fake_quantize(a, low, high, low, high, 256).output(0)
        b = op.fake_quantize(b, low, high, low, high, 255).output(0)
    model = ov.Model([op.matmul(a, b, False, False).output(0)], [left])
    settings = {"INFERENCE_PRECISION_HINT": products, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    inputs = [np.ones((rows, inner), np.float32)]
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


# By precision and library; ONNX Runtime has no BF16 products on a CPU. OpenVINO's INT8 takes and
# gives FP32, so quantising is in it.
PRODUCTS: Mapping[tuple[str, str], Callable[[int, int, int], Product]] = {
    ("FP32", "oneDNN"): lambda *shape: _onednn_float("float32", *shape),
    ("FP32", "ONNX Runtime"): _onnxruntime_fp32,
    ("FP32", "OpenVINO"): lambda *shape: _openvino("f32", *shape, quantised=False),
    ("BF16", "oneDNN"): lambda *shape: _onednn_float("bfloat16", *shape),
    ("BF16", "OpenVINO"): lambda *shape: _openvino("bf16", *shape, quantised=False),
    ("INT8", "oneDNN"): _onednn_int8,
    ("INT8", "ONNX Runtime"): _onnxruntime_int8,
    ("INT8", "OpenVINO"): lambda *shape: _openvino("f32", *shape, quantised=True),
}
_MODULES = {"oneDNN": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def gflops(precision: str, library: str) -> dict[str, float]:
    """The median over repeats, by shape."""
    found = {}
    for name, shape in SHAPES.items():
        product = PRODUCTS[precision, library](*shape)
        seconds = list(_timed(product))[2:]
        found[name] = 2 * int(np.prod(shape)) / median(seconds) / 1e9
    return found


def _timed(product: Product) -> Iterator[float]:
    for _ in range(REPEATS):
        start = time.perf_counter()
        product()
        yield time.perf_counter() - start


def measure(precisions: frozenset[str]) -> Ceilings:
    """Each of those that are installed, one process after the other."""
    found = {}
    for precision, library in PRODUCTS:
        if precision not in precisions or find_spec(_MODULES[library]) is None:
            continue
        command = [sys.executable, "-m", "tests.bench.ceilings", precision, library]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if process.returncode:  # a CPU without the type
            print(f"no {precision} in {library}: {_last(process.stderr)}", file=sys.stderr)
            continue
        found[f"{precision} {library}"] = json.loads(process.stdout.splitlines()[-1])
    return found


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it stopped"])[-1]


def medians(rounds: list[Ceilings]) -> Ceilings:
    """Over rounds, of each that was measured in any."""
    names = dict.fromkeys(name for found in rounds for name in found)
    return {
        name: {
            shape: median(found[name][shape] for found in rounds if name in found)
            for shape in SHAPES
        }
        for name in names
    }


def highest(ceilings: Ceilings, precision: str) -> tuple[str, float] | None:
    """The library that is fastest at the large product in a precision, and its GFLOP/s."""
    found = {n: c[LARGE] for n, c in ceilings.items() if n.startswith(f"{precision} ")}
    name = max(found, key=lambda n: found[n], default=None)
    return None if name is None else (name, found[name])


def main() -> None:
    print(json.dumps(gflops(*sys.argv[1:3])))


if __name__ == "__main__":
    main()
