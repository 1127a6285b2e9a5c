"""The command line: parses, resolves "auto", calls the stages, prints what came out.

Exit codes: 0 done, 1 a build step failed, 2 bad input, 3 the gate failed, 4 missing hardware or
library.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from export import options
from export.spec import (
    AdapterMode,
    BuildSpec,
    CalibrationSpec,
    Head,
    Interface,
    Limits,
    Observer,
    Precision,
    Target,
)
from runtimes.cuda import device_sm
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.manifest import Manifest

ALL_TASKS = "all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line on standard error."""
    arguments = _parser().parse_args(argv)
    # Before torch is loaded: where others use the cores too, OpenMP's spinning barriers cost far
    # more than they save (0.16 s a call instead of 0.003 s, measured on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _print_warning
    try:
        code: int = arguments.run(arguments)
    except AdaptrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was published", file=sys.stderr)
        return 130
    return code


def _engine(arguments: argparse.Namespace) -> int:
    from export.pipeline import build_bundles

    _announce_sample(arguments)
    target, gpus = resolve_target(arguments.target, arguments.gpu)
    print(f"target: {target} (asked for: {arguments.target})", file=sys.stderr)
    spec = replace(
        _common_spec(arguments),
        precision=Precision.parse("PRECISION", arguments.precision),
        target=target,
        requested_target=arguments.target,
        gpus=gpus,
        rank=arguments.rank,
        workspace_gib=arguments.workspace,
        parity_tokens=arguments.parity_tokens,
        profiles=tuple(name.strip() for name in arguments.profiles.split(",") if name.strip()),
        refittable=arguments.refittable,
    )
    start = time.perf_counter()
    for path, manifest in build_bundles(spec, _tasks(arguments)):
        print(_summary(path, manifest, time.perf_counter() - start))
        start = time.perf_counter()
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    from export.pipeline import calibrate_bundles

    _announce_sample(arguments)
    for path, calibration, reused in calibrate_bundles(_common_spec(arguments), _tasks(arguments)):
        lengths = calibration.corpus["counts"]["length"]
        listed = ", ".join(f"{count} of up to {bound}" for bound, count in lengths.items())
        print(f"{path}{'  (as it was: nothing changed)' if reused else ''}")
        print(f"  {len(calibration.tensors)} GEMMs; texts by tokens: {listed}")
    return 0


def _announce_sample(arguments: argparse.Namespace) -> None:
    if arguments.model is None:
        print(
            "MODEL is not set: using the embedded sample (8.9 M parameters, to try things out). "
            "The real model: MODEL=jinaai/jina-embeddings-v3",
            file=sys.stderr,
        )


