"""Calibration texts from folders that the library ``datasets`` itself wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from calibration.corpus import Text, corpus_sha256, load_corpus
from runtimes.errors import InputError

TEXTS = [f"text {number} ü" for number in range(3000)]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_dict({"body": TEXTS, "language": ["de"] * len(TEXTS)})


def test_saved_and_exported_datasets_are_read(dataset: Dataset, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "shards", num_shards=3)
    DatasetDict({"train": dataset}).save_to_disk(tmp_path / "one")
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "dict")
    dataset.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    expected = corpus_sha256([Text("de", text) for text in TEXTS])
    for name in ("shards", "one", "dict/train", "hub"):
        assert corpus_sha256(load_corpus(tmp_path / name, column="body")) == expected, name
    with pytest.raises(InputError, match=r"its splits are 'train', 'test', expected one"):
        load_corpus(tmp_path / "dict", column="body")


def test_selected_rows_are_read_in_their_order(dataset: Dataset, tmp_path: Path) -> None:
    chosen = dataset.shuffle(seed=1).select(range(100))
    chosen.save_to_disk(tmp_path / "selected")
    texts = [text.text for text in load_corpus(tmp_path / "selected", column="body")]
    assert texts == list(chosen["body"])
