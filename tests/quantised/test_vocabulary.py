"""INT8 with some of the tokens: the very vectors of the whole bundle, and what the gate says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtimes import Embedder
from runtimes.manifest import read_manifest
from tests.support import DEEP, build, few_gate_texts
from tests.zoo import write_original

WORDS = ("Haus", "Katze", "Garten", "Regen", "Brot", "Schule", "Fenster", "Wasser")
TEXTS = ["Katze und Brot im Garten.", "Wasser im Haus", "Regen!"]


@pytest.mark.parametrize("kind", ["unigram", "byte-level"])
def test_bit_identical_to_the_whole_bundle(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated and rounded on the same texts: the vocabulary's, which it covers all of."""
    few_gate_texts(monkeypatch)
    model = write_original(tmp_path / "model")
    if kind == "byte-level":
        shutil.copyfile(DEEP / "tokenizer.json", model / "tokenizer.json")
    texts = (f"{a} und {b} im {c}." for a in WORDS for b in WORDS for c in WORDS)
    (corpus := tmp_path / "own.txt").write_text("\n".join(texts))
    same = [*("--model", model, "--task", "separation", "--layout", "flat", "--max-tokens", 64)]
    same += [*("--calibration-data", corpus, "--calibration-texts", 16)]
    for more in (("--name", "whole"), ("--vocabulary", "texts", "--name", "few")):
        assert build(tmp_path, *same, *more, precision="int8") == 0
    whole, few = (tmp_path / "model" / name for name in ("whole", "few"))
    tables = [json.loads((b / "calibration.json").read_text())["tensors"] for b in (whole, few)]
    assert tables[0] == tables[1]
    with Embedder.load(whole) as full, Embedder.load(few) as pruned:
        assert np.array_equal(full.encode(TEXTS), pruned.encode(TEXTS))
    assert "Texts covered by language" in (few / "report.html").read_text()
    assert "Texts covered by language" not in (whole / "report.html").read_text()


def test_three_languages_pass_the_gate_on_what_they_cover(tmp_path: Path) -> None:
    few = ("--task", "retrieval.passage", "--vocabulary", "de,fr,en", "--max-tokens", 512)
    assert build(tmp_path, *few, precision="int8") == 0
    (bundle,) = (path.parent for path in tmp_path.glob("sample/*/manifest.json"))
    manifest = read_manifest(bundle)
    assert manifest.vocabulary is not None
    assert manifest.quantisation is not None
    assert manifest.vocabulary.gate.covered < manifest.vocabulary.gate.texts / 2
    assert manifest.quantisation.share == 1
    parity = json.loads((bundle / "parity.json").read_text())
    losses = parity["quantisation"]["losses"]["onnxruntime"]
    units = {loss["figure"]: loss["units"] for loss in losses}
    assert 48 <= units["nDCG@10"] < 624
    assert 48 <= units["Spearman"] < 576
