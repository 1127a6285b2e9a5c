"""Options that several commands have.

They carry text and numbers; what they mean is checked later.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import Any

from export.console.values import name, number, path, whole
from export.request import BuildRequest as Default
from export.spec import Limits
from runtimes.choices import OutputType, Unknown


class Options:
    """Adds options to a command, or to a titled group of its help."""

    def __init__(self, command: ArgumentParser, title: str | None = None) -> None:
        self._group = command.add_argument_group(title) if title else command

    def add(
        self,
        flag: str,
        metavar: str,
        text: str,
        default: object = None,
        *,
        kind: Callable[[str], Any] = str,
        **more: Any,
    ) -> None:
        """An option with a value; its help says the default, or that it is required."""
        if default not in (None, ""):
            text += " (default: %(default)s)"
        if more.get("required"):
            text += " (required)"
        self._group.add_argument(
            flag, metavar=metavar, help=text, default=default, type=kind, **more
        )

    def flag(self, flag: str, text: str, **more: Any) -> None:
        """An option without a value."""
        self._group.add_argument(flag, help=text, **{"action": "store_true"} | more)


def vectors(
    options: Options, runtime: str | None, more: str = "", types: Iterable[str] = OutputType
) -> None:
    """What a bundle makes of texts, and what runs it: ``runtime`` unless another is named."""
    add = options.add
    add("--dimensions", "N", "cut the vectors to this length (default: all of it)", kind=whole)
    add(
        "--output-type",
        "NAME",
        f"{one_of(types)}: 8-bit integers, or eight signs to a byte",
        OutputType.FLOAT32,
    )
    add(
        "--runtime",
        "NAME",
        "what runs the model: onnxruntime or openvino (CPU), onnxruntime_cuda, tensorrt_rtx or "
        f"tensorrt{more}",
        runtime,
    )
    options.flag(
        "--no-prefix",
        "leave out the task's instruction, which is put before each text",
        dest="prefix",
        action="store_false",
    )


def other_tokens(options: Options) -> None:
    """Of a bundle with some of the tokens: what becomes of texts with others."""
    options.add(
        "--unknown",
        "NAME",
        f"of a bundle built with VOCABULARY, texts with other tokens: {one_of(Unknown)} "
        "(default: what it was built with)",
    )
    options.add(
        "--fallback",
        "FOLDER",
        "of --unknown fallback: a bundle of the same model that holds every token",
        kind=path,
    )


def checkpoint(command: ArgumentParser) -> None:
    """Which model."""
    add = Options(command, "the checkpoint").add
    add(
        "--model",
        "NAME",
        "a folder, or a hub id such as jinaai/jina-embeddings-v3 (default: the sample that comes "
        "with adaptrt)",
        kind=name,
    )
    add("--revision", "NAME", "the hub's branch, tag or commit (default: newest)", kind=name)
    add(
        "--adapter-path",
        "FOLDER",
        "a LoRA adapter of your own as PEFT saves it, used under --task's name",
        kind=path,
    )


def reference(options: Options, what: str) -> None:
    """The checkpoint that bundles are held against; ``what`` says which one that is."""
    sample = "(default: the sample's for bundles of the sample)"
    options.add("--reference", "NAME", f"{what} {sample}", kind=name)
    text = "the hub's branch, tag or commit of it (default: newest)"
    options.add("--revision", "NAME", text, kind=name)


def form(command: ArgumentParser) -> None:
    """Which bundle is made of it."""
    add = Options(command, "what is built").add
    add(
        "--task",
        "NAME",
        "retrieval.query, retrieval.passage, separation, classification, text-matching, your own "
        "adapter's name, base for no adapter, or all for a bundle each",
        Default.task,
    )
    add(
        "--adapter",
        "MODE",
        "merged (one task in the weights), switchable (every task in one bundle) or slot (filled "
        "at run time)",
        Default.adapter,
    )
    add(
        "--interface",
        "NAME",
        "sentence, or official: inputs and outputs of the published ONNX file",
        Default.interface,
    )
    add("--head", "NAME", "sentence (a vector per text) or chunks (late chunking)", Default.head)
    add(
        "--max-batch",
        "N",
        f"most texts in one call (default: {Limits.max_batch}, or the device's)",
        kind=whole,
    )
    add(
        "--max-tokens",
        "N",
        f"longest text in tokens, at most 8192 (default: {Limits.max_tokens}, or the device's)",
        kind=whole,
    )
    add("--out", "FOLDER", "bundles go into FOLDER/<model>/", Default.out, kind=path)


def ranges(command: ArgumentParser) -> None:
    """What quantisation is measured on."""
    add = Options(command, "the ranges of INT8 and FP8, and what may leave them").add
    add(
        "--calibration-data",
        "FILE",
        "your own texts as .txt, .jsonl, .parquet or .arrow, or a folder of a dataset on disk "
        "(default: the project's)",
        kind=path,
    )
    add(
        "--calibration-column",
        "NAME",
        "the column, or JSON key, of its texts",
        Default.calibration_column,
        kind=name,
    )
    add(
        "--calibration",
        "FILE",
        "a calibration.json made before, of the same model and task; a warning says where its "
        "texts are unlike those of --calibration-data",
        kind=path,
    )
    add("--calibration-texts", "N", "how many texts are run", Default.calibration_texts, kind=whole)
    add(
        "--observer",
        "NAME",
        "how a range is chosen: min-max, percentile, entropy or mse",
        Default.observer,
    )
    add(
        "--int8-fallback-max",
        "SHARE",
        "how much of the work may leave INT8 (FP8, INT4W, INT8W) where vectors are not close "
        "enough, 0 to 1",
        Default.int8_fallback_max,
        kind=number,
    )


def kept_tokens(command: ArgumentParser) -> None:
    """Which tokens a bundle has."""
    add = Options(command, "which tokens have a row in the embedding table (default: all)").add
    add(
        "--vocabulary",
        "WHAT",
        "those that these texts use: a file (.txt, .jsonl, .parquet or .arrow) or a dataset's "
        "folder; languages such as de,fr,en, whose texts the project has some of; or texts: those "
        "of the calibration",
        kind=name,
    )
    add(
        "--vocabulary-min-count",
        "N",
        "how often the texts use a token at least that is kept (default: 1)",
        kind=whole,
    )
    add(
        "--unknown",
        "NAME",
        f"texts with other tokens: {one_of(Unknown)} (by a full bundle, by the nearest tokens "
        "there are) (default: error)",
    )


def parity(command: ArgumentParser) -> None:
    """How far the comparison goes."""
    Options(command, "the comparison with PyTorch").add(
        "--parity-tokens", "N", "its longest text in tokens", Default.parity_tokens, kind=whole
    )


def one_of(choices: Iterable[str]) -> str:
    """Names as a sentence has them: "fp32, fp16 or bf16"."""
    *others, last = choices
    return f"{', '.join(others)} or {last}"
