"""Every module of the light runtime loads on a device's Python."""

from __future__ import annotations

import ctypes.util
import importlib
import subprocess
import sys

import pytest

from runtimes.errors import MissingError
from tests.python310.light import ROOT, light_tests

NEEDS_MORE = {
    "runtimes.api.server": "uvicorn",
    "runtimes.api.protocol": "uvicorn",
    "runtimes.executors.openvino_cpu": "openvino",
    "runtimes.executors.torch_reference": "torch",
    # Not a device's: what embeds a corpus.
    **{
        f"runtimes.corpus.{name}": "pyarrow"
        for name in (
            "columns",
            "encoding",
            "estimate",
            "folder",
            "job",
            "lines",
            "parts",
            "pipeline",
            "ray_engine",
            "reading",
            "run",
            "sources",
            "splits",
            "workers",
        )
    },
}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "runtimes").rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_module_loads(name: str) -> None:
    if (package := NEEDS_MORE.get(name)) is None:
        importlib.import_module(name)
        return
    with pytest.raises((ImportError, MissingError), match=f"(?i){package}"):
        importlib.import_module(name)


def test_the_runtimes_own_tests_are_among_those_that_run() -> None:
    names = {path.stem for path in light_tests()}
    assert {
        "test_batching",
        "test_chunks",
        "test_cuda",
        "test_embedder",
        "test_outputs",
        "test_tensorrt_runtime",
        "test_tokens",
    } <= names


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="a driver is there")
def test_no_driver_is_a_missing_piece() -> None:
    """CUDA's bindings of 12.8 raise RuntimeError there, those of 13 give an error code."""
    code = "from runtimes.executors.tensorrt.cuda import load_cuda; load_cuda()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "MissingError: no usable NVIDIA GPU" in done.stderr
    assert "libcuda" in done.stderr
