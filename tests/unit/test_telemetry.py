"""ONNX Runtime's usage reports are off: no device id, no store of events in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = """
import onnx, onnxruntime
graph = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 20]> '
                                'g (float[1] x) => (float[1] y) { y = Identity (x) }')
onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def stores_after(code: str, home: Path) -> list[Path]:
    """What a fresh process wrote into its home."""
    settings = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": str(Path.cwd()),
    }
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH")}
    subprocess.run([sys.executable, "-c", code], env=keep | settings, check=True, timeout=120)
    return sorted(home.rglob("onnxruntime.db"))


def test_nothing_is_stored_for_sending(tmp_path: Path) -> None:
    assert stores_after("import runtimes.executors.ort" + SESSION, tmp_path) == []


def test_without_us_it_would_be(tmp_path: Path) -> None:
    """Guards the test above; builds of ONNX Runtime without telemetry cannot."""
    if not stores_after(SESSION, tmp_path):
        pytest.skip("this ONNX Runtime stores nothing")
