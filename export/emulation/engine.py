"""An engine's graph, computed on a CPU as the engine's plan says it is compiled.

The graph gives operators, types, weights and scales; the plan gives what the compiler made of
quantised products and of attention. Everything else is computed as the graph has it, rounded to
its types. Which library kernel a GPU takes, and in which order it adds up, is not known to either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from export.emulation.attention import attention
from export.emulation.facts import FusedAttention, Numerics, numerics_of
from export.emulation.operators import TORCH_TYPES, along, evaluate, tensor_of
from export.emulation.products import PLAN_TYPES, Overflow, Quantised, quantised_product
from export.engines.plan import Plan
from export.graph.encoder import tensor_in
from export.graph.trace import stored_slots
from runtimes.arrays import Arrays
from runtimes.executors.base import RuntimeBase, while_open

Value = Tensor | Quantised
_AS_THE_GRAPH = FusedAttention(operands="", accumulator=None)  # not fused
_AS_BUILT = Numerics(products={}, attentions={})


class EmulatedEngine(RuntimeBase):
    """The graph of an engine, run with the numerics of ``plan``; None: with the graph's own.

    ``overflows`` counts, by the node's name, the sums that the type they are rounded to could not
    hold: those of quantised products, and the scores that attention adds up in Half.
    """

    name = "torch-cpu-emulated-engine"

    def __init__(self, graph: Path, plan: Plan | None) -> None:
        """Read the graph and its weights."""
        self.model = model = ir.from_proto(onnx.load(graph, load_external_data=False))
        self._nodes = list(model.graph)
        self._outputs = [value.name or "" for value in model.graph.outputs]
        self._weights = _weights(model, graph)
        self._last_use = _last_uses(self._nodes, keep={*self._outputs, *self._weights})
        self._numerics = _AS_BUILT if plan is None else numerics_of(plan)
        self.overflows: dict[str, Overflow] = {}

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once."""
        values: dict[str, Value] = dict(self._weights)
        values |= {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.inference_mode():
            for position, node in enumerate(self._nodes):
                operands = [None if v is None else values[v.name or ""] for v in node.inputs]
                results = self._evaluate(node, operands)
                values.update(
                    {v.name or "": r for v, r in zip(node.outputs, results, strict=False)}
                )
                for name in self._last_use.get(position, ()):
                    del values[name]
        return {name: _plain(values[name]).numpy() for name in self._outputs}

    @while_open
    def compute(
        self,
        nodes: Sequence[ir.Node],
        values: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> tuple[Tensor, ...]:
        """The ``wanted`` values of some of the graph's nodes, in the graph's order.

        ``values`` are those that the nodes take and none of them gives, weights aside.
        """
        found: dict[str, Value] = dict(values)
        with torch.inference_mode():
            for node in nodes:
                operands = [None if v is None else self._value(found, v) for v in node.inputs]
                results = self._evaluate(node, operands)
                found |= {v.name or "": r for v, r in zip(node.outputs, results, strict=False)}
        return tuple(_plain(found[name]) for name in wanted)

    def weight(self, name: str) -> Tensor | None:
        """An initializer as it is stored; None where the graph has none of that name."""
        value = self._weights.get(name)
        return value if isinstance(value, Tensor) else None

    def _value(self, found: Mapping[str, Value], value: ir.Value) -> Value:
        name = value.name or ""
        return found[name] if name in found else self._weights[name]

    def _evaluate(self, node: ir.Node, operands: Sequence[Value | None]) -> Sequence[Value]:
        if (special := self._SPECIAL.get(node.op_type)) is not None:
            result = special(self, node, operands)
            if result is not None:
                return (result,)
        return evaluate(node, [None if v is None else _plain(v) for v in operands])

    def _dequantise(self, node: ir.Node, operands: Sequence[Value | None]) -> Value | None:
        """Kept as it is stored: a product of the plan may multiply just that."""
        values, scale = operands[:2]
        if not isinstance(values, Tensor) or not isinstance(scale, Tensor):
            return None
        axis, block = (node.attributes.get_int(*of) for of in (("axis", 1), ("block_size", 0)))
        return Quantised(values=values, scale=along(scale, axis, values.ndim, block))

    def _matmul(self, node: ir.Node, operands: Sequence[Value | None]) -> Value | None:
        """A product of the plan's; None where the plan multiplies what the graph says."""
        facts = self._numerics.products.get(node.name or "")
        if facts is None:
            return None
        a, b = operands
        if not isinstance(a, Quantised) or not isinstance(b, Quantised):
            raise ValueError(
                f"{node.name}: the plan multiplies quantised numbers ({facts.kernel}), but the "
                "graph does not dequantise both operands; the plan belongs to another graph"
            )
        overflow = self.overflows.setdefault(node.name or "", Overflow())
        return quantised_product(a, b, facts, _type_of(node, b), overflow)

    def _attention(self, node: ir.Node, operands: Sequence[Value | None]) -> Value | None:
        q, k, v = (_plain(x) for x in operands[:3] if x is not None)
        mask = operands[3] if len(operands) > 3 else None
        heads = node.attributes.get_int("q_num_heads", 0)
        split = q.ndim == 3
        if split:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        keys = None if mask is None else _plain(mask).bool()
        kernel = self._numerics.attentions.get(node.name or "", _AS_THE_GRAPH)
        overflow = (
            self.overflows.setdefault(node.name or "", Overflow()) if kernel.departs else None
        )
        mixed = attention(q, k, v, keys, PLAN_TYPES.get(kernel.operands, q.dtype), overflow)
        return mixed.transpose(1, 2).flatten(-2) if split else mixed

    def _free(self) -> None:
        del self._weights

    def _gather(self, node: ir.Node, operands: Sequence[Value | None]) -> Value | None:
        """Rows of a quantised table; None for any other."""
        table, ids = operands[:2]
        if not isinstance(table, Quantised) or not isinstance(ids, Tensor):
            return None
        return Quantised(values=table.values[ids], scale=table.scale[ids])

    _SPECIAL: Mapping[str, Callable[..., Value | None]] = {
        "Attention": _attention,
        "DequantizeLinear": _dequantise,
        "Gather": _gather,
        "MatMul": _matmul,
    }


def _weights(model: ir.Model, graph: Path) -> dict[str, Value]:
    """Every initializer; those beside the graph are mapped."""
    weights: dict[str, Value] = {}
    for slot in stored_slots(graph):
        raw = np.memmap(graph.parent / slot.file, np.uint8, "c", slot.offset, (slot.nbytes,))
        weights[slot.name] = tensor_in(raw, slot)
    for name, value in model.graph.initializers.items():
        if name not in weights and value.const_value is not None:
            weights[name] = tensor_of(value.const_value)
    return weights


def _plain(value: Value) -> Tensor:
    return value.dequantised() if isinstance(value, Quantised) else value


def _type_of(node: ir.Node, operand: Quantised) -> torch.dtype:
    """What the graph gives a product: its output's type, or that of its operand's scale."""
    dtype = node.outputs[0].dtype
    return operand.scale.dtype if dtype is None else TORCH_TYPES[dtype]


def _last_uses(nodes: Sequence[ir.Node], keep: set[str]) -> Mapping[int, list[str]]:
    """After which node which values are used no more."""
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name and value.name not in keep:
                last[value.name] = position
    uses: dict[int, list[str]] = {}
    for name, position in last.items():
        uses.setdefault(position, []).append(name)
    return uses
