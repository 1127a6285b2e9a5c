"""The command line: parses, calls the stages, prints what came out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from export.build.requirements import require_builder
from export.console.failures import CLOSED, INTERRUPTED, message_for
from export.console.parser import make_parser
from export.console.progress import show_on_stderr, stage
from export.console.streams import complain, give_up_unwritable, prepare
from export.request import BuildRequest
from runtimes.errors import InputError, MissingError
from runtimes.manifest import Manifest
from runtimes.schemes import SCHEMES

if TYPE_CHECKING:
    from export.build.inputs import BuildInputs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line on standard error."""
    # Before torch is loaded: where others use the cores too, OpenMP's spinning barriers cost far
    # more than they save (0.16 s a call instead of 0.003 s, measured on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = bool(os.environ.get("ADAPTRT_DEBUG"))
    prepare()
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
        debug = debug or arguments.debug
        show_on_stderr(logging.WARNING if getattr(arguments, "quiet", False) else logging.INFO)
        if arguments.command is None:
            code = _no_command(parser, arguments)
        else:
            code = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written is found out here, not after the end
    except BrokenPipeError:
        code = CLOSED
    except SystemExit:  # --help
        raise
    except BaseException as error:  # noqa: BLE001 - the boundary; a panic in Rust is no Exception
        message, code = message_for(error, debug=debug)
        complain(message if code == INTERRUPTED else f"error: {message}")
    finally:
        give_up_unwritable()
    return code


def _no_command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if not arguments.version:
        parser.print_help(sys.stderr)
        return InputError.exit_code
    from importlib.metadata import version

    print(f"adaptrt {version('adaptrt')}")
    return 0


def _request(arguments: argparse.Namespace) -> BuildRequest:
    """What the options of ``engine`` or ``calibrate`` ask for; the latter has fewer."""
    names = [field.name for field in fields(BuildRequest) if hasattr(arguments, field.name)]
    return BuildRequest(**{name: getattr(arguments, name) for name in names})


def _engine(arguments: argparse.Namespace) -> int:
    require_builder()
    from export.build.inputs import open_build
    from export.build.resolve import engine_spec

    request, start = _request(arguments), time.perf_counter()
    _build(open_build(engine_spec(request)), request.tasks, start)
    return 0


def _build(inputs: BuildInputs, tasks: tuple[str, ...] | None, start: float) -> None:
    """Build and print; what loads torch is imported once nothing else is wrong."""
    with stage("loading PyTorch"):
        from export.build.pipeline import build_bundles

    for path, manifest in build_bundles(inputs, tasks):
        print(_summary(path, manifest, time.perf_counter() - start))
        start = time.perf_counter()


def _calibrate(arguments: argparse.Namespace) -> int:
    require_builder()
    from export.build.inputs import open_build
    from export.build.resolve import calibration_spec

    request = _request(arguments)
    inputs = open_build(calibration_spec(request))
    with stage("loading PyTorch"):
        from export.build.pipeline import calibrate_bundles

    for path, calibration, reused in calibrate_bundles(inputs, request.tasks):
        lengths = calibration.corpus.counts.length
        listed = ", ".join(f"{count} of up to {bound}" for bound, count in lengths.items())
        print(f"{path}{'  (as it was: nothing changed)' if reused else ''}")
        print(f"  {len(calibration.tensors)} GEMMs; texts by tokens: {listed}")
    return 0


def _summary(path: Path, manifest: Manifest, seconds: float) -> str:
    lines = [f"{path}  ({seconds:.0f} s)"]
    for entry in manifest.artifacts:
        label = entry.kind + (f" {entry.gpu}" if entry.gpu else "")
        lines.append(f"  {entry.path:28} {_size(entry.bytes):>12}  {label}")
    if (parity := manifest.parity) is not None:
        lines.append(
            f"  parity: {parity.rows} texts, minimum cosine {parity.min_cosine:.7f} "
            f"(gate {parity.threshold}), mean {parity.mean_cosine:.7f}\n"
            f"          {parity.executed} against {parity.reference}; the reference itself in "
            f"BF16: {parity.reference_bf16_min_cosine:.7f}"
        )
    if (quantisation := manifest.quantisation) is not None:
        lines.append(
            f"  {SCHEMES[quantisation.scheme].label}: {quantisation.share:.1%} of the GEMMs' work, "
            f"{len(quantisation.fallback)} GEMMs fell back"
        )
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _verify(arguments: argparse.Namespace) -> int:
    from export.gate.verify import verify

    verification = verify(arguments.bundle)
    print(f"{arguments.bundle}: every file as built")
    for line in verification.lines():
        print(f"  {line}")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    from export.console.encode import read_texts, vector_output
    from runtimes import Embedder

    with vector_output(arguments.out) as write:
        texts = read_texts(arguments.text, arguments.file)
        with Embedder.load(
            arguments.bundle, runtime=arguments.runtime, adapter=arguments.adapter
        ) as embedder:
            vectors = embedder.encode(
                texts,
                task=arguments.task,
                dimensions=arguments.dimensions,
                prefix=arguments.prefix,
                strict=arguments.strict,
                progress=True,
            )
        write(texts, vectors)
    return 0


def _adapter(arguments: argparse.Namespace) -> int:
    require_builder()
    from export.bundle.slot_adapter import write_adapter

    write_adapter(arguments.peft, arguments.bundle, arguments.out)
    print(arguments.out)
    return 0


def _refit(arguments: argparse.Namespace) -> int:
    require_builder()
    from export.build.inputs import open_build
    from export.checkpoint.source import SAMPLE
    from export.engines.reuse import EngineSource

    source = EngineSource.open(arguments.engine)
    spec = source.spec(
        arguments.model or str(SAMPLE),
        arguments.task,
        arguments.out,
        revision=arguments.revision,
        adapter_path=arguments.adapter_path,
        parity_tokens=arguments.parity_tokens,
        name=arguments.name,
    )
    start = time.perf_counter()
    _build(open_build(spec, source), (arguments.task,), start)
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
    models = write_repository(
        RepositorySpec(
            bundles=tuple(dict.fromkeys(arguments.bundle)),
            out=arguments.out,
            release=Release.parse(arguments.triton_version),
            backend=None if encoder == "auto" else Backend.parse("ENCODER", encoder, "auto"),
            settings=read_settings(arguments.settings),
        )
    )
    print(f"{arguments.out}: {', '.join(models)}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from export.triton.server import ServerSpec, replace_process

    spec = ServerSpec(
        repository=arguments.repository,
        environment=arguments.environment,
        address=arguments.address,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
        cache=arguments.cache,
    )
    replace_process(spec)
    return 0


def _parser() -> argparse.ArgumentParser:
    return make_parser(
        {
            "engine": _engine,
            "calibrate": _calibrate,
            "refit": _refit,
            "adapter": _adapter,
            "verify": _verify,
            "triton": _triton,
            "serve": _serve,
            "encode": _encode,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
