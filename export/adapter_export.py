"""``adaptrt adapter``: a PEFT folder becomes a file that fills a bundle's slot."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.adapters import Bank, Matrix, adapter_rank
from export.config import EncoderConfig
from export.modules import adaptable_modules
from export.peft_adapter import read_peft_adapter
from export.source import SAMPLE_NAME
from export.spec import MAX_RANK, Limits, Precision
from runtimes.adapter_file import SUFFIX, check_adapter, model_version, slot_shapes
from runtimes.errors import InputError, one_line, shown
from runtimes.manifest import Manifest, read_manifest


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
            f"{peft}: the adapter needs rank {needed}, the bundle's slot has {rank} "
            f"(q, k, v of different A add up); {remedy(manifest, needed)}"
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
        values[name] = OrtValue.ortvalue_from_numpy(_cast(value, exact, f"{peft}: {name}"))
    file = AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(model_version(manifest))
    file.set_parameters(values)
    staged = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        file.export_adapter(str(staged.absolute()))
        check_adapter(staged, manifest)
        staged.replace(out)
    except (OSError, RuntimeError) as error:  # the latter is ONNX Runtime's
        reason = one_line(str(error).strip())[-200:]
        raise InputError(
            f"--out: cannot write {out} ({reason}); name a file that can be"
        ) from error
    finally:
        staged.unlink(missing_ok=True)


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
        "TARGET": manifest.target["name"],
    }
    usual = Limits()
    if manifest.max_batch != usual.max_batch:
        variables["MAX_BATCH"] = manifest.max_batch
    if manifest.max_tokens != usual.max_tokens:
        variables["MAX_TOKENS"] = manifest.max_tokens
    if revision := manifest.model.get("revision"):
        variables["REVISION"] = revision
    command = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in variables.items())
    name = manifest.model["name"]
    model = "" if name == SAMPLE_NAME else f" with the MODEL it was made from ({shown(name)})"
    return f"build one with `make engine {one_line(command)}`{model}"
