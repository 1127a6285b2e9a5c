"""Imports point one way; what a device imports stays light; everything imports where it should."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

import adaptrt
import calibration
import export
import runtimes

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("adaptrt", "export", "runtimes", "calibration")
# From the bottom up: a module imports what its own line or an earlier one names. A name stands for
# everything in that package; `X.__init__` is a package whose contents are listed one by one.
FLOORS = (
    ("export.__init__", "runtimes.errors"),
    (
        "runtimes.arguments",
        "runtimes.arrays",
        "runtimes.bundle_files",
        "runtimes.canaries",
        "runtimes.choices",
        "runtimes.combinations",
        "runtimes.cpu_kinds",
        "runtimes.files",
        "runtimes.manifest",
        "runtimes.manifest_records",
        "runtimes.manifest_rules",
        "runtimes.manifest_schema",
        "runtimes.manifest_upgrade",
        "runtimes.outputs",
        "runtimes.profiles",
        "runtimes.schemes",
        "runtimes.signals",
        "runtimes.tables",
        "runtimes.tasks",
        "runtimes.temporary",
        "runtimes.tensors",
        "runtimes.tuned",
        "runtimes.typed_json",
    ),
    ("runtimes.text",),
    ("runtimes.executors",),
    ("runtimes.auto", "runtimes.fingerprint", "runtimes.heads", "runtimes.open"),
    ("runtimes.index",),
    ("runtimes.embedder",),
    ("runtimes.corpus",),
    ("runtimes.serving",),
    ("runtimes.api",),
    ("runtimes.__init__",),
    ("calibration",),
    ("export.devices", "export.request", "export.spec"),
    ("export.console",),
    ("export.checkpoint",),
    ("export.vocabulary",),
    ("export.graph",),
    ("export.lowering",),
    ("export.bundle",),
    ("export.engines",),
    ("export.emulation",),
    ("export.gate",),
    ("export.report",),
    ("export.proof",),
    ("export.evaluation",),
    ("export.drift",),
    ("export.tuning",),
    ("export.quantisation",),
    ("export.build",),
    ("export.triton",),
    ("export.cli",),
    ("adaptrt",),
)
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "ml_dtypes",
    "safetensors",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "huggingface_hub",
    "tritonclient",
    "export",
}
LIGHT = [
    name
    for _, name, _ in pkgutil.walk_packages(runtimes.__path__, "runtimes.")
    if name != "runtimes.executors.torch_reference"
]
# Modules of extras that the tests' environment lacks, by what each names first. tests/interop
# imports them.
ELSEWHERE = {
    "export.evaluation.evaluate": "mteb",
    "export.evaluation.offline": "datasets",
    "export.evaluation.results": "mteb",
    "export.evaluation.tasks": "mteb",
}
# Those of adaptrt.integrations need libraries of their own (tests/unit/test_integrations.py).
ALL = [
    name
    for package in (adaptrt, export, runtimes, calibration)
    for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not name.startswith("adaptrt.integrations.")
]


def sources() -> dict[str, str]:
    """The text of every module; a package's own is ``package.__init__``."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p.read_text() for p in files}


