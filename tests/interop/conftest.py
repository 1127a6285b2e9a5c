"""Bundles of the sample, which is trained, so that its vectors retrieve; made once per run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.api_server import BundleServer, serving
from tests.interop.retrieval import ANSWERS, QUESTIONS, embed
from tests.support import Array, build, few_gate_texts
from tests.zoo import write_original

# The precision and what else is asked for; FP32 itself is a fixture of its own.
KINDS = {
    "FP32 in two files": ("fp32", "--task", "all"),
    "FP16": ("fp16", "--task", "classification"),
    "INT8": ("int8", "--task", "classification"),
    "switchable": ("fp32", "--adapter", "switchable"),
    "slot": ("fp32", "--adapter", "slot", "--task", "base"),
    "OpenVINO": ("fp32", "--task", "classification", "--target", "openvino"),
    "official": ("fp32", "--adapter", "switchable", "--interface", "official"),
}


def _built(out: Path, *arguments: object) -> Path:
    assert build(out, *arguments) == 0
    (manifest,) = out.rglob("manifest.json")
    return manifest.parent


@pytest.fixture(scope="session")
def sample_switchable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task of the sample in one FP32 bundle. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("switchable"), "--adapter", "switchable")


@pytest.fixture(scope="session")
def sample_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task of the sample with late chunking, FP32. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("chunks"), "--adapter", "switchable", "--head", "chunks")


@pytest.fixture(scope="session")
def api(sample_chunks: Path) -> Iterator[BundleServer]:
    """The HTTP server with that bundle, in a process of its own."""
    with serving(sample_chunks) as server:
        yield server


@pytest.fixture(scope="session")
def sample_query(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """retrieval.query merged, FP32. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("query"), "--task", "retrieval.query")


@pytest.fixture(scope="session")
def sample_passage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """retrieval.passage merged, FP32. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("passage"), "--task", "retrieval.passage")


@pytest.fixture(scope="session")
def sample_classification(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classification merged, FP32: a task without sides. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("classification"), "--task", "classification")


@pytest.fixture(scope="session", params=["switchable", "two merged"])
def pair(request: pytest.FixtureRequest) -> tuple[Path, ...]:
    """What an adapter takes for a retrieval: one switchable bundle, or two merged ones."""
    names = {"switchable": ["switchable"], "two merged": ["query", "passage"]}
    return tuple(request.getfixturevalue(f"sample_{name}") for name in names[request.param])


@pytest.fixture(scope="session")
def query_vectors(sample_switchable: Path) -> Array:
    """The embedder's own, of the questions."""
    return embed(sample_switchable, QUESTIONS, task="retrieval.query")


@pytest.fixture(scope="session")
def passage_vectors(sample_switchable: Path) -> Array:
    """The embedder's own, of the answers."""
    return embed(sample_switchable, ANSWERS, task="retrieval.passage")


@pytest.fixture(scope="session")
def other_passage(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """retrieval.passage of another model."""
    arguments = ("--model", small_folder, "--task", "retrieval.passage")
    return _built(tmp_path_factory.mktemp("other"), *arguments)


@pytest.fixture(scope="session")
def bundle_of(
    tmp_path_factory: pytest.TempPathFactory, sample_classification: Path, sample_query: Path
) -> Callable[[str], Path]:
    """A bundle of each kind in the table of clients, built when first asked for. Not to be changed.

    All but FP32, FP16, INT8 and OpenVINO are of the random checkpoint, which is built in less time.
    """
    small = write_original(tmp_path_factory.mktemp("zoo") / "small")
    ready = {"FP32": sample_classification, "FP32 with instruction": sample_query}

    @functools.cache
    def built(kind: str) -> Path:
        if kind in ready:
            return ready[kind]
        precision, *arguments = KINDS[kind]
        out = tmp_path_factory.mktemp("kind")
        if kind not in ("FP16", "INT8", "OpenVINO"):
            arguments += ["--model", str(small)]
        with pytest.MonkeyPatch.context() as patch:
            few_gate_texts(patch)
            assert build(out, *arguments, precision=precision) == 0
        return min(out.rglob("manifest.json")).parent  # of all tasks, classification

    return built
