"""``adaptrt adapter``: a PEFT folder becomes a file that fills a bundle's slot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.families import family_of
from export.checkpoint.lora import Bank, Matrix, adapter_rank
from export.checkpoint.names import TOKEN_TYPE, adaptable_modules
from export.checkpoint.peft_folder import read_peft_adapter
from export.checkpoint.source import SAMPLE_NAME
from export.spec import MAX_RANK, Limits
from runtimes.errors import AdaptrtError, InputError, one_line, shown
from runtimes.executors.adapter_file import SUFFIX, check_adapter, model_version, slot_shapes
from runtimes.files import replacing, require_file_place
from runtimes.manifest import Manifest, read_manifest
from runtimes.schemes import SCHEMES


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
    require_file_place(out)
    if not out.parent.is_dir():
        raise InputError(f"--out: {shown(str(out.parent))}: no such folder; make it first")
    family = family_of(manifest.model.format)
    config = EncoderConfig.of(manifest.architecture, pooler=family.pooler)
    adapter = read_peft_adapter(peft, out.stem, family, config)
    rank = shapes[next(iter(shapes))][1]
    if (needed := adapter_rank(adapter)) > rank:
        raise InputError(
            f"{peft}: the adapter needs rank {needed}, the bundle's slot has {rank} "
            f"(q, k, v of different A add up); {remedy(manifest, needed)}"
        )
    bank = Bank((adapter,), rank)
    modules = adaptable_modules(config)
    dtype = np.dtype(SCHEMES[manifest.precision].dtype_for(manifest.target.name))
    values = {}
    for name in shapes:
        owner, _, side = name.rpartition(".")
        module = modules[owner]
        down = side == "lora_down"
        value = bank.down(owner, module.rows) if down else bank.up(owner, module.columns)
        # The token type's row is FP32 in every precision.
        exact = np.dtype(np.float32) if owner == TOKEN_TYPE else dtype
        values[name] = OrtValue.ortvalue_from_numpy(_cast(value, exact, f"{peft}: {name}"))
    file = AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(model_version(manifest))
    file.set_parameters(values)
    with replacing(out) as staged:
        _export(file, staged)
        check_adapter(staged, manifest)


def _export(file: Any, path: Path) -> None:
    try:
        file.export_adapter(str(path.absolute()))
    except RuntimeError as error:  # ONNX Runtime says no more of a full disk
        raise AdaptrtError(
            f"--out: cannot write into {shown(str(path.absolute().parent))}; check that the folder "
            "may be written and has space"
        ) from error


def _cast(value: Matrix, dtype: np.dtype[np.generic], source: str) -> NDArray[np.generic]:
    with np.errstate(over="ignore", under="ignore"):
        cast = np.ascontiguousarray(value.astype(dtype))
    if not np.isfinite(cast).all():
        raise InputError(
            f"{source} holds values above 65504, which do not fit in FP16; build the bundle with "
            "PRECISION=fp32"
        )
    return cast


def remedy(manifest: Manifest, rank: int) -> str:
    """The command that builds this bundle again with a slot of some rank."""
    if rank > MAX_RANK:
        return f"slots have at most {MAX_RANK}: build it in with ADAPTER_PATH instead"
    variables: dict[str, object] = {
        "ADAPTER": "slot",
        "RANK": rank,
        "TASK": manifest.task,
        "PRECISION": manifest.precision,
        "TARGET": manifest.target.name,
    }
    usual = Limits()
    if manifest.max_batch != usual.max_batch:
        variables["MAX_BATCH"] = manifest.max_batch
    if manifest.max_tokens != usual.max_tokens:
        variables["MAX_TOKENS"] = manifest.max_tokens
    if revision := manifest.model.revision:
        variables["REVISION"] = revision
    command = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in variables.items())
    name = manifest.model.name
    model = "" if name == SAMPLE_NAME else f" with the MODEL it was made from ({shown(name)})"
    return f"build one with `make engine {one_line(command)}`{model}"