def imports(text: str, known: set[str]) -> Iterator[str]:
    """The project's modules that a module names, wherever in it: for types alone, and late, too."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            # A module, a package, a name in a module, or a name in a package.
            for module in (name, f"{name}.__init__", *_parents(name)):
                if module in known:
                    yield module
                    break


def _parents(name: str) -> tuple[str, str]:
    parent = name.rpartition(".")[0]
    return parent, f"{parent}.__init__"


def floor(module: str) -> int:
    """The number of a module's floor; -1 for one that no floor lists."""
    for number, names in enumerate(FLOORS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return -1


def upward(modules: Mapping[str, str]) -> list[tuple[str, str]]:
    """The imports that point up, as pairs of the module and what it imports."""
    known = set(modules)
    return [
        (module, imported)
        for module, text in modules.items()
        for imported in imports(text, known)
        if floor(imported) > floor(module)
    ]


def loaded_after(statement: str) -> set[str]:
    """Top-level names that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_every_module_has_one_floor() -> None:
    modules = sources()
    assert {module for module in modules if floor(module) < 0} == set()
    names = [name for names in FLOORS for name in names]
    assert len(names) == len(set(names))
    stale = [n for n in names if not any(m == n or m.startswith(f"{n}.") for m in modules)]
    assert stale == []


def test_imports_point_one_way() -> None:
    assert upward(sources()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("runtimes.text.tokens", "from runtimes.embedder import Embedder"),
        ("runtimes.manifest", "from runtimes import Embedder"),
        ("runtimes.open", "import export.spec"),
        ("export.graph.trace", "if TYPE_CHECKING:\n    from export.gate.gate import Gate"),
        ("export.lowering.set_opset", "def late():\n    from export.build import pipeline"),
        ("calibration.table", "from export import spec"),
        ("export.cli", "import adaptrt"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, line: str) -> None:
    """Guards the test above."""
    modules = sources()
    assert [m for m, _ in upward(modules | {module: f"{modules[module]}\n{line}"})] == [module]


def test_runtimes_import_nothing_that_a_device_lacks() -> None:
    modules = sources()
    for module, text in modules.items():
        if module.startswith("runtimes."):
            found = {name.partition(".")[0] for name in imports(text, set(modules))}
            assert found <= {"runtimes"}, module


def test_adaptrt_imports_nothing_until_it_is_asked_for() -> None:
    assert loaded_after("import adaptrt") & {*HEAVY, "numpy", "runtimes", "calibration"} == set()


def test_embedding_imports_none_of_the_heavy_libraries() -> None:
    loaded = loaded_after("from adaptrt import Embedder, InputError, TruncationWarning")
    assert loaded & {*HEAVY, "onnxruntime"} == set()


def test_runtimes_import_without_the_heavy_libraries() -> None:
    assert {"runtimes.embedder", "runtimes.executors.ort", "runtimes.text.tokens"} <= set(LIGHT)
    statement = "\n".join(f"import {name}" for name in ["runtimes", *LIGHT])
    assert loaded_after(statement) & HEAVY == set()


@pytest.mark.parametrize(
    "module",
    ["adaptrt.api", "export.cli", "export.console.encode", "export.gate.verify"],
)
def test_light_commands_import_without_the_heavy_libraries(module: str) -> None:
    assert loaded_after(f"import {module}") & HEAVY == {"export"}


def test_help_reads_no_metadata_of_packages() -> None:
    assert loaded_after("import export.cli") & {"importlib.metadata", "packaging"} == set()


def test_checkpoints_are_read_without_torch() -> None:
    loaded = loaded_after("import export.checkpoint.reader")
    assert loaded & HEAVY == {"export", "ml_dtypes", "safetensors"}


def test_triton_repository_needs_the_client_alone() -> None:
    assert loaded_after("import export.triton.repository") & HEAVY == {"export", "tritonclient"}


def test_light_import_check_sees_torch() -> None:
    """Guards the tests above."""
    assert "torch" in loaded_after("import runtimes.executors.torch_reference") & HEAVY


@pytest.mark.parametrize("name", [name for name in ALL if name not in ELSEWHERE])
def test_module_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize(("name", "package"), ELSEWHERE.items())
def test_module_lacks_one_package_alone(name: str, package: str) -> None:
    """A name stays in ``ELSEWHERE`` only while that is so."""
    assert name in ALL
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ModuleNotFoundError) as raised:
        importlib.import_module(name)
    assert raised.value.name == package


def test_public_names_are_there() -> None:
    assert {"Embedder", "InputError", "GateError"} <= set(runtimes.__all__)
    assert all(hasattr(runtimes, name) for name in runtimes.__all__)
