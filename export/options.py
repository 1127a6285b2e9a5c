"""The options of every command. They carry text and numbers; what they mean is checked later."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def calibrate(command: ArgumentParser) -> None:
    """What a bundle is made from: ``engine`` has these too."""
    add = command.add_argument
    add("--model", help="a folder or a hub id, owner/name (default: the embedded sample)")
    add("--revision", help="of the hub id: a branch, tag or commit (default: main)")
    add("--task", default="classification",
        help="an adapter's name, base for none, all for one bundle per adapter")  # fmt: skip
    add("--adapter-path", type=Path, help="a PEFT folder of your own, used under --task's name")
    add("--adapter", default="merged",
        help="merged, switchable (every task in one bundle) or slot (%(default)s)")  # fmt: skip
    add("--interface", default="sentence",
        help="sentence, or official: that of the published ONNX file")  # fmt: skip
    add("--head", default="sentence", help="sentence, or chunks: for late chunking")
    add("--max-batch", type=int, default=32, help="default: %(default)s")
    add("--max-tokens", type=int, default=8192, help="default: %(default)s")
    add("--out", type=Path, default=Path("build"), help="default: %(default)s")
    add("--quiet", action="store_true", help="no progress lines on standard error")
    add("--calibration-data", type=Path,
        help="INT8: texts in .txt, .jsonl or .parquet (default: the project's)")  # fmt: skip
    add("--calibration", type=Path, help="a calibration.json of the same model, task and texts")
    add("--calibration-texts", type=int, default=256, help="how many (default: %(default)s)")
    add("--observer", default="min-max",
        help="min-max, percentile, entropy or mse (default: %(default)s)")  # fmt: skip
    add("--int8-fallback-max", type=float, default=0.25,
        help="the share of GEMM work that may stay out of INT8 (default: %(default)s)")  # fmt: skip


def engine(command: ArgumentParser) -> None:
    """Everything ``make engine`` can set."""
    calibrate(command)
    add = command.add_argument
    add("--name", help="the bundle's folder in OUT/model (default: one that says the choices)")
    add("--rank", type=int, default=16, help="of a slot (default: %(default)s)")
    add("--precision", default="fp16", help="fp32, fp16, bf16 or int8 (default: %(default)s)")
    add("--target", default="auto",
        help="tensorrt_rtx, tensorrt, tensorrt10 (to build on a Jetson), onnxruntime or auto "
             "(default: %(default)s)")  # fmt: skip
    add("--gpu", default="sm86,sm89,sm120", help="for tensorrt_rtx (default: %(default)s)")
    add("--profiles", default="",
        help="short,long: shapes by length, with memory each (default: one for all)")  # fmt: skip
    add("--refittable", action="store_true",
        help="engines without weights, which the runtime puts in; needs a GPU")  # fmt: skip
    add("--workspace", type=float, default=8.0, help="builder memory in GiB (%(default)s)")
    add("--parity-tokens", type=int, default=2048,
        help="longest text of the parity gate (default: %(default)s)")  # fmt: skip


def refit(command: ArgumentParser) -> None:
    """Another task for an engine without weights."""
    add = command.add_argument
    add("--engine", type=Path, required=True,
                         help="a bundle built with --refittable")  # fmt: skip
    add("--task", required=True, help="whose weights go in")
    add("--model", help="the checkpoint (default: the embedded sample)")
    add("--revision", help="the hub revision")
    add("--adapter-path", type=Path, help="a PEFT folder of your own")
    add("--parity-tokens", type=int, default=2048,
                         help="longest text of the parity gate (default: %(default)s)")  # fmt: skip
    add("--name", help="the bundle's folder (default: one that says the choices)")
    add("--out", type=Path, help="default: where the engine's bundle is")


def adapter(command: ArgumentParser) -> None:
    """A PEFT folder as a file."""
    add = command.add_argument
    add("--peft", type=Path, required=True)
    add("--bundle", type=Path, required=True)
    add("--out", type=Path, required=True, help="name.onnx_adapter")


def verify(command: ArgumentParser) -> None:
    """A bundle."""
    add = command.add_argument
    add("--bundle", type=Path, required=True)


def triton(command: ArgumentParser) -> None:
    """A model repository."""
    add = command.add_argument
    add("--bundle", type=Path, nargs="+", required=True)
    add("--out", type=Path, default=Path("model_repository"))
    add("--encoder", default="auto",
                         help="tensorrt, onnxruntime, python or auto (%(default)s)")  # fmt: skip
    add("--triton-version", default="24.10",
                         help="the container's name, such as 25.08 (%(default)s)")  # fmt: skip
    add("--settings", type=Path, help="a TOML file; README.md lists its entries")


def serve(command: ArgumentParser) -> None:
    """A server on this machine."""
    add = command.add_argument
    add("--repository", type=Path, default=Path("model_repository"))
    add("--environment", type=Path, default=Path(".venv-triton"))
    add("--address", default="127.0.0.1")
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        add(f"--{name}-port", type=int, default=port)
    add("--cache", type=int, default=0, help="response cache in bytes")


def encode(command: ArgumentParser) -> None:
    """Texts and how to embed them."""
    add = command.add_argument
    add("--bundle", type=Path, required=True)
    add("--out", type=Path, help="write a .npy file instead of JSON lines")
    add("--runtime", default="onnxruntime",
                         help="onnxruntime, onnxruntime_cuda, tensorrt_rtx or tensorrt "
                              "(default: %(default)s)")  # fmt: skip
    add("--task", help="for a switchable bundle: which adapter")
    add("--adapter", type=Path, help="an .onnx_adapter file for a slot")
    add("--dimensions", type=int, help="cut the vectors to this length")
    add("--no-prefix", dest="prefix", action="store_false",
                         help="leave out the task's instruction")  # fmt: skip
    add("--strict", action="store_true", help="refuse texts that are too long")
    add("text", nargs="*", help="texts; without any, one per line of stdin")
