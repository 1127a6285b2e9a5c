"""The commands that are disturbed, a row each, and what they leave: whole, or not, and strays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.table import read_calibration
from export.bundle.staging import check_hashes
from runtimes.choices import FileKind
from tests.zoo import Size, write_original

TINY = Size(hidden=32, layers=1, heads=2, intermediate=64, rank=2)
MODEL = "tiny"  # the checkpoint's folder, which bundles' folders are called after


@dataclass(frozen=True)
class Job:
    """A command and the ``place`` below OUT that it fills or replaces.

    ``arguments(model, out, bundle)``: a checkpoint, where to write, and a bundle of the checkpoint
    for commands that read one. ``identity`` says which contents stand at the place, and raises
    where they are not whole. ``beside`` are other files that it leaves.
    """

    name: str
    arguments: Callable[[Path, Path, Path], Sequence[object]]
    place: str
    identity: Callable[[Path], str]
    beside: tuple[str, ...] = ()


def bundle_identity(bundle: Path) -> str:
    """Every file hashed again; the weights' SHA-256."""
    manifest = check_hashes(bundle)
    return " ".join(sorted(a.sha256 for a in manifest.artifacts if a.kind == FileKind.WEIGHTS))


def _calibration_identity(path: Path) -> str:
    return read_calibration(path).key


def _bytes_identity(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return digest.hexdigest()


def _engine(name: str, *options: object, beside: tuple[str, ...] = ()) -> Job:
    def arguments(model: Path, out: Path, bundle: Path) -> Sequence[object]:
        place = ("--model", model, "--out", out, "--name", "bundle")
        return ("engine", *place, "--parity-tokens", 16, *options)

    return Job(name, arguments, f"{MODEL}/bundle", bundle_identity, beside)


_ORT = ("--target", "onnxruntime", "--precision")
_TABLE = f"{MODEL}/calibration/classification.json"
_TEXTS = ("--calibration-texts", 48)
JOBS = (
    _engine("engine fp32", *_ORT, "fp32"),
    _engine("engine fp16", *_ORT, "fp16"),
    _engine("engine chunks", *_ORT, "fp16", "--adapter", "switchable", "--head", "chunks"),
    _engine("engine vocabulary", *_ORT, "fp16", "--vocabulary", "de"),
    _engine("engine int8", *_ORT, "int8", *_TEXTS, beside=(_TABLE,)),
    _engine(
        *("engine tensorrt_rtx", "--target", "tensorrt_rtx", "--precision", "fp16"),
        *("--gpu", "sm89"),
    ),
    Job(
        "calibrate",
        lambda model, out, _: ("calibrate", "--model", model, "--out", out, *_TEXTS),
        _TABLE,
        _calibration_identity,
    ),
    Job(
        "triton",
        lambda _, out, bundle: ("triton", "--bundle", bundle, "--out", out / "repository"),
        "repository",
        _bytes_identity,
    ),
    Job(
        "encode",
        lambda _, out, bundle: (
            *("encode", "--bundle", bundle, "--out", out / "vectors.npy"),
            *("one text", "and another"),
        ),
        "vectors.npy",
        _bytes_identity,
    ),
)


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """Two of one name and other weights, so that a former bundle is told from a newer one."""
    first, second = (folder / letter / MODEL for letter in "ab")
    for seed, place in enumerate((first, second)):
        if not place.is_dir():
            write_original(place, TINY, seed)
    return first, second


def private_strays(home: Path) -> list[str]:
    """What is left in the temporary folder or the home.

    All but PyTorch's own cache of compiled kernels, an empty folder that it makes for each user.
    """
    found = [path for name in ("tmp", "home") for path in sorted((home / name).iterdir())]
    return [str(p.relative_to(home)) for p in found if not p.name.startswith("torchinductor_")]


def strays(job: Job, out: Path, home: Path) -> list[str]:
    """What lies below OUT, in the temporary folder or in the home that nobody should find there."""
    place = out / job.place
    known = {place, *(out / name for name in job.beside)}
    known |= {above for path in known for above in path.parents}
    found = [
        str(path.relative_to(out))
        for path in sorted(out.rglob("*"))
        if path not in known and place not in path.parents
    ]
    return found + private_strays(home)
