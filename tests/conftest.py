"""Fixtures that cost more than a second are made once per run."""

from __future__ import annotations

import os

# Before torch is loaded: on busy cores OpenMP's spinning barriers make a build 50 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE
from export.console import progress
from export.triton.server import serve
from tests.support import SAMPLE_HF, build, run_cli
from tests.triton_support import Served, server_spec
from tests.zoo import write_original


@pytest.fixture(scope="session", autouse=True)
def untimed_stages() -> Iterator[None]:
    """No line says how long a stage took, which depends on what else the machine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SHORT", 1e6)
        patch.setattr(progress, "STILL", 1e6)
        yield


@pytest.fixture(scope="session", autouse=True)
def untuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was tuned on the machine that runs the tests decides nothing in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTRT_TUNE_FILE", str(tmp_path_factory.mktemp("tuned") / "tune.json"))
        yield


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint, 64 wide with 2 layers, in the original format. Not to be changed."""
    return write_original(tmp_path_factory.mktemp("zoo") / "small")


@pytest.fixture(scope="session")
def small(small_folder: Path) -> Checkpoint:
    return open_checkpoint(small_folder)


@pytest.fixture
def damaged(small_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint for one test to damage."""
    return Path(shutil.copytree(small_folder, tmp_path / "damaged"))


@pytest.fixture(scope="session")
def original() -> Checkpoint:
    """The embedded sample."""
    return open_checkpoint(SAMPLE)


@pytest.fixture(scope="session")
def native() -> Checkpoint:
    """The same sample in the native format."""
    return open_checkpoint(SAMPLE_HF)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's bundles are; nothing in it may be changed."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="session")
def fp16_bundle(out: Path) -> Path:
    """classification-fp16 with a TensorRT-RTX engine, at the command's own defaults."""
    assert run_cli("engine", "--gpu", "sm89", "--target", "tensorrt_rtx", "--out", out) == 0
    return out / "sample" / "classification-fp16"


@pytest.fixture(scope="session")
def fp32_bundle(out: Path) -> Path:
    assert build(out) == 0
    return out / "sample" / "classification-fp32-onnxruntime"


@pytest.fixture(scope="session")
def bf16_bundle(out: Path) -> Path:
    assert build(out, precision="bf16") == 0
    return out / "sample" / "classification-bf16-onnxruntime"


@pytest.fixture(scope="session")
def query_bundle(out: Path, small_folder: Path) -> Path:
    """retrieval.query, the task with a prefix, of the random checkpoint."""
    assert build(out, "--model", small_folder, "--task", "retrieval.query") == 0
    return out / "small" / "retrieval.query-fp32-onnxruntime"


@pytest.fixture(scope="session")
def small_bundle(out: Path, small_folder: Path) -> Path:
    """separation-fp32 of the random checkpoint: 5 MB, so cheap to copy."""
    assert build(out, "--model", small_folder, "--task", "separation") == 0
    return out / "small" / "separation-fp32-onnxruntime"


@pytest.fixture(scope="session")
def chunk_bundle(out: Path, small_folder: Path) -> Path:
    """Every task of the random checkpoint, with a chunk head."""
    arguments = ("--model", small_folder, "--adapter", "switchable", "--head", "chunks")
    assert build(out, *arguments) == 0
    return out / "small" / "switchable-chunks-fp32-onnxruntime"


@pytest.fixture(scope="session")
def pruned(out: Path, small_folder: Path) -> Path:
    """As ``chunk_bundle``, with the tokens of three languages' texts."""
    form = ("--adapter", "switchable", "--head", "chunks", "--vocabulary", "fr, de,en")
    assert build(out, "--model", small_folder, *form) == 0
    return out / "small" / "switchable-chunks-fp32-onnxruntime-vocabulary"


@pytest.fixture(scope="session")
def triton_environment() -> Path:
    """Where the server is installed."""
    path = Path(__file__).parent.parent / ".venv-triton"
    if not (path / ".installed").is_file():
        pytest.skip("no Triton server: `make .venv-triton/.installed` (part of `make test`)")
    return path


@pytest.fixture(scope="session")
def triton(
    tmp_path_factory: pytest.TempPathFactory,
    triton_environment: Path,
    query_bundle: Path,
    small_bundle: Path,
    chunk_bundle: Path,
) -> Iterator[Served]:
    """A running server: two merged bundles, and a switchable one with a chunk head for the rest."""
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "model_repository"
    bundles = [str(path) for path in (query_bundle, small_bundle, chunk_bundle)]
    assert run_cli("triton", "--bundle", *bundles, "--out", repository) == 0
    spec = server_spec(repository, triton_environment)
    with serve(spec, folder / "log"):
        yield Served(spec)


@pytest.fixture
def bundle_copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle for one test to damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
