"""The commands, their help texts, and the parser made of them."""

from __future__ import annotations

import argparse
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Never

from export.console import building, drift_options, embed_options, serving
from export.console.failures import EXIT_CODES
from runtimes.errors import InputError

Run = Callable[[argparse.Namespace], int]
_LONGEST = 400  # characters of argparse's messages, which repeat what was given


class Command(NamedTuple):
    """One command: its options, and what its help says around them."""

    add_options: Callable[[ArgumentParser], None]
    usage: str
    about: str
    description: str
    example: str


COMMANDS = {
    "engine": Command(
        building.engine,
        "[options]",
        "build engine bundles",
        "Builds a folder with engines and ONNX graphs from a checkpoint and compares\n"
        "them with PyTorch. Where the vectors do not agree, nothing is written.",
        "adaptrt engine --task retrieval.query --precision fp16",
    ),
    "calibrate": Command(
        building.calibrate,
        "[options]",
        "compute the ranges that INT8 needs",
        "Runs texts through the model and records which ranges of numbers INT8 has to\n"
        "cover. `adaptrt engine --precision int8` does it too, where it was not done.",
        "adaptrt calibrate --calibration-data texts.txt",
    ),
    "refit": Command(
        building.refit,
        "--engine FOLDER --task NAME [options]",
        "make another task's bundle around the same engine",
        "Puts another task's weights beside an engine that was built without weights.\n"
        "The engine is not built again, and no GPU is needed.",
        "adaptrt refit --engine build/sample/classification-fp16-refittable \\\n"
        "    --task separation",
    ),
    "adapter": Command(
        building.adapter,
        "--peft FOLDER --bundle FOLDER --out FILE",
        "turn a LoRA adapter into a file for a bundle with a slot",
        "Writes a LoRA adapter into one file, with which a bundle that was built with\n"
        "--adapter slot embeds texts. Nothing is built again.",
        "adaptrt adapter --peft mine --bundle build/sample/base-slot-fp16 \\\n"
        "    --out mine.onnx_adapter",
    ),
    "verify": Command(
        building.verify,
        "--bundle FOLDER",
        "check that a bundle is whole and agrees with PyTorch",
        "Compares every file with its checksum, then the graphs' vectors with those that\n"
        "PyTorch gave when the bundle was built. Needs neither checkpoint nor GPU.",
        "adaptrt verify --bundle build/sample/classification-fp16",
    ),
    "prove": Command(
        building.prove,
        "--bundle FOLDER [options]",
        "gather evidence that a bundle is as good as its checkpoint",
        "Runs a bundle beside its checkpoint in PyTorch, by length, language, task and\n"
        "more, and models that are wrong on purpose, and writes a page that says what\n"
        "holds. Stopped, it goes on where the same command is given again.",
        "adaptrt prove --bundle build/sample/switchable-fp16-onnxruntime",
    ),
    "inspect": Command(
        building.inspect,
        "--bundle FOLDER [options]",
        "show what a bundle's engines execute",
        "Shows the kernels that the compiler made: layer by layer what runs, the types\n"
        "of products, bytes and operations of one call. Needs neither TensorRT nor GPU.",
        "adaptrt inspect --bundle build/sample/classification-fp16 --gpu sm89",
    ),
    "drift": Command(
        drift_options.drift,
        "--bundle FOLDER [options]",
        "show where inside the network a bundle departs from its checkpoint",
        "Runs a bundle's graph and its checkpoint in FP32 side by side, layer by layer,\n"
        "and names the first block that errs by more than rounding, with a likely cause.",
        "adaptrt drift --bundle build/sample/switchable-fp16 --html drift.html",
    ),
    "triton": Command(
        serving.triton,
        "--bundle FOLDER [FOLDER ...] [options]",
        "write a model repository for the Triton server",
        "Writes what a Triton Inference Server serves, from one or several bundles.",
        "adaptrt triton --bundle build/sample/switchable-fp16",
    ),
    "serve": Command(
        serving.serve,
        "[options]",
        "serve a model repository on this machine",
        "Runs a Triton server on this machine until Ctrl-C. `make serve` installs it\nfirst.",
        "adaptrt serve --repository model_repository --http-port 8000",
    ),
    "api": Command(
        serving.api,
        "--bundle FOLDER [--bundle FOLDER ...] [options]",
        "serve bundles over HTTP, as Jina's and OpenAI's clients expect it",
        "Answers POST /v1/embeddings until Ctrl-C, with a page at / to try it. Texts of\n"
        "all requests share the encoder's calls.",
        "adaptrt api --bundle build/sample/switchable-fp16 --port 8080",
    ),
    "encode": Command(
        serving.encode,
        "--bundle FOLDER [options] [TEXT ...]",
        "turn texts into vectors",
        "Embeds texts with a bundle. Gives a JSON line per text, or a .npy file with a\n"
        "row per text, in the order of the texts.",
        'adaptrt encode --bundle build/sample/classification-fp16 "Guten Morgen"',
    ),
    "embed": Command(
        embed_options.embed,
        "INPUT --bundle FOLDER --out FOLDER [options]",
        "turn a corpus into Parquet files of vectors",
        "Embeds files of texts into Parquet parts, each exactly once. A run that was\n"
        "stopped or killed goes on where the same command is given again.",
        "adaptrt embed corpus/ --bundle build/sample/classification-fp16 --out vectors",
    ),
    "index": Command(
        serving.index,
        "check|export|fingerprint [options]",
        "check that a bundle and a store of vectors belong together",
        "Compares a bundle with an index: model, task, instruction, length and type of\n"
        "vectors, and the vectors of sixteen texts. Exit code 6: they do not fit.",
        "adaptrt index check --bundle build/sample/retrieval.query-fp16 \\\n    --index vectors",
    ),
    "tune": Command(
        serving.tune,
        "--bundle FOLDER [options]",
        "choose the fastest executor for a bundle on this machine",
        "Times everything here that can run a bundle on texts like yours, and keeps the\n"
        "fastest in a file of yours, which Embedder.load and `adaptrt encode` read.",
        "adaptrt tune --bundle build/sample/classification-fp16 --texts texts.txt",
    ),
    "eval": Command(
        building.evaluate,
        "--bundle FOLDER [--bundle FOLDER ...] [options]",
        "score bundles with MTEB, beside their checkpoint",
        "Runs tasks of MTEB with bundles and with the checkpoint they were built from and\n"
        "shows the scores side by side. What was scored before is not scored again.",
        "adaptrt eval --bundle build/sample/switchable-fp16-onnxruntime",
    ),
}


