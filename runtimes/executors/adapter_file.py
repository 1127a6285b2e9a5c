"""Adapter files for a bundle with a slot (ONNX Runtime's AdapterFormat)."""

from __future__ import annotations

from pathlib import Path

from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest

SUFFIX = ".onnx_adapter"


def model_version(manifest: Manifest) -> int:
    """The format holds an integer for the model: 31 bits of the checkpoint's SHA-256."""
    return int(manifest.model.sha256[:8], 16) & 0x7FFFFFFF


def slot_shapes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Every slot tensor's name and shape: ``lora_down [rows, rank]``, ``lora_up [rank, columns]``.

    Raises :class:`InputError` for a bundle without a slot.
    """
    rank = manifest.slot_rank
    if rank is None:
        raise InputError(
            f"the bundle ({manifest.adapter}) has no slot for an adapter; build one with "
            "`make engine ADAPTER=slot TARGET=onnxruntime`"
        )
    a = manifest.architecture
    hidden, wide = a.hidden, a.intermediate
    dimensions = {"embeddings.word_embeddings": (a.vocab, hidden)}
    if a.token_types:
        dimensions["embeddings.token_type_embeddings"] = (a.token_types, hidden)
    for layer in range(a.layers):
        prefix = f"encoder.layers.{layer}."
        dimensions[prefix + "mixer.Wqkv"] = (hidden, 3 * hidden)
        dimensions[prefix + "mixer.out_proj"] = (hidden, hidden)
        dimensions[prefix + "mlp.fc1"] = (hidden, wide)
        dimensions[prefix + "mlp.fc2"] = (wide, hidden)
    shapes = {}
    for name, (rows, columns) in dimensions.items():
        shapes[f"{name}.lora_down"] = (rows, rank)
        shapes[f"{name}.lora_up"] = (rank, columns)
    return shapes


def check_adapter(path: Path, manifest: Manifest) -> Path:
    """Refuse a file that was made for another model or rank, or lacks tensors."""
    from onnxruntime import AdapterFormat

    shapes = slot_shapes(manifest)
    if not path.is_file():
        raise InputError(f"{path}: no such adapter file; `adaptrt adapter` writes one")
    try:
        adapter = AdapterFormat.read_adapter(str(path))
        stored = {name: tuple(v.shape()) for name, v in adapter.get_parameters().items()}
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX Runtime adapter file ({error})") from error
    if adapter.get_model_version() != model_version(manifest):
        raise InputError(
            f"{path}: made for another model than {shown(manifest.model.name)} "
            f"({manifest.model.sha256[:12]}); make it again with this bundle"
        )
    if missing := sorted(set(shapes) - set(stored)):
        raise InputError(f"{path}: tensor {missing[0]} is missing ({len(missing)} in all)")
    for name, shape in shapes.items():
        if stored[name] != shape:
            raise InputError(
                f"{path}: {name} has shape {list(stored[name])}, expected {list(shape)}; "
                "it was made for a slot of another rank"
            )
    return path
