"""Runs builder, executor and refit against the real TensorRT 11.4 bindings, without a GPU.

``python -m tests.unit.tensorrt_contract STUBS`` prints what came out as JSON. The bindings'
classes, enums and signatures are the real ones, behind stub libraries that make nothing; objects
that only a driver could make are autospec'ed doubles whose calls are checked against the
signatures that pybind11 wrote into the docstrings. A process of its own, since the stubs are
loaded for good.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import export.engines.builder
from export.engines.builder import EngineSpec
from export.spec import Limits
from tests.unit.binding_doubles import flavour

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SPEC = EngineSpec(limits=Limits(max_batch=4, max_tokens=512), gpu=None, workspace=1 << 20)
# One slip per kind of name.
SLIPS = {
    "method": ("set_memory_pool_limit(", "set_memory_pool_limits("),
    "enum member": ("MemoryPoolType.WORKSPACE", "MemoryPoolType.WORKSPACES"),
    "flag": (".STRONGLY_TYPED", ".STRONG_TYPED"),
    "assigned attribute": ("config.progress_monitor =", "config.progress_monitors ="),
    "class": ("trt.OnnxParser(", "trt.ONNXParser("),
    "keyword": ("ignore_mismatch=", "ignore_mismatches="),
    "argument count": ("create_timing_cache(known)", "create_timing_cache(known, known)"),
    "argument type": (
        "set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE",
        'set_memory_pool_limit("WORKSPACE"',
    ),
    "network's name": ("network.num_inputs", "network.nb_inputs"),
}


def load_bindings(stubs: Path) -> Any:
    for name in LIBRARIES:
        ctypes.CDLL(str(stubs / f"lib{name}.so.11"), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_bindings

    return tensorrt_bindings


def outcome(call: Callable[[], Any]) -> str:
    """``ok``, or the error's type and words."""
    from tests.unit.tensorrt_runtime_contract import outcome as of

    return of(call)


def with_slip(real: Any, slip: tuple[str, str], folder: Path) -> str:
    """The engine module with one name misspelt, run the same way."""
    source = Path(export.engines.builder.__file__).read_text()
    if source.count(slip[0]) != 1:
        return f"ok (the engine module no longer says {slip[0]!r} once)"
    module = types.ModuleType("misspelt")
    sys.modules["misspelt"] = module  # dataclasses look their module up
    exec(compile(source.replace(*slip), "misspelt", "exec"), module.__dict__)
    return outcome(lambda: build(flavour(real), folder, module.build_engine))


def build(
    trt: Any, folder: Path, build_engine: Any = export.engines.builder.build_engine, **options: Any
) -> Any:
    from dataclasses import replace

    cache = folder / "cache" / "tensorrt.timing"
    spec = replace(SPEC, timing_cache=cache, **options)
    return build_engine(trt, folder / "model.onnx", folder / "engine", spec)


def refittable(real: Any, folder: Path) -> dict[str, Any]:
    """A build without weights, in a named profile, with a timing cache that is refused."""
    trt = flavour(real, cache_fits=False)
    engine = build(trt, folder, profiles=("short",), refittable=True)
    _, config, _ = trt.made
    return {
        "memory": engine.memory,
        "kernels": [kernel.name for plan in engine.plans for kernel in plan.kernels],
        "verbosity": config.profiling_verbosity.name,
        "flags": [call.args[0].name for call in config.set_flag.call_args_list],
        "cleared": [call.args[0].name for call in config.clear_flag.call_args_list],
        "caches": [call.args[0] == b"" for call in config.create_timing_cache.call_args_list],
    }


def monitor(real: Any) -> list[int]:
    """The real IProgressMonitor base, driving a bar."""
    bar = mock.Mock(total=0, n=0)
    bar.update.side_effect = lambda steps: setattr(bar, "n", bar.n + steps)
    made = export.engines.builder.make_monitor(real, bar)
    made.phase_start("parse", None, 3)
    made.phase_start("build", "parse", 4)
    goes_on = [made.step_complete("build", step) for step in range(4)]
    made.phase_finish("build")
    return [bar.total, bar.n, *map(int, goes_on)]


def main() -> None:
    from tests.unit.tensorrt_runtime_contract import results as runtime_results

    real = load_bindings(Path(sys.argv[1]))
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    good = flavour(real)
    result = {
        "version": real.__version__,
        "build": outcome(lambda: build(good, folder)),
        "engine": (folder / "engine").read_bytes().decode(),
        "timings": (folder / "cache" / "tensorrt.timing").read_bytes().decode(),
        "second build": outcome(lambda: build(flavour(real), folder)),
        "profiles": [
            str(call.args)
            for call in good.made[0].create_optimization_profile().set_shape.call_args_list
        ],
        "flags": good.made[0].create_network.call_args.args,
        "strongly typed": 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "refittable": refittable(real, folder),
        "refused graph": outcome(lambda: build(flavour(real, parses=False), folder)),
        "refused profile": outcome(lambda: build(flavour(real, profile=-1), folder)),
        "no plan": outcome(lambda: build(flavour(real, plan=None), folder)),
        "no driver": outcome(lambda: build(real, folder)),
        "monitor": monitor(real),
        "slips": {name: with_slip(real, slip, folder) for name, slip in SLIPS.items()},
        "names": dotted_names(real),
        "runtime": runtime_results(real, "tensorrt", folder),
    }
    print(json.dumps(result))


def dotted_names(real: Any) -> list[str]:
    """``Class.member`` for everything in the bindings."""
    names = set()
    for name, value in vars(real).items():
        names.add(name)
        if inspect.isclass(value):
            names |= {f"{name}.{member}" for member in dir(value)}
    return sorted(names)


if __name__ == "__main__":
    main()
