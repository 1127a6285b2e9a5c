"""ONNX operators on PyTorch tensors, each result rounded to the type that the graph gives it.

PyTorch computes element-wise operators of FP16 and BF16 in FP32 and rounds once per operator,
which is what a strongly typed network says. Products widen their operands and sum in FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

Operands = Sequence[Tensor | None]
Operator = Callable[[ir.Node, Operands], Tensor | Sequence[Tensor]]

TORCH_TYPES: Mapping[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
}


def tensor_of(value: ir.TensorProtocol) -> Tensor:
    """A stored tensor; the types that NumPy lacks come as their bits."""
    array = value.numpy()
    dtype = TORCH_TYPES[value.dtype]
    if dtype in (torch.bfloat16, torch.float8_e4m3fn):
        bits = {1: "uint8", 2: "int16"}[array.itemsize]
        return torch.from_numpy(array.view(bits).copy()).view(dtype)
    return torch.from_numpy(array.copy())


def evaluate(node: ir.Node, operands: Operands) -> Sequence[Tensor]:
    """A node's outputs; :class:`ValueError` for an operator that is not known here."""
    if (operator := OPERATORS.get(node.op_type)) is None or node.domain:
        raise ValueError(
            f"{node.name}: the emulation of an engine knows no operator {node.op_type}; add it to "
            "export/emulation/operators.py"
        )
    result = operator(node, operands)
    return (result,) if isinstance(result, Tensor) else result


def quantise(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``values / scale`` in ``dtype``, ties to even, saturated.

    NaN becomes the largest value, as ``min`` of a number and NaN does on a GPU.
    """
    steps = values.float() / scale.float()
    if dtype is torch.int8:
        return steps.nan_to_num(127, 127, -128).round_().clamp_(-128, 127).to(dtype)
    limit = torch.finfo(dtype).max
    return steps.nan_to_num(limit, limit, -limit).clamp_(-limit, limit).to(dtype)


def along(scale: Tensor, axis: int, rank: int, block: int = 0) -> Tensor:
    """One scale per index of ``axis``, shaped so that it broadcasts over ``rank`` axes.

    With a ``block`` each scale is that of so many numbers in a row along ``axis``.
    """
    if block:
        return scale.repeat_interleave(block, axis)
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def widened_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of any floating type, summed in FP32 and not yet rounded."""
    return torch.matmul(a.float(), b.float())


def _required(operands: Operands, index: int) -> Tensor:
    value = operands[index] if index < len(operands) else None
    if value is None:
        raise ValueError(f"operand {index} is missing")
    return value


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    return lambda node, operands: function(*(value for value in operands if value is not None))


def _ints(operands: Operands, index: int, default: Sequence[int] | None = None) -> list[int] | None:
    """The integers of an operand that says shapes or axes."""
    value = operands[index] if index < len(operands) else None
    if value is None:
        return None if default is None else list(default)
    return [int(n) for n in value.reshape(-1).tolist()]


def _cast(node: ir.Node, operands: Operands) -> Tensor:
    return _required(operands, 0).to(TORCH_TYPES[ir.DataType(node.attributes.get_int("to", 0))])


def _matmul(node: ir.Node, operands: Operands) -> Tensor:
    a, b = _required(operands, 0), _required(operands, 1)
    return widened_product(a, b).to(a.dtype)


def _clip(_: ir.Node, operands: Operands) -> Tensor:
    least, most = (*operands, None, None)[1:3]
    return torch.clamp(_required(operands, 0), least, most)


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _quantise(node: ir.Node, operands: Operands) -> Tensor:
    x, scale = _required(operands, 0), _required(operands, 1)
    scale = along(scale, node.attributes.get_int("axis", 1), x.ndim)
    zero = operands[2] if len(operands) > 2 else None
    if zero is not None:
        return quantise(x, scale, zero.dtype)
    return quantise(x, scale, TORCH_TYPES[ir.DataType(node.attributes.get_int("output_dtype", 3))])


def _dequantise(node: ir.Node, operands: Operands) -> Tensor:
    x, scale = _required(operands, 0), _required(operands, 1)
    block = node.attributes.get_int("block_size", 0)
    scale = along(scale, node.attributes.get_int("axis", 1), x.ndim, block)
    return (x.float() * scale.float()).to(scale.dtype)


def _layer_norm(node: ir.Node, operands: Operands) -> Tensor:
    x, weight = _required(operands, 0), _required(operands, 1)
    bias = operands[2] if len(operands) > 2 else None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    axis = node.attributes.get_int("axis", -1)
    normed = torch.nn.functional.layer_norm(
        x.float(),
        list(x.shape[axis:]),
        weight.float(),
        None if bias is None else bias.float(),
        epsilon,
    )
    return normed.to(x.dtype)


def _gelu(node: ir.Node, operands: Operands) -> Tensor:
    x = _required(operands, 0)
    approximate = node.attributes.get_string("approximate", "none")
    return torch.nn.functional.gelu(x.float(), approximate=approximate).to(x.dtype)


def _rotary(node: ir.Node, operands: Operands) -> Tensor:
    """Halves rotated against each other, ``[batch, sequence, heads · d]`` or four axes."""
    x, cos, sin = (_required(operands, i) for i in range(3))
    positions = operands[3] if len(operands) > 3 else None
    if positions is not None:
        cos, sin = cos[positions], sin[positions]  # [batch, sequence, d / 2]
    if x.ndim == 3:
        heads = node.attributes.get_int("num_heads", 1)
        parts = x.reshape(*x.shape[:-1], heads, -1)
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    else:
        parts, cos, sin = x, cos.unsqueeze(1), sin.unsqueeze(1)
    if node.attributes.get_int("interleaved", 0) or parts.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"{node.name}: a form of RotaryEmbedding that is not known here")
    a, b = parts.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).reshape(x.shape)


