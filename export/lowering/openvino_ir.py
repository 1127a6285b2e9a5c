"""The portable graph in OpenVINO's own format (IR), its weights in the file that the bundle has.

OpenVINO's reader of ONNX makes of each Attention a ScaledDotProductAttention under the whole mask,
``[batch, 1, sequence, sequence]``, and a guard against rows without any key. Neither is wanted: a
row of the mask serves all queries, and every text has a token. At 8192 tokens a call of
six layers takes 0.16 GB less without them (1024 wide, BF16: 0.37 for 0.53).

IR is an XML file with one line per constant, which says where in a second file its bytes begin.
OpenVINO's writer makes that second file anew; here the lines are pointed into the bundle's own
weight file, which thus serves ONNX Runtime and OpenVINO. The few bytes that only IR has, shapes
and axes, are put at its end, where no ONNX graph looks.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from export.graph.weights import Slot
from runtimes.errors import AdaptrtError
from runtimes.files import link_or_copy

if TYPE_CHECKING:
    import openvino as ov

# Added to the score of a padding token: exp of it is 0 in FP32 and BF16, and no NaN comes of it
# as of infinity.
_MASKED = -1e9
_ALIGNMENT = 64  # bytes


def write_ir(graph: Path, slots: Iterable[Slot], weights: Path, xml: Path, binary: Path) -> None:
    """Write the IR of a portable ``graph``, whose ``weights`` lie beside it; both get a tail.

    ``binary`` becomes another name of ``weights``.
    """
    import openvino as ov

    model = ov.Core().read_model(graph)
    _mask_by_key(model)
    xml.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=xml.parent) as scratch:
        written = Path(scratch, xml.name)
        ov.save_model(model, written, compress_to_fp16=False)
        del model  # it maps the weights
        tree = ElementTree.parse(written)
        _point_into(tree, written.with_suffix(".bin"), slots, weights)
    tree.write(xml, encoding="utf-8", xml_declaration=True)
    binary.unlink(missing_ok=True)
    link_or_copy(weights, binary)


def _mask_by_key(model: ov.Model) -> None:
    """Every attention under one bias ``[batch, 1, 1, sequence]``, and without its guard."""
    import openvino as ov
    from openvino import opset13 as op

    (mask,) = (p for p in model.inputs if p.get_any_name() == "attention_mask")
    present = op.convert(mask, "boolean").output(0)
    for axis in (1, 1):
        present = op.unsqueeze(present, op.constant(axis, ov.Type.i64)).output(0)
    bias = op.select(present, op.constant(0.0, ov.Type.f32), op.constant(_MASKED, ov.Type.f32))
    for attention, guard in _guarded(model):
        query, key, value, _, *scale = attention.input_values()
        kind = query.get_element_type()
        masked = bias if kind.get_type_name() == "f32" else op.convert(bias, kind.get_type_name())
        plain = op.scaled_dot_product_attention(query, key, value, masked, *scale)
        guard.output(0).replace(plain.output(0))
    model.validate_nodes_and_infer_types()


def _guarded(model: ov.Model) -> list[tuple[Any, Any]]:
    """Each attention and the Select that replaces its NaN by 0."""
    found, attentions = [], 0
    for node in model.get_ops():
        attentions += node.get_type_name() == "ScaledDotProductAttention"
        if node.get_type_name() == "Select":
            attention = node.input_value(2).get_node()
            if attention.get_type_name() == "ScaledDotProductAttention":
                found.append((attention, node))
    if not found or len(found) != attentions:
        raise AdaptrtError(
            f"OpenVINO read {attentions} attentions, {len(found)} of them in the expected form; "
            "use the OpenVINO that the project names"
        )
    return found


def _point_into(
    tree: ElementTree.ElementTree[Any], binary: Path, slots: Iterable[Slot], weights: Path
) -> None:
    """Change every constant's place from one in ``binary`` to one in ``weights``."""
    with _mapped(weights) as whole:
        places = {
            _digest(whole, slot.offset, slot.nbytes): slot.offset for slot in slots if slot.nbytes
        }
    with _mapped(binary) as source, weights.open("ab") as tail:
        for data in _constants(tree):
            start, size = int(data.attrib["offset"]), int(data.attrib["size"])
            digest = _digest(source, start, size)
            if digest not in places:
                tail.write(bytes(-tail.tell() % _ALIGNMENT))
                places[digest] = tail.tell()
                tail.write(source[start : start + size])
            data.attrib["offset"] = str(places[digest])


def _constants(tree: ElementTree.ElementTree[Any]) -> Iterator[ElementTree.Element]:
    for layer in tree.iter("layer"):
        if layer.attrib["type"] == "Const" and (data := layer.find("data")) is not None:
            yield data


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _digest(file: mmap.mmap, start: int, size: int) -> bytes:
    with memoryview(file) as view, view[start : start + size] as part:
        return hashlib.blake2b(part, digest_size=32).digest()
