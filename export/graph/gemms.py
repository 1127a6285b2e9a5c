"""The matrix products that a scheme quantises: the four of each layer, by their modules' names.

Embeddings are gathers, the low-rank path of an adapter is 1 % of the work, and attention's two
products take activations on both sides, so these four are all there is to quantise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.names import Module, adaptable_modules, is_gemm
from export.graph.rewrite import nodes


def gemm_modules(config: EncoderConfig) -> dict[str, Module]:
    """Every GEMM's module in the order of computation; ``rows`` is K, ``columns`` N."""
    return {n: m for n, m in adaptable_modules(config).items() if is_gemm(n)}


def gemm_nodes(model: ir.Model) -> dict[str, ir.Node]:
    """Every GEMM's MatMul in a graph whose weights carry canonical names, in graph order.

    The weight may be widened, dequantised and transposed on its way to the product.
    """
    gemms = {}
    for node in nodes(model, "MatMul"):
        if (name := _weight_of(node)) is not None:
            gemms[name] = node
    return gemms


def work(gemms: Mapping[str, Module], names: Collection[str]) -> float:
    """The share of all GEMMs' multiplications that the named ones have."""
    total = sum(m.rows * m.columns for m in gemms.values())
    return sum(gemms[n].rows * gemms[n].columns for n in names) / total


def _weight_of(node: ir.Node) -> str | None:
    value = node.inputs[1]
    while value is not None and (source := value.producer()) is not None:
        if source.op_type not in ("Cast", "DequantizeLinear", "Transpose"):
            return None
        value = source.inputs[0]
    if value is None or value.name is None:
        return None
    owner, _, part = value.name.rpartition(".")
    return owner if part == "weight" and is_gemm(owner) else None
