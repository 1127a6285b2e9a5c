"""Bundles of the sample, which is trained, so that its vectors retrieve; made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import build


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
