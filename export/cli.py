"""The command line: parses, calls the stages, prints what came out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from export.console.failures import CLOSED, INTERRUPTED, TERMINATED, message_for
from export.console.parser import make_parser
from export.console.progress import bars_shown, log, show_on_stderr, stage
from export.console.results import bundle_lines, calibration_lines
from export.console.streams import complain, give_up_unwritable, prepare
from export.console.termination import raised_on_sigterm
from export.request import BuildRequest
from runtimes.errors import InputError, MissingError, shown

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
        show_on_stderr(quiet=arguments.quiet, verbose=arguments.verbose)
        if arguments.command is None:
            code = _no_command(parser, arguments)
        else:
            with raised_on_sigterm():
                code = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written is found out here, not after the end
    except BrokenPipeError:
        code = CLOSED
    except SystemExit:  # --help
        raise
    except BaseException as error:  # noqa: BLE001 - the boundary; a panic in Rust is no Exception
        message, code = message_for(error, debug=debug)
        complain(message if code in (INTERRUPTED, TERMINATED) else f"error: {message}")
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


def _require_builder() -> None:
    """Imported here: --help and encode need none of the packages' metadata, which takes 0.1 s."""
    from export.build.requirements import require_builder

    require_builder()


def _engine(arguments: argparse.Namespace) -> int:
    _require_builder()
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
        print(bundle_lines(path, manifest, time.perf_counter() - start))
        start = time.perf_counter()


def _calibrate(arguments: argparse.Namespace) -> int:
    _require_builder()
    from export.build.inputs import open_build
    from export.build.resolve import calibration_spec

    ways = [name for name in ("calibration", "merge", "compare") if getattr(arguments, name)]
    if len(ways) > 1:
        raise InputError(f"--{ways[0]} and --{ways[1]}: got both, expected one of them")
    request = _request(arguments)
    if arguments.compare:
        return _compare(request, arguments)
    if arguments.json:
        raise InputError("--json: is for --compare; add --compare LIST")
    inputs = open_build(calibration_spec(request))
    with stage("loading PyTorch"):
        from export.build.calibrations import calibrate_bundles

    made = calibrate_bundles(inputs, request.tasks, arguments.merge or ())
    for path, calibration, reused in made:
        lengths = calibration.corpus.counts.length
        print(calibration_lines(path, len(calibration.tensors), lengths, reused=reused))
    return 0


