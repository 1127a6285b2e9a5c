"""Every TensorRT name the project uses exists in the real 11.4 and TensorRT-RTX bindings."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx_bindings as rtx

from tests.unit import tensorrt_runtime_contract
from tests.unit.stub_libraries import compile_stubs
from tests.unit.tensorrt_contract import LIBRARIES, SLIPS

ROOT = Path(__file__).parents[2]
# Only TensorRT-RTX builds ahead of time for other GPUs; the code asks for these with a GPU list.
# The runtime asks a module of the other flavour for none of the last three.
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came out of :mod:`tests.unit.tensorrt_contract`."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt_cu13_bindings is not installed (extra: dev)")
    folder = tmp_path_factory.mktemp("stubs")
    compile_stubs(folder, [f"lib{name}.so.11" for name in LIBRARIES])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.tensorrt_contract", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def used_names() -> dict[str, set[str]]:
    """``A.b`` of every ``trt.A.b`` in the project's code, with the files that use it."""
    used: dict[str, set[str]] = {}
    for path in (*ROOT.glob("export/**/*.py"), *ROOT.glob("runtimes/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (name := dotted(node)):
                used.setdefault(name, set()).add(path.name)
    return used


def dotted(node: ast.expr) -> str:
    """``A.b`` for ``trt.A.b``; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    is_trt = isinstance(node, ast.Name) and node.id == "trt"
    return ".".join(reversed(parts)) if is_trt else ""


def test_bindings_are_the_real_11_4(contract: dict[str, Any]) -> None:
    assert contract["version"].startswith("11.4.")
    assert "Builder.build_serialized_network" in contract["names"]


def test_every_name_in_the_code_exists_in_11_4(contract: dict[str, Any]) -> None:
    used = used_names()
    assert {"Builder", "OnnxParser", "MemoryPoolType.WORKSPACE"} <= used.keys()
    known = set(contract["names"]) | {"__version__", "__name__"}
    missing = {n: f for n, f in used.items() if n not in known and n.split(".")[0] not in RTX_ONLY}
    assert missing == {}


def test_every_name_in_the_code_exists_in_tensorrt_rtx() -> None:
    missing = []
    for name in used_names():
        value = rtx
        for part in name.split("."):
            if not hasattr(value, part):
                missing.append(name)
                break
            value = getattr(value, part)
    assert missing == []


def test_engine_build_makes_only_calls_that_11_4_takes(contract: dict[str, Any]) -> None:
    assert contract["build"] == "ok"
    assert contract["engine"] == "plan"
    assert contract["flags"] == [contract["strongly typed"]]
    assert contract["profiles"] == [
        "('input_ids', (1, 1), (4, 256), (4, 512))",
        "('attention_mask', (1, 1), (4, 256), (4, 512))",
    ]


def test_timing_cache_is_written_and_read_again(contract: dict[str, Any]) -> None:
    assert contract["timings"] == "timings"
    assert contract["second build"] == "ok"


def test_refittable_build_sets_both_flags_and_reads_the_memory(contract: dict[str, Any]) -> None:
    found = contract["refittable"]
    assert found["flags"] == ["REFIT", "STRIP_PLAN"]
    assert found["cleared"] == ["TF32"]  # FP32 is FP32
    assert found["memory"] == [4096]
    assert found["verbosity"] == "DETAILED"
    assert found["kernels"] == ["fc1_myl0_0"]


def test_timing_cache_of_another_machine_begins_anew(contract: dict[str, Any]) -> None:
    assert contract["refittable"]["caches"] == [False, True]


@pytest.mark.parametrize("slip", SLIPS)
def test_misspelt_name_is_caught(contract: dict[str, Any], slip: str) -> None:
    """The negative control: the same run with one name changed must fail."""
    assert contract["slips"][slip].startswith(("AttributeError: ", "TypeError: "))


def test_refused_graph_names_the_node(contract: dict[str, Any]) -> None:
    assert contract["refused graph"].startswith("AdaptrtError: model.onnx: ")
    assert (
        "node encoder.layers.3.mlp.fc1.MatMul (MatMul): does not fit" in contract["refused graph"]
    )


def test_refused_profile_is_an_error(contract: dict[str, Any]) -> None:
    assert contract["refused profile"].startswith("AdaptrtError: ")
    assert "profile" in contract["refused profile"]


def test_build_without_a_plan_gives_the_builders_last_words(contract: dict[str, Any]) -> None:
    assert contract["no plan"].startswith("AdaptrtError: ")
    assert "out of workspace" in contract["no plan"]
    assert "chatter" not in contract["no plan"]


def test_builder_that_cannot_be_made_is_a_missing_driver(contract: dict[str, Any]) -> None:
    """The bindings raise TypeError ("factory function returned nullptr"), they do not give None."""
    assert contract["no driver"].startswith("MissingError: ")
    assert "driver" in contract["no driver"]


def test_progress_monitor_drives_the_bar_and_goes_on(contract: dict[str, Any]) -> None:
    assert contract["monitor"] == [7, 4, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def runtime_outcomes(
    contract: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The executor's outcomes with each flavour's bindings."""
    folder = tmp_path_factory.mktemp("rtx")
    return {
        "tensorrt": contract["runtime"],
        "tensorrt_rtx": tensorrt_runtime_contract.results(rtx, "tensorrt_rtx", folder),
    }


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_executor_and_refit_make_only_calls_that_the_bindings_take(
    runtime_outcomes: dict[str, Any], flavour: str
) -> None:
    assert runtime_outcomes[flavour]["run"] == "ok"


@pytest.mark.parametrize("slip", tensorrt_runtime_contract.RTX_SLIPS)
def test_misspelt_name_of_tensorrt_rtx_is_caught(
    runtime_outcomes: dict[str, Any], slip: str
) -> None:
    found = runtime_outcomes["tensorrt_rtx"]["slips"][slip]
    assert found.startswith(("AttributeError: ", "TypeError: "))


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("slip", tensorrt_runtime_contract.SLIPS)
def test_misspelt_runtime_name_is_caught(
    runtime_outcomes: dict[str, Any], flavour: str, slip: str
) -> None:
    found = runtime_outcomes[flavour]["slips"][slip]
    assert found.startswith(("AttributeError: ", "TypeError: "))