def _shape(node: ir.Node, operands: Operands) -> Tensor:
    sizes = list(_required(operands, 0).shape)
    start = node.attributes.get_int("start", 0)
    return torch.tensor(sizes[start : node.attributes.get_int("end", len(sizes))])


def _gather(node: ir.Node, operands: Operands) -> Tensor:
    table, indices = _required(operands, 0), _required(operands, 1)
    axis = node.attributes.get_int("axis", 0) % table.ndim
    rows = table.index_select(axis, indices.reshape(-1))
    return rows.reshape(*table.shape[:axis], *indices.shape, *table.shape[axis + 1 :])


def _unsqueeze(_: ir.Node, operands: Operands) -> Tensor:
    x, axes = _required(operands, 0), _ints(operands, 1, ()) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(_: ir.Node, operands: Operands) -> Tensor:
    x, axes = _required(operands, 0), _ints(operands, 1)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _reshape(_: ir.Node, operands: Operands) -> Tensor:
    x, shape = _required(operands, 0), _ints(operands, 1, ()) or []
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _expand(_: ir.Node, operands: Operands) -> Tensor:
    x, shape = _required(operands, 0), _ints(operands, 1, ()) or []
    return (
        x * torch.ones(shape, dtype=x.dtype)
        if x.dtype is not torch.bool
        else x | torch.zeros(shape, dtype=x.dtype)
    )


def _transpose(node: ir.Node, operands: Operands) -> Tensor:
    x = _required(operands, 0)
    return x.permute(*node.attributes.get_ints("perm", tuple(reversed(range(x.ndim)))))


def _slice(_: ir.Node, operands: Operands) -> Tensor:
    x = _required(operands, 0)
    starts, ends = _ints(operands, 1, ()) or [], _ints(operands, 2, ()) or []
    axes = _ints(operands, 3, range(len(starts))) or []
    steps = _ints(operands, 4, [1] * len(starts)) or []
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _split(node: ir.Node, operands: Operands) -> Sequence[Tensor]:
    x, axis = _required(operands, 0), node.attributes.get_int("axis", 0)
    sizes = _ints(operands, 1)
    return x.chunk(len(node.outputs), axis) if sizes is None else torch.split(x, sizes, axis)


def _concat(node: ir.Node, operands: Operands) -> Tensor:
    return torch.cat([v for v in operands if v is not None], node.attributes.get_int("axis", 0))


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduce(node: ir.Node, operands: Operands) -> Tensor:
        x, axes = _required(operands, 0), _ints(operands, 1)
        kept = bool(node.attributes.get_int("keepdims", 1))
        dims = tuple(range(x.ndim)) if axes is None else tuple(axes)
        return function(x.float() if x.is_floating_point() else x, dims, kept).to(x.dtype)

    return reduce


def _range(_: ir.Node, operands: Operands) -> Tensor:
    start, limit, step = (_required(operands, i) for i in range(3))
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


OPERATORS: Mapping[str, Operator] = {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "And": _elementwise(torch.logical_and),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "DequantizeLinear": _dequantise,
    "Div": _elementwise(_div),
    "Equal": _elementwise(torch.eq),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": _gelu,
    "Greater": _elementwise(torch.gt),
    "Identity": _elementwise(torch.clone),
    "LayerNormalization": _layer_norm,
    "Less": _elementwise(torch.lt),
    "MatMul": _matmul,
    "Max": _elementwise(torch.maximum),
    "Min": _elementwise(torch.minimum),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Not": _elementwise(torch.logical_not),
    "Or": _elementwise(torch.logical_or),
    "QuantizeLinear": _quantise,
    "Range": _range,
    "ReduceL2": _reduce(lambda x, dims, kept: torch.linalg.vector_norm(x, 2, dims, kept)),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(torch.where),
}
