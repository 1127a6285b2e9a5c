"""What pip would install for every combination of extras that the project names: one ONNX Runtime.

The whole tree is resolved, as other packages could bring the second one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?:adaptrt|\.|\.whl)\[([a-z-]+(?:,[a-z-]+)*)\]")
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def combinations() -> Iterator[str]:
    """Those in commands of documents, messages and ``pyproject.toml``, and each with a GPU."""
    files = [ROOT / "README.md", ROOT / "pyproject.toml", *ROOT.glob("docs/**/*.md")]
    files += [file for name in ("export", "runtimes") for file in (ROOT / name).rglob("*.py")]
    for file in files:
        yield from NAMED.findall(file.read_text(encoding="utf-8"))
    yield from ("gpu,export", "gpu,export,serve,flash")


def resolved(extras: str) -> dict[str, str]:
    """Versions by package, for Linux."""
    options = ["--python-version", "3.11", "--python-platform", "linux", "--no-annotate", "--quiet"]
    chosen = [word for extra in extras.split(",") for word in ("--extra", extra)]
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *options, *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {r.name: str(r.specifier) for r in map(Requirement, lines)}


@pytest.mark.parametrize("extras", sorted(set(combinations())))
def test_no_combination_that_is_named_brings_two_onnx_runtimes(extras: str) -> None:
    """They overwrite each other's files."""
    found = RUNTIMES & resolved(extras).keys()
    chosen = set(extras.split(","))
    if "gpu" in chosen:
        assert found == {"onnxruntime-gpu"}
    else:
        assert found == ({"onnxruntime"} if chosen & {"cpu", "dev", "bench", "interop"} else set())


def test_both_would_be_seen() -> None:
    """Negative control: nobody is told to install these together."""
    assert resolved("cpu,gpu").keys() >= RUNTIMES
    assert [c for c in combinations() if {"cpu", "gpu"} <= set(c.split(","))] == []


def test_gpu_brings_cuda_and_cudnn_for_onnx_runtime() -> None:
    """A machine with a driver alone; ``preload_dlls`` finds them where pip puts them."""
    found = resolved("gpu")
    assert {"nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"} <= found.keys()
