"""What a device imports stays light; everything imports where everything is installed."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import calibration
import export
import runtimes

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "huggingface_hub",
    "tritonclient",
    "export",
)
LIGHT = [
    name
    for _, name, _ in pkgutil.walk_packages(runtimes.__path__, "runtimes.")
    if name != "runtimes.executors.torch_reference"
]
ALL = [
    name
    for package in (export, runtimes, calibration)
    for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


def loaded_after(statement: str) -> set[str]:
    """Top-level names of the heavy modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout)) & set(HEAVY)


def test_runtimes_import_without_the_heavy_libraries() -> None:
    assert {"runtimes.embedder", "runtimes.executors.ort", "runtimes.text.tokens"} <= set(LIGHT)
    assert loaded_after("\n".join(f"import {name}" for name in ["runtimes", *LIGHT])) == set()


def test_checkpoints_are_read_without_torch() -> None:
    assert loaded_after("import export.checkpoint.reader") == {"export"}


def test_command_line_starts_without_the_heavy_libraries() -> None:
    assert loaded_after("import export.cli") == {"export"}


def test_light_import_check_sees_torch() -> None:
    """Guards the tests above."""
    assert "torch" in loaded_after("import runtimes.executors.torch_reference")


@pytest.mark.parametrize("name", ALL)
def test_module_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_public_names_are_there() -> None:
    assert {"Embedder", "InputError", "GateError"} <= set(runtimes.__all__)
    assert all(hasattr(runtimes, name) for name in runtimes.__all__)