def _tasks(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    if arguments.task == ALL_TASKS and arguments.adapter_path:
        raise InputError("TASK=all with ADAPTER_PATH: name your adapter's task instead")
    return None if arguments.task == ALL_TASKS else (arguments.task,)


def _common_spec(arguments: argparse.Namespace) -> BuildSpec:
    """What ``engine`` and ``calibrate`` both ask for; a calibration needs no TensorRT."""
    from export.source import SAMPLE

    return BuildSpec(
        model=arguments.model or str(SAMPLE),
        revision=arguments.revision,
        task=arguments.task,
        precision=Precision.INT8,
        target=Target.ONNXRUNTIME,
        adapter_path=arguments.adapter_path,
        limits=Limits(max_batch=arguments.max_batch, max_tokens=arguments.max_tokens),
        adapter=AdapterMode.parse("ADAPTER", arguments.adapter),
        interface=Interface.parse("INTERFACE", arguments.interface),
        head=Head.parse("HEAD", arguments.head),
        out=arguments.out,
        calibration=CalibrationSpec(
            data=arguments.calibration_data,
            table=arguments.calibration,
            texts=arguments.calibration_texts,
            observer=Observer.parse("OBSERVER", arguments.observer),
            fallback_max=arguments.int8_fallback_max,
        ),
    )


def resolve_target(asked: str, gpu_list: str) -> tuple[Target, tuple[str, ...]]:
    """The concrete target and GPU list.

    ``auto`` is full TensorRT where its library and a GPU are there, else TensorRT-RTX. Full
    TensorRT builds for the GPU that is present, whatever the list says.
    """
    gpus = tuple(dict.fromkeys(g.strip().lower() for g in gpu_list.split(",") if g.strip()))
    if asked == "auto":
        library = importlib.util.find_spec("tensorrt") is not None
        asked = Target.TENSORRT if library and device_sm() else Target.TENSORRT_RTX
    target = Target.parse("TARGET", asked, "auto")
    if target is Target.TENSORRT:
        present = device_sm()
        if present is None:
            raise MissingError(
                "TARGET=tensorrt builds on the GPU it is for, and no NVIDIA GPU is visible "
                "(driver or cuda-python missing); use TARGET=tensorrt_rtx for RTX GPUs, which "
                "builds without one"
            )
        return target, (present,)
    return target, gpus


def _summary(path: Path, manifest: Manifest, seconds: float) -> str:
    parity = manifest.parity
    lines = [f"{path}  ({seconds:.0f} s)"]
    for entry in manifest.artifacts:
        label = entry.kind + (f" {entry.gpu}" if entry.gpu else "")
        lines.append(f"  {entry.path:26} {entry.bytes / 1e6:9.1f} MB  {label}")
    lines.append(
        f"  parity: {parity['rows']} texts, minimum cosine {parity['min_cosine']:.7f} "
        f"(gate {parity['threshold']}), mean {parity['mean_cosine']:.7f}\n"
        f"          {parity['executed']} against {parity['reference']}; the reference itself in "
        f"BF16: {parity['reference_bf16_min_cosine']:.7f}"
    )
    if (quantised := manifest.quantisation) is not None:
        lines.append(
            f"  INT8: {quantised['int8_share']:.1%} of the GEMMs' work, "
            f"{len(quantised['fallback'])} GEMMs fell back"
        )
    return "\n".join(lines)


def _verify(arguments: argparse.Namespace) -> int:
    from export.verify import verify

    reports = verify(arguments.bundle)
    print(f"{arguments.bundle}: every file as built")
    for kind, report in reports.items():
        print(
            f"  {kind} graph: {report.rows} texts, minimum cosine {report.min_cosine:.7f} "
            f"(gate {report.threshold})"
        )
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    import numpy as np

    from runtimes import Embedder

    texts = arguments.text or [line.rstrip("\n") for line in sys.stdin]
    if arguments.out is not None and arguments.out.suffix != ".npy":
        raise InputError(f"--out: got {arguments.out}, expected a name that ends in .npy")
    with Embedder.load(
        arguments.bundle, runtime=arguments.runtime, adapter=arguments.adapter
    ) as embedder:
        vectors = embedder.encode(
            texts, task=arguments.task, dimensions=arguments.dimensions, prefix=arguments.prefix,
            strict=arguments.strict, progress=True,
        )  # fmt: skip
    if arguments.out is not None:
        try:
            np.save(arguments.out, vectors)
        except OSError as error:
            raise InputError(f"--out: cannot write {arguments.out} ({error.strerror})") from error
        return 0
    for text, vector in zip(texts, vectors, strict=True):
        print(json.dumps({"text": text, "embedding": [float(x) for x in vector]},
                         ensure_ascii=False))  # fmt: skip
    return 0


def _adapter(arguments: argparse.Namespace) -> int:
    from export.adapter_export import write_adapter

    write_adapter(arguments.peft, arguments.bundle, arguments.out)
    print(arguments.out)
    return 0


def _refit(arguments: argparse.Namespace) -> int:
    from export.pipeline import build_bundles
    from export.refit import EngineSource
    from export.source import SAMPLE

    source = EngineSource.open(arguments.engine)
    spec = source.spec(
        arguments.model or str(SAMPLE), arguments.task, arguments.out,
        revision=arguments.revision, adapter_path=arguments.adapter_path,
        parity_tokens=arguments.parity_tokens,
    )  # fmt: skip
    start = time.perf_counter()
    for path, manifest in build_bundles(spec, (arguments.task,), source):
        print(_summary(path, manifest, time.perf_counter() - start))
    return 0


def _triton(arguments: argparse.Namespace) -> int:
    try:
        import tritonclient.grpc  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"tritonclient is not installed ({error}); pip install 'adaptrt[serve]'"
        ) from error
    from export.triton.configs import Backend, Release
    from export.triton.repository import RepositorySpec, write_repository
    from export.triton.settings import read_settings

    encoder = arguments.encoder
    models = write_repository(RepositorySpec(
        bundles=tuple(dict.fromkeys(arguments.bundle)), out=arguments.out,
        release=Release.parse(arguments.triton_version),
        backend=None if encoder == "auto" else Backend.parse("ENCODER", encoder, "auto"),
        settings=read_settings(arguments.settings),
    ))  # fmt: skip
    print(f"{arguments.out}: {', '.join(models)}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from export.triton.server import ServerSpec, replace_process

    spec = ServerSpec(
        repository=arguments.repository, environment=arguments.environment,
        address=arguments.address, http_port=arguments.http_port, grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port, cache=arguments.cache,
    )  # fmt: skip
    replace_process(spec)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adaptrt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add_options, run, about in (
        ("engine", options.engine, _engine, "build verified engine bundles"),
        ("calibrate", options.calibrate, _calibrate, "the ranges that INT8 needs, from texts"),
        ("refit", options.refit, _refit, "another task's bundle around the same engine"),
        ("adapter", options.adapter, _adapter, "a PEFT folder as a file for a slot bundle"),
        ("verify", options.verify, _verify, "re-hash a bundle and run its parity again"),
        ("triton", options.triton, _triton, "a Triton model repository from bundles"),
        ("serve", options.serve, _serve, "serve a repository on this machine"),
        ("encode", options.encode, _encode, "texts to vectors, as JSON lines or .npy"),
    ):
        command = commands.add_parser(name, help=about)
        add_options(command)
        command.set_defaults(run=run)
    return parser


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line on standard error, without the place in our code that gave it."""
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
