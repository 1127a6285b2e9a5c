"""Bundles built before this version's manifest, of random tiny weights: still usable, unchanged.

``tests/data/bundles-before`` holds a merged FP32 and an INT8 bundle, whose
manifests have minor schema 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.gate.texts import parity_texts
from runtimes import Embedder
from runtimes.errors import InputError
from runtimes.manifest import read_manifest
from runtimes.schemes import SCHEMES
from runtimes.text.tokenizer_file import load_tokenizer
from tests.support import cosines, listing, run_cli

BEFORE = Path(__file__).parents[1] / "data" / "bundles-before"
BUNDLES = sorted(BEFORE.iterdir())


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_bundles_are_of_an_earlier_schema() -> None:
    raws = [json.loads((bundle / "manifest.json").read_text()) for bundle in BUNDLES]
    assert [raw["precision"] for raw in raws] == ["fp32", "int8"]
    assert {raw["schema_minor"] for raw in raws} == {1}
    assert "int8_share" in raws[1]["quantisation"]
    assert sum(len(data) for data in listing(BEFORE).values()) < 1_000_000


def test_vectors_are_the_recorded_references(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    texts = parity_texts(load_tokenizer(bundle, manifest), manifest.prefix, 64)
    with Embedder.load(bundle) as embedder:
        tokens = [embedder.tokenizer.pad([text.ids]) for text in texts]
        ours = np.concatenate(
            [embedder.runtime.run(batch.inputs())["sentence_embedding"] for batch in tokens]
        )
        assert embedder.encode(["Guten Tag"]).shape == (1, manifest.architecture.hidden)
    reference = np.load(bundle / "reference.npy")[: len(texts)]
    scheme = SCHEMES[manifest.precision]
    assert cosines(ours, reference).min() >= scheme.min_cosine


def test_bits_need_no_range_and_8_bit_integers_do(bundle: Path) -> None:
    with Embedder.load(bundle) as embedder:
        floats = embedder.encode(["Guten Tag"])
        bits = embedder.encode(["Guten Tag"], output="ubinary")
        np.testing.assert_array_equal(bits, np.packbits(floats > 0, axis=1))
        with pytest.raises(InputError, match=r"output: int8 needs the range of classification's"):
            embedder.encode(["Guten Tag"], output="int8")


def test_bundle_verifies_where_its_gate_is_still_todays(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """INT8 was judged on other texts then, which only the version that did so has."""
    before = listing(bundle)
    quantised = read_manifest(bundle).quantisation is not None
    assert run_cli("verify", "--bundle", bundle) == (2 if quantised else 0)
    said = capsys.readouterr()
    if quantised:
        assert "built with other parity texts; verify with adaptrt" in said.err
    else:
        assert "every file as built" in said.out
    assert listing(bundle) == before


def test_int8_is_refused_by_onnx_runtime_on_a_gpu_though_the_graph_is_there() -> None:
    """It has no INT8 products, and earlier versions wrote a graph that is FP32 elsewhere."""
    assert (BUNDLES[1] / "model.onnxruntime_cuda.onnx").is_file()
    with pytest.raises(InputError, match="onnxruntime_cuda does not run a bundle in int8, only in"):
        Embedder.load(BUNDLES[1], runtime="onnxruntime_cuda")


def test_int8_is_what_the_old_entries_said() -> None:
    raw = json.loads((BUNDLES[1] / "manifest.json").read_text())["quantisation"]
    now = read_manifest(BUNDLES[1]).quantisation
    assert now is not None
    assert (now.scheme, now.share) == ("int8", raw["int8_share"])
    assert list(now.quantised) == raw["int8"]
    assert now.fallback == raw["fallback"]
