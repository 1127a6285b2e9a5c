"""Which test modules need nothing but the light runtime: they run on Python 3.10 too."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {
    "adaptrt",
    "calibration",
    "export",
    # What building needs, and other people's clients.
    "jsonschema",
    "mteb",
    "onnx",
    "onnx_ir",
    "pyarrow",
    "tensorrt_bindings",
    "tomllib",
    "torch",
    "transformers",
    "tritonclient",
    "yaml",
}

OTHERS = {"test_triton_client"}  # of the extra that holds tritonclient


def light_tests() -> list[Path]:
    """The modules of ``tests/unit`` that import :mod:`runtimes`, and of what is HEAVY nothing."""
    files = sorted((ROOT / "tests" / "unit").glob("test_*.py"))
    return [file for file in files if file.stem not in OTHERS and _is_light(file)]


def _is_light(file: Path) -> bool:
    return "runtimes" in _imported(file) and not _imported(file) & HEAVY


@cache
def _imported(file: Path) -> frozenset[str]:
    """The first words of everything that a module imports, also inside functions and by way of
    other modules of the tests."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            inner = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("tests.") and inner.is_file():
                found |= _imported(inner)
            found.add(name.partition(".")[0])
    return frozenset(found)
