"""The script that builds an engine on a device, where nothing else is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import export.engines.device_files

SCRIPT = Path(export.engines.device_files.__file__).with_name("device") / "build_engine.py"


def bare_script(*flags: str) -> subprocess.CompletedProcess[str]:
    """Alone: no bundle around it, no TensorRT under that name, no module of ours."""
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, *flags], capture_output=True, text=True, check=False
    )


def test_device_script_helps_without_tensorrt_and_without_a_bundle() -> None:
    done = bare_script("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("--minShapes", "--memPoolSize workspace:MIB", "--saveEngine FILE"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--optShapes=8", "as in 8x256"),
        ("--builderOptimizationLevel=9", "invalid choice"),
        ("--maxShapes=4x512", "manifest.json: [Errno 2] No such file"),
    ],
)
def test_device_script_refuses_flags_without_tensorrt(flag: str, words: str) -> None:
    done = bare_script(flag)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "tensorrt" not in done.stderr.lower()


def test_device_script_is_python_3_10() -> None:
    """It imports nothing of ours and has no later syntax."""
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 10))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        )
    }
    own = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert own == {"tensorrt"}
