"""Writes a Triton model repository: configurations, Python models, the bundles' files.

Each model's folder is complete in itself, because servers that read a repository from object
storage copy it model by model. The Python models import :mod:`runtimes`; it is copied beside them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

import runtimes
from export.bundle.publish import staging
from export.bundle.staging import write_json
from export.spec import check_task_name
from export.triton.configs import (
    GRAPH_FILE,
    IR_FILE,
    IR_WEIGHTS,
    Backend,
    Release,
    encoder_config,
    front_config,
    tokenize_config,
    warmup_files,
)
from export.triton.settings import Settings
from runtimes.bundle_files import MANIFEST_FILE, OPENVINO_FILE, OPENVINO_WEIGHTS
from runtimes.choices import AdapterMode, FileKind, GraphKind, HeadName, Target, Unknown
from runtimes.errors import InputError, shown
from runtimes.manifest import Artifact, Manifest, read_manifest, require_as_built
from runtimes.open import CPU_EXECUTOR, EXECUTORS, cpu_executor

MODELS = Path(__file__).parent / "models"
# What the Python models import. NumPy 2 breaks string inputs in the test server's Python backend.
REQUIREMENTS = MODELS / "requirements.txt"
# What needs torch, or runs elsewhere.
_OTHER_SERVER = "api"  # a package
# What shapes vectors and takes milliseconds to hash.
_SHAPING = {FileKind.TOKENIZER, FileKind.VOCABULARY, *GraphKind}
_LEFT_OUT = {"executors/torch_reference.py", "serving/client.py", "serving/connection.py"}


@dataclass(frozen=True, kw_only=True)
class RepositorySpec:
    """What to write. ``backend`` None: TensorRT for a bundle with its engines, else Python."""

    bundles: tuple[Path, ...]
    out: Path
    release: Release
    backend: Backend | None = None
    settings: Settings = Settings()  # noqa: RUF009  (frozen)


def write_repository(spec: RepositorySpec) -> list[str]:
    """Write the repository and put it in ``spec.out``'s place; the models' names.

    Raises :class:`InputError` for bundles that cannot be served together or as asked; a former
    repository then stays as it was.
    """
    _require_repository(spec.out)
    manifests = {folder: read_manifest(folder) for folder in spec.bundles}
    for bundle, manifest in manifests.items():
        for entry in manifest.artifacts:
            if entry.kind in _SHAPING:
                require_as_built(bundle, entry)
    encoders = _encoders(manifests)
    backends = {folder: spec.backend or _backend(m) for folder, m in manifests.items()}
    on_gpu = [encoders[folder] for folder, b in backends.items() if b is Backend.TENSORRT]
    with staging(spec.out, _require_repository, _require_repository) as folder:
        first = next(iter(manifests))
        _python_model(folder, tokenize_config(spec.settings, manifests.values()), "tokenize")
        tokenizer = manifests[first].artifact(FileKind.TOKENIZER).path
        _place(first / tokenizer, folder / "tokenize" / "1" / "tokenizer.json")
        _python_model(folder, front_config(spec.settings, manifests.values(), on_gpu), "embed")
        for bundle, name in encoders.items():
            manifest, backend = manifests[bundle], backends[bundle]
            config = encoder_config(name, manifest, backend, spec.settings, spec.release)
            _encoder(folder, config, bundle, manifest, backend)
            about = folder / "embed" / "1" / "bundles" / name
            about.mkdir(parents=True)
            needed = _text_files(manifest)
            write_json(about / MANIFEST_FILE, replace(manifest, artifacts=needed).to_json())
            for entry in needed:
                _place(bundle / entry.path, about / entry.path)
        shutil.copyfile(REQUIREMENTS, folder / REQUIREMENTS.name)  # Triton ignores plain files
    return ["embed", "tokenize", *encoders.values()]


def _require_repository(out: Path) -> None:
    """:class:`InputError` where anything but a repository of ours, and all of it ours, stands."""
    if not os.path.lexists(out):
        return
    ours = out / "embed" / "1" / "runtimes" / "__init__.py", out / "tokenize" / "config.pbtxt"
    if out.is_symlink() or not all(path.is_file() for path in ours):
        raise InputError(f"OUT: {out} exists and is no repository of ours; name another")
    known = re.compile(rf"embed|tokenize|encoder-.+|{re.escape(REQUIREMENTS.name)}")
    if foreign := sorted(p.name for p in out.iterdir() if not known.fullmatch(p.name)):
        raise InputError(
            f"OUT: {out} also holds {shown(foreign[0])}, which this command would delete; move it "
            "away, or name another folder"
        )


def _text_files(manifest: Manifest) -> tuple[Artifact, ...]:
    """What the front model reads besides the manifest: of a bundle of few tokens, which they are.

    And its tokenizer, which names them or segments a text anew.
    """
    if manifest.vocabulary is None:
        return ()
    return tuple(manifest.artifact(kind) for kind in (FileKind.VOCABULARY, FileKind.TOKENIZER))


def _encoders(manifests: Mapping[Path, Manifest]) -> dict[Path, str]:
    """A name per bundle; :class:`InputError` where they cannot share one repository."""
    if not manifests:
        raise InputError("BUNDLE: none given, expected at least one bundle's folder")
    first = next(iter(manifests.values()))
    owners: dict[tuple[str, str, str], Path] = {}
    for folder, manifest in manifests.items():
        for name in (manifest.task, manifest.precision):  # they become a folder's name
            check_task_name(f"BUNDLE: {folder}/{MANIFEST_FILE}", name)
        if manifest.adapter is AdapterMode.SLOT:
            raise InputError(
                f"BUNDLE: {folder} has an adapter slot, which no Triton backend fills; build the "
                "adapter into a bundle with ADAPTER_PATH"
            )
        if manifest.vocabulary is not None and manifest.vocabulary.unknown is Unknown.FALLBACK:
            raise InputError(
                f"BUNDLE: {folder} sends texts with other tokens to a full bundle, which a "
                "repository has not; build it with UNKNOWN=error or replace"
            )
        same = [(m.artifact(FileKind.TOKENIZER).sha256, m.dimensions) for m in (manifest, first)]
        if same[0] != same[1]:
            raise InputError(
                f"BUNDLE: {folder} is of another model than {next(iter(manifests))}; write a "
                "repository for each model"
            )
        for task in manifest.prefixes:
            former = owners.setdefault((task, manifest.head, manifest.adapter), folder)
            if former != folder:
                raise InputError(f"BUNDLE: {former} and {folder} both have the task {task}")
    return {folder: f"encoder-{_bundle_name(m)}" for folder, m in manifests.items()}


def _bundle_name(manifest: Manifest) -> str:
    task = manifest.adapter if manifest.adapter is AdapterMode.SWITCHABLE else manifest.task
    head = [] if manifest.head is HeadName.SENTENCE else [manifest.head]
    return "-".join([task, *head, manifest.precision])


def _backend(manifest: Manifest) -> Backend:
    return Backend.TENSORRT if manifest.engines(Target.TENSORRT) else Backend.PYTHON


def _python_model(folder: Path, config: pb.ModelConfig, source: str) -> None:
    version = _model(folder, config)
    _copy_package(runtimes, version / "runtimes")
    shutil.copyfile(MODELS / f"{source}.py", version / "model.py")
    shutil.copyfile(MODELS / "triton_io.py", version / "triton_io.py")


def _encoder(
    folder: Path, config: pb.ModelConfig, bundle: Path, manifest: Manifest, backend: Backend
) -> None:
    if backend is Backend.TENSORRT:
        version = _model(folder, config)
        for path in config.cc_model_filenames.values():
            _place(bundle / path, version / path)
        return
    executor = EXECUTORS[CPU_EXECUTOR] if backend is Backend.ONNXRUNTIME else cpu_executor(manifest)
    graph = manifest.artifact(executor.graph)
    # The weights of OpenVINO's graph lie beside it, under a name of their own.
    beside = Path(graph.path).parent
    weights = [a for a in manifest.artifacts if a.kind == FileKind.WEIGHTS]
    needed = [graph, *(a for a in weights if Path(a.path).parent == beside)]
    if backend is Backend.PYTHON:
        _python_model(folder, config, "encoder")
        version = folder / config.name / "1"
        write_json(version / MANIFEST_FILE, replace(manifest, artifacts=tuple(needed)).to_json())
        for entry in needed:
            _place(bundle / entry.path, version / entry.path)
        return
    version = _model(folder, config)
    names = {OPENVINO_FILE: IR_FILE, OPENVINO_WEIGHTS: IR_WEIGHTS}
    for entry in needed:
        kept = GRAPH_FILE if entry is graph else Path(entry.path).name
        _place(bundle / entry.path, version / names.get(entry.path, kept))


def _model(folder: Path, config: pb.ModelConfig) -> Path:
    """A model's folder with its configuration and warm-up files; its version folder."""
    model = folder / str(config.name)
    (model / "1").mkdir(parents=True)
    text = text_format.MessageToString(config)
    (model / "config.pbtxt").write_text(text, encoding="utf-8")
    for name, values in warmup_files(config).items():
        (model / "warmup").mkdir(exist_ok=True)
        (model / "warmup" / name).write_bytes(values.tobytes())
    return model / "1"


def _place(source: Path, target: Path) -> None:
    """A hard link, or a copy on another file system: weights are large and never change."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _copy_package(package: ModuleType, target: Path) -> None:
    """The package with its subpackages, Python files alone."""
    source = Path(package.__path__[0])
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source)
        if place.parts[0] != _OTHER_SERVER and place.as_posix() not in _LEFT_OUT:
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)
