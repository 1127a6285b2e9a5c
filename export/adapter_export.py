"""``adaptrt adapter``: a PEFT folder becomes a file that fills a bundle's slot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from export.adapters import Bank, adapter_rank
from export.config import EncoderConfig
from export.modules import adaptable_modules
from export.peft_adapter import read_peft_adapter
from export.spec import Precision
from runtimes.adapter_file import SUFFIX, check_adapter, model_version, slot_shapes
from runtimes.errors import AdaptrtError, InputError, shown
from runtimes.manifest import read_manifest


def write_adapter(peft: Path, bundle: Path, out: Path) -> None:
    """Write ``out`` for ``bundle``'s slot; narrower adapters are padded with zeros.

    Raises :class:`InputError` for an adapter that is wider than the slot or belongs to a model of
    another shape. The file appears only once it is complete and was read back.
    """
    from onnxruntime import AdapterFormat, OrtValue

    manifest = read_manifest(bundle)
    shapes = slot_shapes(manifest)
    if out.suffix != SUFFIX:
        raise InputError(f"--out: got {out}, expected a name that ends in {SUFFIX}")
    config = EncoderConfig(**manifest.architecture)
    adapter = read_peft_adapter(peft, out.stem, config)
    rank = shapes[next(iter(shapes))][1]
    if (needed := adapter_rank(adapter)) > rank:
        raise InputError(
            f"{peft}: the adapter needs rank {needed}, the bundle's slot has {rank}; "
            f"build the bundle with RANK={needed} (split q, k, v add up unless they share A)"
        )
    bank = Bank((adapter,), rank)
    modules = adaptable_modules(config)
    dtype = np.dtype(Precision(manifest.precision).dtype)
    values = {}
    for name in shapes:
        owner, _, side = name.rpartition(".")
        module = modules[owner]
        down = side == "lora_down"
        value = bank.down(owner, module.rows) if down else bank.up(owner, module.columns)
        # The token type's row is FP32 in every precision.
        exact = np.dtype(np.float32) if "token_type" in owner else dtype
        values[name] = OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.astype(exact)))
    file = AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(model_version(manifest))
    file.set_parameters(values)
    staged = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        _export(file, staged)
        check_adapter(staged, manifest)
        staged.replace(out)
    finally:
        staged.unlink(missing_ok=True)


def _export(file: Any, path: Path) -> None:
    try:
        file.export_adapter(str(path.absolute()))
    except RuntimeError as error:  # ONNX Runtime says no more of a full disk or a missing folder
        raise AdaptrtError(
            f"--out: cannot write into {shown(str(path.absolute().parent))}; check that the folder "
            "is there, may be written and has space"
        ) from error
