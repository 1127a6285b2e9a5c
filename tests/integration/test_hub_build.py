"""Both formats from a hub to a verified bundle, by the command, and again without the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptrt import Embedder
from export.checkpoint.source import SAMPLE
from runtimes.manifest import read_manifest
from tests.hub_server import FIRST, Hub, Repository, files_of, serve_hub
from tests.support import SAMPLE_HF

MODELS = {"acme/original": SAMPLE, "acme-labs/native": SAMPLE_HF}
UNWANTED = {"modeling.py": b"import os", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx"}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        for model, folder in MODELS.items():
            files = files_of(folder) | UNWANTED
            served.repositories[model] = Repository({FIRST: files}, {"main": FIRST, "v1": FIRST})
        yield served


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


def run(hub: Hub, home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A fresh process: huggingface_hub reads its environment when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=kept | own | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module", params=list(MODELS))
def built(
    request: pytest.FixtureRequest, hub: Hub, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str]:
    """The model, its bundle, and what the command said."""
    model: str = request.param
    out = tmp_path_factory.mktemp("build")
    done = run(
        hub,
        home,
        "-m",
        "export.cli",
        "engine",
        "--model",
        model,
        "--revision",
        "v1",
        "--target",
        "onnxruntime",
        "--precision",
        "fp32",
        "--parity-tokens",
        "64",
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    return model, out / model.replace("/", "--") / "classification-fp32-onnxruntime", done.stderr


def test_bundle_is_that_of_the_folder(built: tuple[str, Path, str], fp32_bundle: Path) -> None:
    model, bundle, said = built
    manifest = read_manifest(bundle)
    local = read_manifest(fp32_bundle)
    assert manifest.model.name == model.replace("/", "--")
    assert manifest.model.revision == FIRST
    original = model == "acme/original"
    assert manifest.model.format == ("original" if original else "native")
    if original:
        assert manifest.model.licence == local.model.licence == "apache-2.0"
        assert manifest.model.sha256 == local.model.sha256
    else:
        assert str(manifest.model.licence).startswith("not stated")  # no README
    assert "downloaded model.safetensors (" in said
    texts = ["Where is the station?", "東京の桜は三月の終わりに咲きます。"]
    with Embedder.load(bundle) as ours, Embedder.load(fp32_bundle) as theirs:
        np.testing.assert_array_equal(ours.encode(texts), theirs.encode(texts))


def test_nothing_else_was_loaded(built: tuple[str, Path, str], hub: Hub) -> None:
    assert "model.safetensors" in hub.loaded()
    assert not set(hub.loaded()) & set(UNWANTED)


def test_later_builds_need_no_hub(built: tuple[str, Path, str], home: Path) -> None:
    """The source of a build, which is all of it that uses the network."""
    model = built[0]
    with serve_hub() as gone:
        pass
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        code = (
            "from export.checkpoint.source import resolve; "
            f"print(resolve({model!r}, 'v1').revision)"
        )
        done = run(gone, home, "-c", code, **settings)
        assert (done.returncode, done.stdout) == (0, FIRST + "\n"), done.stderr
        (line,) = done.stderr.splitlines()
        assert f"using the cached commit {FIRST} of {model}, 'v1' when" in line
        assert ("HF_HUB_OFFLINE" if settings else "cannot be reached") in line


def test_without_hub_and_cache_the_command_fails_at_once(tmp_path: Path) -> None:
    with serve_hub() as gone:
        pass
    out = tmp_path / "out"
    done = run(
        gone,
        tmp_path / "hf",
        "-m",
        "export.cli",
        "engine",
        "--model",
        "acme/original",
        "--target",
        "onnxruntime",
        "--out",
        str(out),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"error: MODEL: {gone.endpoint} cannot be reached"
    )
    assert "Traceback" not in done.stderr
    assert not out.exists()
