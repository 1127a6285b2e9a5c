"""ONNX graphs changed by what is in them: nodes, attributes, types, and where weights lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from tests.torture.mutations.edits import some

_NUMBERS = (0, 1, -1, 2, 3, 1000, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63))
_NAMES = ("", "x", "../../x", "/etc/passwd", "\n", "é", "a" * 70_000, "input_ids")
_PLACES = (
    *("../../x", "/etc/passwd", "/dev/zero", "", ".", "..", "model.onnx", "onnx/model.onnx_data"),
    *(
        "./model.onnx_data",
        "../onnx/model.onnx_data",
        "model.onnx_data\0x",
        "/proc/self/mem",
        "a/b",
    ),
)
_OPERATORS = (
    *("Add", "MatMul", "Reshape", "Loop", "If", "Scan", "Identity", "Cast", "Gather", "Softmax"),
    *("Attention", "RotaryEmbedding", "Nothing", "Expand", "ConstantOfShape", "Range", "Tile"),
)
_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "nobody", "com.microsoft.nchwc")
_GREAT = 2**40  # a tensor of so many numbers fits no memory


def edit_graph(rng: Random, raw: bytes) -> tuple[bytes, str]:
    """The same model with some changes that its own library does not look at."""
    model = onnx.ModelProto.FromString(raw)
    said = []
    for _ in range(some(rng)):
        name = rng.choice(sorted(_EDITS))
        # A graph that was made too deep before cannot be copied: what an edit did until then stays.
        with suppress(DecodeError):
            _EDITS[name](rng, model)
        said.append(name)
    return model.SerializeToString(), ", ".join(said)


def _node(rng: Random, graph: GraphProto) -> NodeProto:
    node: NodeProto = rng.choice(graph.node or [graph.node.add(op_type="Identity")])
    return node


def _names(graph: GraphProto) -> list[str]:
    """Every name that a value has, and some that none has."""
    made = [name for node in graph.node for name in node.output]
    return [*made, *(tensor.name for tensor in graph.initializer), *_NAMES]


def _operator(rng: Random, model: ModelProto) -> None:
    _node(rng, model.graph).op_type = rng.choice((*_OPERATORS, *_NAMES))


def _domain(rng: Random, model: ModelProto) -> None:
    _node(rng, model.graph).domain = rng.choice(_DOMAINS)


def _input(rng: Random, model: ModelProto) -> None:
    """A name that nothing has, or one that comes later: a circle."""
    node = _node(rng, model.graph)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model.graph))


def _more_inputs(rng: Random, model: ModelProto) -> None:
    _node(rng, model.graph).input.extend(
        rng.choice(_names(model.graph)) for _ in range(rng.choice((1, 2, 300)))
    )


def _output(rng: Random, model: ModelProto) -> None:
    node = _node(rng, model.graph)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(model.graph))


def _drop_node(rng: Random, model: ModelProto) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _copy_node(rng: Random, model: ModelProto) -> None:
    model.graph.node.append(_node(rng, model.graph))


def _order(rng: Random, model: ModelProto) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attribute(rng: Random, model: ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = rng.choice(rng.choice(nodes).attribute)
    match rng.choice(("number", "list", "type", "name", "text")):
        case "number":
            attribute.i, attribute.f = rng.choice(_NUMBERS), rng.choice((0.0, -1.0, 1e30, 1e-30))
        case "list":
            attribute.ints[:] = [rng.choice(_NUMBERS) for _ in range(rng.randrange(5))]
        case "type":
            attribute.type = rng.choice(AttributeProto.AttributeType.values())
        case "name":
            attribute.name = rng.choice(("axis", "perm", "num_heads", "x", ""))
        case "text":
            attribute.s = rng.choice((b"", b"\xff\xfe", b"TANH", b"a" * 100_000))


def _more_attributes(rng: Random, model: ModelProto) -> None:
    made = onnx.helper.make_attribute(
        rng.choice(("axis", "to", "num_heads", "epsilon", "interleaved", "transA", "x")),
        rng.choice((*_NUMBERS[:8], 0.5, b"x", [1, 2, 3])),
    )
    _node(rng, model.graph).attribute.append(made)


def _tensor(rng: Random, model: ModelProto) -> TensorProto:
    held = model.graph.initializer
    tensor: TensorProto = rng.choice(held or [held.add(name="x")])
    return tensor


def _outside(rng: Random, model: ModelProto) -> TensorProto:
    """One whose numbers lie in the file of weights."""
    tensors = [t for t in model.graph.initializer if t.external_data]
    return rng.choice(tensors) if tensors else _tensor(rng, model)


def _shape(rng: Random, model: ModelProto) -> None:
    tensor = _tensor(rng, model)
    tensor.dims[:] = rng.choice(
        (
            list(tensor.dims)[::-1],
            [],
            [0],
            [-1],
            [_GREAT],
            [_GREAT, _GREAT],
            [*tensor.dims, 1],
            [1] * 50,
            [int(rng.choice(_NUMBERS)), 2],
        )
    )


def _type(rng: Random, model: ModelProto) -> None:
    _tensor(rng, model).data_type = rng.choice((*range(26), 99, -1, 2**31 - 1))


def _weights_place(rng: Random, model: ModelProto) -> None:
    _set_external(rng, model, "location", rng.choice(_PLACES))


def _weights_offset(rng: Random, model: ModelProto) -> None:
    _set_external(rng, model, "offset", str(rng.choice((*_NUMBERS, 1, 3, "x", "", "1e9"))))


def _weights_length(rng: Random, model: ModelProto) -> None:
    _set_external(rng, model, "length", str(rng.choice((*_NUMBERS, 3, "x", "", "0x10"))))


def _set_external(rng: Random, model: ModelProto, key: str, value: str) -> None:
    tensor = _outside(rng, model)
    tensor.data_location = TensorProto.EXTERNAL
    entries = [entry for entry in tensor.external_data if entry.key == key]
    entry = entries[0] if entries else tensor.external_data.add(key=key)
    entry.value = value


def _weights_inside(rng: Random, model: ModelProto) -> None:
    """Numbers that ought to be outside are said to be here, and are not."""
    tensor = _outside(rng, model)
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = rng.randbytes(rng.choice((0, 1, 7, 64)))


def _weights_swapped(rng: Random, model: ModelProto) -> None:
    """Two tensors of one shape change places: a graph that is whole, of another model."""
    first, second = _outside(rng, model), _outside(rng, model)
    held = [[(e.key, e.value) for e in tensor.external_data] for tensor in (first, second)]
    for tensor, entries in zip((second, first), held, strict=True):
        del tensor.external_data[:]
        for key, value in entries:
            tensor.external_data.add(key=key, value=value)


def _drop_tensor(rng: Random, model: ModelProto) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def _interface(rng: Random, model: ModelProto) -> None:
    values = rng.choice((model.graph.input, model.graph.output))
    match rng.choice(("name", "gone", "copy", "type", "shape")):
        case "name" if values:
            rng.choice(values).name = rng.choice(_names(model.graph))
        case "gone" if values:
            del values[rng.randrange(len(values))]
        case "copy" if values:
            values.add().CopyFrom(rng.choice(values))
        case "type" if values:
            rng.choice(values).type.tensor_type.elem_type = rng.choice((0, 1, 6, 7, 8, 10, 16, 99))
        case "shape" if values:
            shape = rng.choice(values).type.tensor_type.shape
            shape.dim.add(dim_value=rng.choice(_NUMBERS))


def _versions(rng: Random, model: ModelProto) -> None:
    model.ir_version = rng.choice((0, 1, 3, 8, 10, 99, -1, 2**62))
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 7, 18, 23, 99, -1, 2**62))


def _no_opset(rng: Random, model: ModelProto) -> None:
    del model.opset_import[rng.randrange(len(model.opset_import) or 1) :]


def _metadata(rng: Random, model: ModelProto) -> None:
    for entry in model.metadata_props:
        entry.value = rng.choice(_NAMES)
    model.metadata_props.add(key=rng.choice(_NAMES), value=rng.choice(_NAMES))


def _function(rng: Random, model: ModelProto) -> None:
    """A function that calls itself."""
    name = _node(rng, model.graph).op_type
    made = model.functions.add(name=name, domain=rng.choice(_DOMAINS))
    made.input.append("a")
    made.output.append("b")
    made.node.add(op_type=name, input=["a"], output=["b"], domain=made.domain)


def _subgraph(rng: Random, model: ModelProto) -> None:
    """A graph in a node of the graph, and so on."""
    node = model.graph.node.add(op_type="If", input=["x"], output=["nested"])
    for _ in range(rng.choice((1, 5, 90))):
        attribute = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
        node = attribute.g.node.add(op_type="If", input=["x"], output=["y"])


_EDITS: dict[str, Callable[[Random, ModelProto], None]] = {
    "another operator": _operator,
    "another domain": _domain,
    "another input": _input,
    "more inputs": _more_inputs,
    "another output": _output,
    "a node less": _drop_node,
    "a node twice": _copy_node,
    "another order": _order,
    "another attribute": _attribute,
    "more attributes": _more_attributes,
    "another shape": _shape,
    "another type": _type,
    "weights of another file": _weights_place,
    "weights at another place": _weights_offset,
    "weights of another length": _weights_length,
    "weights that are not there": _weights_inside,
    "weights swapped": _weights_swapped,
    "a tensor less": _drop_tensor,
    "another interface": _interface,
    "other versions": _versions,
    "no opset": _no_opset,
    "other metadata": _metadata,
    "a function of itself": _function,
    "nested graphs": _subgraph,
}
