"""A Triton server with a bundle that holds some of the tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calibration.corpus import own_texts
from export.triton.server import serve
from runtimes import Embedder, InputError, TritonEmbedder, VocabularyWarning
from tests.support import run_cli
from tests.triton_support import server_spec

COVERED = own_texts()["fr"][:3]
TURKISH = "Köpeğim bugün çok mutlu."


@pytest.mark.parametrize("unknown", ["error", "replace"])
def test_front_model_does_as_the_bundle_says(
    pruned: Path, triton_environment: Path, tmp_path: Path, unknown: str
) -> None:
    bundle = tmp_path / pruned.name
    shutil.copytree(pruned, bundle)
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["vocabulary"]["unknown"] = unknown
    (bundle / "manifest.json").write_text(json.dumps(raw))
    repository = tmp_path / "repository"
    assert run_cli("triton", "--bundle", bundle, "--out", repository) == 0
    spec = server_spec(repository, triton_environment)
    with (
        serve(spec, tmp_path / "log"),
        Embedder.load(bundle) as own,
        TritonEmbedder(f"grpc://127.0.0.1:{spec.grpc_port}") as client,
    ):
        found = client.encode(COVERED, task="separation")
        assert np.allclose(found, own.encode(COVERED, task="separation"), atol=1e-6)
        asked = [*COVERED, TURKISH]
        if unknown == "error":
            with pytest.raises(InputError, match="text 3: has the tokens '"):
                client.encode(asked, task="separation")
            with pytest.raises(InputError, match="document: has the tokens '"):
                client.encode_chunks(TURKISH, sentences=1, task="separation")
            return
        with pytest.warns(VocabularyWarning, match="1 of 4 texts hold tokens"):
            served = client.encode(asked, task="separation")
        with pytest.warns(VocabularyWarning):
            expected = own.encode(asked, task="separation")
        assert np.allclose(served, expected, atol=1e-6)
