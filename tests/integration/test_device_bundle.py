"""What a bundle for a Jetson brings: the light runtime, run on Python 3.10 as the device has it."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.engines.runtime_wheel import write_wheel
from runtimes import Embedder
from runtimes.choices import FileKind
from runtimes.manifest import read_manifest
from tests.support import build

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-3.10" / "bin" / "python"
TEXTS = ["Where is the station?", "Wo ist der Bahnhof? Dort drüben."]
CPU = ("--runtime", "onnxruntime", "--task", "separation")


@pytest.fixture(scope="module")
def bundle(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert PYTHON.is_file(), "no .venv-3.10: make .venv-3.10/.installed"
    folder = tmp_path_factory.mktemp("device")
    code = build(
        folder,
        *("--model", small_folder, "--target", "tensorrt10", "--adapter", "switchable"),
        *("--head", "chunks", "--max-tokens", 256, "--name", "device"),
    )
    assert code == 0
    return folder / "small" / "device"


def encode(bundle: Path, *arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    """``python3 encode.py``, from another folder, without anything of ours on its path."""
    return subprocess.run(
        [str(word) for word in (PYTHON, "-s", bundle / "encode.py", *arguments)],
        input=text,
        capture_output=True,
        text=True,
        cwd="/",
        env={"ADAPTRT_TUNE_FILE": str(bundle / "none")},
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_bundle_brings_the_runtime_and_says_so(bundle: Path) -> None:
    listed = {a.path for a in read_manifest(bundle).artifacts if a.kind == FileKind.DEVICE}
    (wheel,) = bundle.glob("adaptrt_runtime-*.whl")
    assert listed == {"build_engine.py", "encode.py", "requirements.txt", "README.md", wheel.name}


def test_encode_on_python_3_10_gives_the_vectors_of_the_embedder(bundle: Path) -> None:
    with Embedder.load(bundle, runtime="onnxruntime") as embedder:
        expected = embedder.encode(TEXTS, task="separation", dimensions=32)
    for done in (
        encode(bundle, *CPU, "--dimensions", 32, *TEXTS),
        encode(bundle, *CPU, "--dimensions", 32, text="\n".join(TEXTS)),
    ):
        found = lines(done)
        assert [line["text"] for line in found] == TEXTS
        np.testing.assert_allclose([line["embedding"] for line in found], expected, atol=1e-5)


def test_late_chunking_on_python_3_10_gives_the_chunks_of_the_embedder(bundle: Path) -> None:
    with Embedder.load(bundle, runtime="onnxruntime") as embedder:
        expected = embedder.encode_chunks(TEXTS[1], sentences=1, task="separation")
    found = lines(encode(bundle, *CPU, "--sentences", 1, TEXTS[1]))
    assert [line["text"] for line in found] == [TEXTS[1][a:b] for a, b in expected.spans]
    vectors = [line["embedding"] for line in found]
    np.testing.assert_allclose(vectors, expected.vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--task", "base", "a"), 2, "no tensorrt engine.*python3 build_engine.py"),
        (("--runtime", "onnxruntime", "a"), 2, "task: none given"),
        ((*CPU, "--dimensions", 31, "a"), 2, "dimensions: got 31"),
        ((*CPU, "--sentences", 0, "a"), 2, "sentences"),
        ((*CPU, "--sentences", 1, "--chunk-tokens", 8, "a"), 2, "sentences"),
        ((*CPU, "--sentences", 1, "--strict", "a"), 2, "--strict"),
        ((*CPU, ""), 2, "text 0: empty"),
        (("--runtime", "gpu", "a"), 2, "runtime: got 'gpu'"),
    ],
)
def test_wrong_use_is_one_line(
    bundle: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    before = sorted(bundle.rglob("*"))
    done = encode(bundle, *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(words, done.stderr)
    assert sorted(bundle.rglob("*")) == before


def test_without_its_packages_it_names_the_file_of_them(bundle: Path) -> None:
    bare = [str(PYTHON), "-S", str(bundle / "encode.py"), "a"]  # no site-packages
    done = subprocess.run(bare, capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip3 install -r" in done.stderr
    assert "Traceback" not in done.stderr


def test_wheel_installs_on_python_3_10(bundle: Path, tmp_path: Path) -> None:
    (wheel,) = bundle.glob("*.whl")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index")
    subprocess.run([PYTHON, *pip, "--no-deps", "--target", tmp_path, wheel], check=True)
    code = "import runtimes; print(runtimes.__file__, runtimes.Embedder)"
    done = subprocess.run(
        [PYTHON, "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.startswith(str(tmp_path / "runtimes"))


def test_wheel_is_light_and_the_same_every_time(tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    again.mkdir()
    wheel = write_wheel(first)
    assert wheel.read_bytes() == write_wheel(again).read_bytes()
    names = zipfile.ZipFile(wheel).namelist()
    assert "runtimes/embedder.py" in names
    assert not [n for n in names if n.startswith(("runtimes/api", "export"))]
    metadata = (
        zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    )
    assert "Requires-Python: >=3.10" in metadata
    assert "Requires-Dist: numpy" in metadata
    assert "torch" not in metadata