def make_parser(runs: Mapping[str, Run]) -> ArgumentParser:
    """The whole command line; ``runs`` says what each command does."""
    parser = _Parser(
        prog="adaptrt",
        usage="adaptrt COMMAND [options]",
        description="Turns jina-embeddings-v3 checkpoints into engines that are checked against\n"
        "PyTorch, and embeds texts with them.",
        epilog=f"adaptrt COMMAND --help lists a command's options.\n\n{_exit_codes()}",
        formatter_class=_Layout,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    _add_common(parser, default=False)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", prog="adaptrt"
    )
    for name, (add_options, usage, about, description, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            usage=f"%(prog)s {usage}",
            help=about,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=_Layout,
        )
        add_options(command)
        _add_common(command, default=argparse.SUPPRESS)
        command.set_defaults(run=runs[name])
    return parser


class _Layout(argparse.RawDescriptionHelpFormatter):
    """Descriptions stand as they are written; options have room for their names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        self._action_max_length = 14  # argparse forgets that commands are indented once more

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # names of models have hyphens


class _Parser(ArgumentParser):
    """Wrong usage is an error like every other: one line."""

    def error(self, message: str) -> Never:
        message = message.removeprefix("argument ")
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - 1]}…"
        raise InputError(f"{message}; `{self.prog} --help` says what there is")


def _exit_codes() -> str:
    lines = [f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["exit codes:", *lines])


def _add_common(parser: ArgumentParser, default: Any) -> None:
    """What every command takes, before and after its name."""
    common = {
        "--quiet": "nothing but warnings and errors on standard error, and no progress bars",
        "--verbose": "say more: short stages too, and how things are run",
        "--debug": "show where an error comes from (or set ADAPTRT_DEBUG=1)",
    }
    lines = parser.add_mutually_exclusive_group()
    for flag, text in common.items():
        group = parser if flag == "--debug" else lines
        group.add_argument(flag, action="store_true", default=default, help=text)