def _compare(request: BuildRequest, arguments: argparse.Namespace) -> int:
    from export.build.comparison import compare_calibrations
    from export.quantisation.compare import as_json, text_lines

    found = compare_calibrations(arguments.compare, request)
    print(json.dumps(as_json(found), indent=2) if arguments.json else "\n".join(text_lines(found)))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from export.gate.verify import verify

    verification = verify(arguments.bundle)
    print(f"{arguments.bundle}: every file as built")
    for line in verification.lines():
        print(f"  {line}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from export.report.inspection import as_json, as_page, inspect, text_lines

    if arguments.measured is not None and arguments.html is None:
        raise InputError("--measured: is for the page; add --html FILE")
    if arguments.html is not None and not arguments.html.parent.is_dir():
        raise InputError(f"--html: {shown(str(arguments.html.parent))}: no such folder")
    if arguments.against is not None and arguments.html is not None:
        raise InputError("--against: is for the table and for --json; leave --html out")
    found = inspect(
        arguments.bundle, arguments.gpu, arguments.batch, arguments.tokens, arguments.against
    )
    if arguments.html is not None:
        from runtimes.files import replacing

        page = as_page(found, arguments.measured)
        with replacing(arguments.html) as staged:
            staged.write_text(page, encoding="utf-8")
        print(arguments.html)
    elif arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        print(*text_lines(found), sep="\n")
    return 0


def _drift(arguments: argparse.Namespace) -> int:
    _require_builder()
    from export.drift.command import run

    print(run(arguments))
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    from export.console.encode import read_texts, vector_output
    from runtimes import Embedder

    with vector_output(arguments.out) as write:
        texts = read_texts(arguments.text, arguments.file)
        with Embedder.load(
            arguments.bundle,
            runtime=arguments.runtime,
            adapter=arguments.adapter,
            unknown=arguments.unknown,
            fallback=arguments.fallback,
        ) as embedder:
            log.debug("  %s runs %d texts", embedder.runtime.name, len(texts))
            vectors = embedder.encode(
                texts,
                task=arguments.task,
                dimensions=arguments.dimensions,
                output=arguments.output_type,
                prefix=arguments.prefix,
                strict=arguments.strict,
                progress=bars_shown(),
            )
            if embedder.sent_on:
                log.info("%d of %d texts: by %s", embedder.sent_on, len(texts), arguments.fallback)
        write(texts, vectors)
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    from export.console.embed import embed

    print(*embed(arguments), sep="\n")
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from export.console.index import run

    return run(arguments)


def _tune(arguments: argparse.Namespace) -> int:
    from export.tuning.table import text_lines
    from export.tuning.tune import TuneSpec, forget, tune

    if arguments.forget:
        found = forget(arguments.bundle)
        print(f"{arguments.bundle}: {'forgotten' if found else 'nothing was chosen here'}")
        return 0
    names = [field.name for field in fields(TuneSpec)]
    tuning = tune(TuneSpec(**{name: getattr(arguments, name) for name in names}))
    print(*text_lines(tuning), sep="\n")
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    _require_builder()
    if find_spec("mteb") is None:
        raise MissingError("mteb is not installed; pip install 'adaptrt[eval]'")
    from export.evaluation.published import published
    from export.evaluation.scores import require_gate
    from export.evaluation.spec import evaluation_spec
    from export.evaluation.table import as_json, text_lines

    spec = evaluation_spec(arguments)
    with stage("loading mteb"):
        from export.evaluation.evaluate import evaluate

    evaluation = evaluate(spec)
    if arguments.json:
        print(json.dumps(as_json(evaluation, published(), spec.settings), indent=2))
    else:
        print(*text_lines(evaluation, published()), sep="\n")
    if spec.gate:
        require_gate(evaluation)
    return 0


def _prove(arguments: argparse.Namespace) -> int:
    _require_builder()
    with stage("loading PyTorch"):
        from export.proof.prove import proof_spec, prove, require_proved, text_lines

    spec = proof_spec(arguments)
    proof = prove(spec)
    if arguments.json:
        print(json.dumps(proof.to_json(), indent=2))
    else:
        print(*text_lines(proof, spec.place), sep="\n")
    require_proved(proof, spec.place)
    return 0


def _adapter(arguments: argparse.Namespace) -> int:
    _require_builder()
    from export.bundle.slot_adapter import write_adapter

    write_adapter(arguments.peft, arguments.bundle, arguments.out)
    print(arguments.out)
    return 0


def _refit(arguments: argparse.Namespace) -> int:
    _require_builder()
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

    names = [field.name for field in fields(ServerSpec) if hasattr(arguments, field.name)]
    replace_process(ServerSpec(**{name: getattr(arguments, name) for name in names}))
    return 0


def _api(arguments: argparse.Namespace) -> int:
    from runtimes.api.server import run
    from runtimes.api.settings import Settings

    given = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    for name in ("bundles", "model_names", "cors_origins", "indexes"):
        given[name] = tuple(given[name] or ())
    run(Settings(**{name: value for name, value in given.items() if value is not None}))
    return 0


def _parser() -> argparse.ArgumentParser:
    return make_parser(
        {
            "engine": _engine,
            "calibrate": _calibrate,
            "refit": _refit,
            "adapter": _adapter,
            "verify": _verify,
            "prove": _prove,
            "inspect": _inspect,
            "drift": _drift,
            "triton": _triton,
            "serve": _serve,
            "api": _api,
            "encode": _encode,
            "embed": _embed,
            "index": _index,
            "tune": _tune,
            "eval": _eval,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
