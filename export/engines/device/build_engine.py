#!/usr/bin/env python3
"""Build this bundle's engine on the device. Needs Python 3.10 and TensorRT 10.3 or newer alone.

python3 build_engine.py
python3 build_engine.py --maxShapes=4x512 --optShapes=1x128 --memPoolSize=workspace:1024
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"
WORKSPACE_MIB = 2048
Manifest = dict[str, Any]
Shapes = list[dict[str, Any]]
Inputs = dict[str, list[dict[str, Any]]]  # the axes of the graph's inputs, by name


def load_tensorrt() -> Any:
    """The module. Help and wrong flags need none, so it is loaded late."""
    try:
        import tensorrt
    except ImportError as missing:
        sys.exit(f"error: {missing}; on JetPack: sudo apt install python3-libnvinfer")
    return tensorrt


def make_logger(trt: Any) -> Any:
    """Prints errors; notes the memory of each profile in ``memory``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.memory: list[int] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                print(f"TensorRT: {message}", file=sys.stderr)
            elif "Total Activation Memory: " in message:
                words = message.split("Total Activation Memory: ")[1]
                self.memory.append(int(words.split()[0]))

    return Logger()


def shape(text: str) -> tuple[int, int]:
    """``8x256`` as (8, 256)."""
    batch, _, tokens = text.partition("x")
    if not (batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected batch x tokens, as in 8x256")
    return int(batch), int(tokens)


def pool(text: str) -> int:
    """``workspace:1024`` in bytes."""
    name, _, size = text.partition(":")
    if name != "workspace" or not size.isdigit() or not int(size):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected workspace:MEBIBYTES")
    return int(size) << 20


def options() -> argparse.Namespace:
    """The flags, named as trtexec names them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, meaning in (
        ("minShapes", "least batch and tokens (default: the bundle's profiles)"),
        ("optShapes", "what the engine is tuned for"),
        ("maxShapes", "most batch and tokens; less takes less memory"),
    ):
        parser.add_argument(f"--{name}", type=shape, metavar="BATCHxTOKENS", help=meaning)
    parser.add_argument(
        "--memPoolSize",
        type=pool,
        default=WORKSPACE_MIB << 20,
        metavar="workspace:MIB",
        help=f"memory the builder may use (default: workspace:{WORKSPACE_MIB})",
    )
    parser.add_argument(
        "--saveEngine",
        type=Path,
        metavar="FILE",
        help="where the engine goes; the manifest then stays as it is (default: the bundle)",
    )
    parser.add_argument(
        "--timingCacheFile",
        type=Path,
        metavar="FILE",
        help="measured kernels, read and written, so that a second build is quick",
    )
    parser.add_argument(
        "--builderOptimizationLevel",
        type=int,
        default=3,
        choices=range(6),
        help="0 (quick build) to 5 (quick engine) (default: %(default)s)",
    )
    chosen = parser.parse_args()
    for flag in ("saveEngine", "timingCacheFile"):
        path = getattr(chosen, flag)
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            parser.error(f"--{flag}: got {str(path)!r}, expected a file in a folder that exists")
    return chosen


def read_manifest() -> Manifest:
    """The bundle's manifest; ends the program where there is none."""
    try:
        manifest: Manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse(f"{MANIFEST}: {error}; copy the whole bundle to the device again")
    return manifest


def refuse(message: str) -> NoReturn:
    """End the program as for a wrong flag."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def profiles(manifest: Manifest, chosen: argparse.Namespace) -> Shapes:
    """The manifest's profiles, or the one the flags describe."""
    limits = (manifest["max_batch"], manifest["max_tokens"])
    least, most = chosen.minShapes or (1, 1), chosen.maxShapes or limits
    best = chosen.optShapes or tuple(map(max, map(min, (8, 256), most), least))
    if not within(most, limits):
        refuse(f"--maxShapes: the model takes at most {limits[0]}x{limits[1]}")
    if not (within(least, best) and within(best, most)):
        refuse(f"expected minShapes <= optShapes <= maxShapes, got {least}, {best}, {most}")
    if not (chosen.minShapes or chosen.optShapes or chosen.maxShapes):
        return list(manifest["profiles"])
    return [{"name": "default", "min": least, "opt": best, "max": most}]


def within(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether a shape fits into another."""
    return all(a <= b for a, b in zip(small, large, strict=True))


def input_shapes(axes: Sequence[dict[str, Any]], ranges: dict[str, Any]) -> list[Sequence[int]]:
    """Least, best and greatest shape of an input, axis by axis as the manifest describes them."""
    shapes: list[Sequence[int]] = []
    for number, key in enumerate(("min", "opt", "max")):
        shapes.append(
            tuple(
                axis["sizes"][number] if axis["sizes"] else ranges[key][axis["profile_side"]]
                for axis in axes
            )
        )
    return shapes


def build(
    trt: Any, chosen: argparse.Namespace, manifest: Manifest, shapes: Shapes, logger: Any
) -> bytes:
    """The engine's bytes; ends the program with TensorRT's reason where there is none."""
    inputs: Inputs = {entry["name"]: entry["axes"] for entry in manifest["inputs"]}
    graph = next(e["path"] for e in manifest["artifacts"] if e["kind"] == "primitive")
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(HERE / graph)):
        for index in range(parser.num_errors):
            print(f"error: {parser.get_error(index).desc()}", file=sys.stderr)
        sys.exit(1)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, chosen.memPoolSize)
    config.builder_optimization_level = chosen.builderOptimizationLevel
    for ranges in shapes:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            profile.set_shape(name, *input_shapes(inputs[name], ranges))
        if config.add_optimization_profile(profile) < 0:
            sys.exit(f"error: TensorRT refused the shapes {ranges}")
    cache = chosen.timingCacheFile
    if cache:
        use_timing_cache(config, cache.read_bytes() if cache.is_file() else b"")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit("error: TensorRT built no engine; its reasons are above")
    if cache:
        write(cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def use_timing_cache(config: Any, known: bytes) -> None:
    """Begin with what was measured before, or anew where another TensorRT or GPU measured it."""
    if config.set_timing_cache(config.create_timing_cache(known), False):
        return
    print("the timing cache is not of this TensorRT and GPU; it begins anew", file=sys.stderr)
    if not config.set_timing_cache(config.create_timing_cache(b""), False):
        sys.exit("error: TensorRT takes no timing cache; leave --timingCacheFile out")


def device_sm() -> str:
    """This GPU as ``sm87``."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        sys.exit(f"error: no NVIDIA driver ({error})")
    device, number, digits = ctypes.c_int(), ctypes.c_int(), ""
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        sys.exit("error: no NVIDIA GPU is visible")
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        digits += str(number.value)
    return "sm" + digits


def write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def record(
    manifest: Manifest,
    plan: bytes,
    name: str,
    gpu: str,
    shapes: Shapes,
    memory: list[int],
    version: str,
) -> None:
    """Add the engine to the manifest, in place of a former one of the same name."""
    entry = {
        "path": name,
        "kind": "tensorrt",
        "bytes": len(plan),
        "sha256": hashlib.sha256(plan).hexdigest(),
        "precision": manifest["precision"],
        "gpu": gpu,
        "stripped": False,
        "memory": memory if len(memory) == len(shapes) else None,
    }
    others = [a for a in manifest["artifacts"] if a["path"] != name]
    manifest["artifacts"] = [*others, entry]
    manifest["profiles"] = shapes
    manifest["versions"]["tensorrt"] = f"tensorrt {version}"
    write(MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def main() -> None:
    """Build the engine and record it in the bundle's manifest."""
    chosen = options()
    manifest = read_manifest()
    shapes = profiles(manifest, chosen)
    trt = load_tensorrt()
    gpu = device_sm()
    logger = make_logger(trt)
    print(f"building for {gpu} with TensorRT {trt.__version__}; this takes minutes")
    plan = build(trt, chosen, manifest, shapes, logger)
    name = f"encoder.{gpu}.engine"
    write(chosen.saveEngine or HERE / name, plan)
    if not chosen.saveEngine:
        record(manifest, plan, name, gpu, shapes, logger.memory, trt.__version__)
    print(f"{chosen.saveEngine or HERE / name}: {len(plan) / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except OSError as failure:  # a full disk, a folder that may not be written
        sys.exit(f"error: {failure}")
