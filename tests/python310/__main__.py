"""Runs the tests of the light runtime in an environment with Python 3.10 (make test-device).

``python -m tests.python310``, with arguments of pytest. The bindings of TensorRT 10.3 and
TensorRT-RTX load stub libraries, as nothing of a GPU is there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.python310.light import ROOT, light_tests
from tests.unit.stub_libraries import load_stubs

LIBRARIES = [
    "libcuda.so.1",  # CUDA's bindings of 12.8 hold no runtime, and say nothing without a driver
    *(f"lib{name}.so.10" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser")),
    *(f"lib{name}.so.1" for name in ("tensorrt_rtx", "tensorrt_onnxparser_rtx")),
]


def main() -> int:
    """Pytest's exit code; 4 on another Python."""
    if sys.version_info[:2] != (3, 10):
        print(f"got Python {sys.version.split()[0]}, expected 3.10", file=sys.stderr)
        return 4
    folder = Path(tempfile.mkdtemp())
    load_stubs(folder, LIBRARIES)
    os.environ["ADAPTRT_TUNE_FILE"] = str(folder / "tune.json")
    own = Path(__file__).parent
    return pytest.main(
        ["--noconftest", f"--rootdir={ROOT}", str(own), *map(str, light_tests()), *sys.argv[1:]]
    )


if __name__ == "__main__":
    sys.exit(main())
