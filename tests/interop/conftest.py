"""Bundles of the sample, which is trained, so that its vectors retrieve; made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.retrieval import ANSWERS, QUESTIONS, embed
from tests.support import Array, build


def _built(out: Path, *arguments: object) -> Path:
    assert build(out, *arguments) == 0
    (manifest,) = out.rglob("manifest.json")
    return manifest.parent


@pytest.fixture(scope="session")
def sample_switchable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task of the sample in one FP32 bundle. Nothing in it may be changed."""
    return _built(tmp_path_factory.mktemp("switchable"), "--adapter", "switchable")


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
