"""INT8 in OpenVINO on the trained sample: built by its own gate, verified, and looked into."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from runtimes.bundle_files import OPENVINO_FILE
from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError
from runtimes.executors.openvino_cpu import OpenVinoRuntime
from runtimes.manifest import read_manifest
from tests.interop.retrieval import ANSWERS
from tests.support import rehash, run_cli


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the command builds it, with all of the gate's texts."""
    out = tmp_path_factory.mktemp("openvino")
    assert run_cli("engine", "--target", "openvino", "--precision", "int8", "--out", out) == 0
    return out / "sample" / "classification-int8-openvino"


def test_every_quantised_product_is_made_in_int8(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.quantisation is not None
    assert manifest.rest == "bf16"
    with Embedder.load(bundle, runtime="openvino") as embedder:
        assert isinstance(embedder.runtime, OpenVinoRuntime)
        assert embedder.runtime.products["i8"] == len(manifest.quantisation.quantised) > 0


def test_gate_was_openvinos_and_verify_repeats_it(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.parity is not None
    assert manifest.parity.executed == "openvino-cpu-bf16"
    assert run_cli("verify", "--bundle", bundle) == 0


def test_vectors_are_those_of_onnx_runtime(bundle: Path) -> None:
    vectors = []
    for runtime in ("openvino", "onnxruntime"):
        with Embedder.load(bundle, runtime=runtime) as embedder:
            vectors.append(embedder.encode(ANSWERS))
    assert np.sum(vectors[0] * vectors[1], axis=1).min() > 0.999


def test_dequantised_products_are_refused(bundle: Path, tmp_path: Path) -> None:
    """OpenVINO multiplies nothing in INT8 by 300 levels: it dequantises in silence."""
    folder = shutil.copytree(bundle, tmp_path / "copy")
    graph = folder / OPENVINO_FILE
    text = graph.read_text()
    assert 'levels="256"' in text
    graph.write_text(text.replace('levels="256"', 'levels="300"'))
    rehash(folder)
    with pytest.raises(AdaptrtError, match=r"compiled products \d+ in bf16; expected \d+ in i8"):
        Embedder.load(folder, runtime="openvino")
