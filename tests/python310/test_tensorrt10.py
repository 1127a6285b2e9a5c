"""What a Jetson runs, against the bindings of TensorRT 10.3 (JetPack 6): executor and script."""

from __future__ import annotations

import argparse
import ast
import json
import types
from pathlib import Path
from typing import Any

import pytest
import tensorrt_bindings as real

from tests.python310.light import ROOT
from tests.unit import tensorrt_runtime_contract as contract
from tests.unit.binding_doubles import flavour

SCRIPT = ROOT / "export" / "engines" / "device" / "build_engine.py"
# The runtime asks a module of TensorRT-RTX alone for these.
RTX_ONLY = {
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
}
SLIPS = {
    "method": ("set_memory_pool_limit(", "set_memory_pool_limits("),
    "enum member": ("MemoryPoolType.WORKSPACE", "MemoryPoolType.WORKSPACES"),
    "flag": (".STRONGLY_TYPED", ".STRONG_TYPED"),
    "assigned attribute": ("config.builder_optimization_level =", "config.optimization ="),
    "class": ("trt.OnnxParser(", "trt.ONNXParser("),
    "argument count": ("create_timing_cache(known)", "create_timing_cache(known, known)"),
    "argument type": (
        "set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE",
        'set_memory_pool_limit("WORKSPACE"',
    ),
    "network's name": ("network.num_inputs", "network.nb_inputs"),
}
AXES = [{"sizes": None, "profile_side": side} for side in (0, 1)]
MANIFEST = {
    "inputs": [{"name": name, "axes": AXES} for name in ("input_ids", "attention_mask")],
    "artifacts": [{"kind": "primitive", "path": "model.primitive.onnx"}],
    "precision": "fp16",
    "versions": {},
}
SHAPES = [{"name": "default", "min": [1, 1], "opt": [4, 256], "max": [4, 512]}]


def test_bindings_are_those_of_jetpack_6() -> None:
    assert real.__version__ == "10.3.0"


def test_every_name_exists_in_10_3() -> None:
    used: set[str] = set()
    for path in (SCRIPT, *ROOT.glob("runtimes/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (name := _dotted(node)):
                used.add(name)
    assert {"Builder", "Runtime", "TensorIOMode.INPUT"} <= used
    missing = [n for n in used if n.split(".")[0] not in RTX_ONLY and not _has(real, n)]
    assert missing == []


def test_executor_makes_only_calls_that_10_3_takes(tmp_path: Path) -> None:
    found = contract.results(real, "tensorrt", tmp_path)
    assert found["run"] == "ok"
    passed = [n for n, words in found["slips"].items() if not words.startswith(("Attri", "TypeE"))]
    assert passed == []  # the negative controls: the same run with one name changed


def build(folder: Path, slip: tuple[str, str] | None = None) -> Any:
    """The script's build, with a timing cache, and what it recorded."""
    source = SCRIPT.read_text()
    if slip is not None:
        assert source.count(slip[0]) == 1
        source = source.replace(*slip)
    script = types.ModuleType("build_engine")
    script.__file__ = str(folder / SCRIPT.name)
    exec(compile(source, "build_engine", "exec"), script.__dict__)
    trt = flavour(real)
    chosen = argparse.Namespace(
        memPoolSize=1 << 30, builderOptimizationLevel=3, timingCacheFile=folder / "timings"
    )
    logger = script.make_logger(trt)
    plan = script.build(trt, chosen, MANIFEST, SHAPES, logger)
    script.record(dict(MANIFEST), plan, "encoder.sm87.engine", "sm87", SHAPES, logger.memory, "10")
    return plan, trt.made


def test_script_makes_only_calls_that_10_3_takes(tmp_path: Path) -> None:
    plan, (builder, config, _) = build(tmp_path)
    assert plan == b"plan"
    calls = builder.create_optimization_profile().set_shape.call_args_list
    assert [call.args for call in calls] == [
        (name, (1, 1), (4, 256), (4, 512)) for name in ("input_ids", "attention_mask")
    ]
    assert config.builder_optimization_level == 3
    (_, engine) = json.loads((tmp_path / "manifest.json").read_text())["artifacts"]
    assert (engine["gpu"], engine["bytes"], engine["memory"]) == ("sm87", 4, [4096])


@pytest.mark.parametrize("slip", SLIPS)
def test_misspelt_name_of_the_script_is_caught(tmp_path: Path, slip: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        build(tmp_path, SLIPS[slip])


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed(parts)) if isinstance(node, ast.Name) and node.id == "trt" else ""


def _has(value: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True
