"""The options of every command. They carry text and numbers; what they mean is checked later."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from export.console.values import name, number, path, paths, port, size, whole
from export.request import BuildRequest as Default
from export.spec import BuildSpec
from runtimes.api.settings import Settings as Served
from runtimes.choices import OutputType, PlanRule, Precision
from runtimes.schemes import BLOCKED, BLOCKS


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


def calibrate(command: ArgumentParser) -> None:
    """``adaptrt calibrate``: what a bundle is made from, and how ranges are measured."""
    _checkpoint(command)
    _form(command)
    _ranges(command)
    options = Options(command, "calibrations made before, as calibration.json or a bundle's folder")
    options.add(
        "--merge",
        "LIST",
        "write one that covers the texts of these, separated by commas",
        kind=paths,
    )
    options.add(
        "--compare",
        "LIST",
        "show how two of them differ, or whether one fits the texts of --calibration-data",
        kind=paths,
    )
    options.flag("--json", "print what --compare shows as JSON")


def engine(command: ArgumentParser) -> None:
    """``adaptrt engine``: everything that a build can set."""
    _checkpoint(command)
    _form(command)
    options = Options(command, "how it is built")
    add = options.add
    add(
        "--precision",
        "NAME",
        f"{_one_of(Precision)}; auto, with a target for CPUs: what is fastest on this one",
        Default.precision,
    )
    add(
        "--target",
        "NAME",
        "tensorrt_rtx (RTX cards; needs no GPU to build), tensorrt (this machine's GPU), "
        "tensorrt10 (built later, on a Jetson), onnxruntime or openvino (CPUs), cpu: the one of "
        "these that suits this CPU, or auto: tensorrt where it and a GPU are, else tensorrt_rtx",
        Default.target,
    )
    add(
        "--gpu",
        "LIST",
        f"architectures for tensorrt_rtx; auto: {', '.join(BuildSpec.gpus)}, or of these what "
        "multiplies the precision",
        Default.gpu,
    )
    add(
        "--rank",
        "N",
        "of --adapter slot: the widest adapter it takes; the ranks of q, k and v add up where "
        "their A differ",
        Default.rank,
        kind=whole,
    )
    add(
        "--layout",
        "NAME",
        "where graphs lie: hub (onnx/model.onnx, as sentence-transformers, Optimum and others look "
        "for it), flat, or auto: hub where such clients understand the bundle",
        Default.layout,
    )
    add(
        "--rest",
        "TYPE",
        "of PRECISION=int8 TARGET=openvino: what is not quantised, bf16 or fp32; auto: bf16",
        Default.rest,
    )
    add(
        "--block",
        "N",
        f"of PRECISION={' or '.join(BLOCKED)}: how many numbers of a weight share a scale, "
        f"{_one_of(map(str, BLOCKS))} (default: {BLOCKS[0]})",
        Default.block,
        kind=whole,
    )
    add(
        "--profiles",
        "LIST",
        "short,long: ranges of text lengths, each with its own memory (default: one range for all)",
        Default.profiles,
    )
    add(
        "--attention-accumulation",
        "NAME",
        "what FP16 engines add attention up in: fp32, or fp16 (faster on GeForce cards; loses "
        "digits with length)",
        Default.attention_accumulation,
    )
    add("--name", "NAME", "the bundle's folder (default: one that says the choices)", kind=name)
    add(
        "--allow-plan",
        "LIST",
        f"publish engines that break these rules: {', '.join(PlanRule)} (default: none)",
        Default.allow_plan,
    )
    options.flag(
        "--refittable", "leave the weights out of the engines, for adaptrt refit; needs a GPU"
    )
    add(
        "--workspace",
        "GIB",
        "memory TensorRT may use while it builds",
        Default.workspace,
        kind=number,
    )
    _parity(command)
    _ranges(command)


def refit(command: ArgumentParser) -> None:
    """``adaptrt refit``: another task for an engine without weights."""
    add = Options(command).add
    add("--engine", "FOLDER", "a bundle built with --refittable", kind=path, required=True)
    add("--task", "NAME", "whose weights go in", required=True)
    add(
        "--out",
        "FOLDER",
        "the new bundle goes into FOLDER/<model>/ (default: beside the engine's)",
        kind=path,
    )
    add("--name", "NAME", "the new bundle's folder (default: one that says the choices)", kind=name)
    _checkpoint(command)
    _parity(command)


def adapter(command: ArgumentParser) -> None:
    """``adaptrt adapter``: a PEFT folder as a file for slots."""
    add = Options(command).add
    add("--peft", "FOLDER", "a LoRA adapter as PEFT saves it", kind=path, required=True)
    add(
        "--bundle",
        "FOLDER",
        "a bundle built with --adapter slot, which the file will fit",
        kind=path,
        required=True,
    )
    add("--out", "FILE", "what to write, NAME.onnx_adapter", kind=path, required=True)


def verify(command: ArgumentParser) -> None:
    """``adaptrt verify``: which bundle."""
    Options(command).add("--bundle", "FOLDER", "the bundle to check", kind=path, required=True)


def inspect(command: ArgumentParser) -> None:
    """``adaptrt inspect``: which bundle, which call, and in which form."""
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "the bundle to look into", kind=path, required=True)
    add("--gpu", "NAME", "one architecture, such as sm89 (default: all whose kernels differ)")
    add("--batch", "N", "texts of the call whose bytes and operations are counted", 8, kind=whole)
    add("--tokens", "N", "tokens of each of its texts", 512, kind=whole)
    add(
        "--against",
        "FOLDER",
        "another bundle of the model: where this one is predicted to be faster, on one text",
        kind=path,
    )
    options.flag("--json", "print JSON")
    add("--html", "FILE", "write a page with pictures and predicted times instead", kind=path)
    add(
        "--measured",
        "FILE",
        "of --html: gpu-check.json, whose times take the place of predicted ones",
        kind=path,
    )


def triton(command: ArgumentParser) -> None:
    """``adaptrt triton``: which bundles a model repository serves, and how."""
    add = Options(command).add
    add(
        "--bundle",
        "FOLDER",
        "one or several bundles of one model",
        kind=path,
        nargs="+",
        required=True,
    )
    add("--out", "FOLDER", "where the repository goes", Path("model_repository"), kind=path)
    add(
        "--encoder",
        "NAME",
        "what runs the model: tensorrt, onnxruntime, openvino, python, or auto to fit each bundle",
        "auto",
    )
    add(
        "--triton-version",
        "YY.MM",
        "the server's release, as NVIDIA's container is named, such as 25.08",
        "24.10",
    )
    add("--settings", "FILE", "a TOML file; docs/tasks/triton.md lists its entries", kind=path)


def serve(command: ArgumentParser) -> None:
    """``adaptrt serve``: where the server on this machine listens."""
    add = Options(command).add
    add("--repository", "FOLDER", "what adaptrt triton wrote", Path("model_repository"), kind=path)
    add("--environment", "FOLDER", "where the server is", Path(".venv-triton"), kind=path)
    add(
        "--address",
        "IP",
        "who can connect: 127.0.0.1 for this machine alone, 0.0.0.0 for the network too",
        "127.0.0.1",
    )
    for protocol, default in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        add(f"--{protocol}-port", "N", f"port of {protocol}", default, kind=port)
    add("--cache", "BYTES", "memory for answers to repeated requests; 0: none", 0, kind=size)


def api(command: ArgumentParser) -> None:
    """``adaptrt api``: what the HTTP server serves, to whom, and how much of it."""
    options = Options(command)
    add = options.add
    add(
        "--bundle",
        "FOLDER",
        "what adaptrt engine built; give the option again for another",
        kind=path,
        action="append",
        required=True,
        dest="bundles",
    )
    add(
        "--model-name",
        "NAME",
        "the name that clients send as model; with several bundles one for all, or one for each in "
        "their order (default: the checkpoint's)",
        kind=name,
        action="append",
        dest="model_names",
    )
    add(
        "--default-task",
        "NAME",
        "the task of requests that name none (default: base, the model without an adapter)",
    )
    _api_network(command)
    _api_limits(command)
    options = Options(command, "what runs the model")
    options.add(
        "--runtime",
        "NAME",
        "onnxruntime or openvino (CPU), onnxruntime_cuda, tensorrt_rtx, tensorrt; auto: what "
        "adaptrt tune chose here, else what runs the bundle on a CPU",
        Served.runtime,
    )
    options.add("--device", "NAME", "cpu, cuda, or cuda:1 for the second GPU")
    options.add("--threads", "N", "of an executor on a CPU (default: one per core)", kind=whole)
    options.add(
        "--workers",
        "N",
        "processes that run the model, each with its own copy; 0: a thread of the server",
        Served.workers,
        kind=whole,
    )
    options.add(
        "--triton",
        "URL",
        "send texts on to a Triton server that serves these bundles, http://host:port or "
        "grpc://host:port",
    )


def _api_network(command: ArgumentParser) -> None:
    options = Options(command, "the network")
    add = options.add
    add(
        "--host",
        "ADDRESS",
        "who can connect: 127.0.0.1 for this machine alone, 0.0.0.0 for the network too",
        Served.host,
    )
    add("--port", "N", "0: any free one, which the first line says", Served.port, kind=whole)
    add("--api-key-file", "FILE", "keys, one a line, of which a request must have one", kind=path)
    add(
        "--cors-origin",
        "ORIGIN",
        "a web page's origin that may ask, or *; give the option again for another (default: none)",
        action="append",
        dest="cors_origins",
    )
    add("--tls-certificate", "FILE", "its chain, in PEM; with --tls-key", kind=path)
    add("--tls-key", "FILE", "its private key, in PEM", kind=path)
    options.flag(
        "--no-access-log", "no line for each request", dest="access_log", action="store_false"
    )


def _api_limits(command: ArgumentParser) -> None:
    add = Options(command, "limits").add
    add("--max-texts", "N", "texts in one request", Served.max_texts, kind=whole)
    add("--max-tokens", "N", "tokens in one request", Served.max_tokens, kind=whole)
    add("--max-bytes", "N", "bytes of one request", Served.max_bytes, kind=whole)
    add("--max-queue", "N", "texts that wait for the encoder", Served.max_queue, kind=whole)
    add("--max-concurrent", "N", "requests under way", Served.max_concurrent, kind=whole)
    add("--deadline", "SECONDS", "for one request", Served.deadline, kind=number)


def encode(command: ArgumentParser) -> None:
    """``adaptrt encode``: texts and how to embed them."""
    command.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="a text to embed; without any and without --file, standard input holds one per line",
    )
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "what adaptrt engine built", kind=path, required=True)
    add(
        "--file",
        "FILE",
        'texts in UTF-8, one per line; .jsonl: an object like {"text": "..."} per line; '
        "-: standard input",
        kind=path,
    )
    add(
        "--out",
        "FILE",
        "write the vectors into a .npy file (default: JSON lines on standard output)",
        kind=path,
    )
    add(
        "--task",
        "NAME",
        "what the texts are for; needed where a bundle has several (default: the bundle's)",
    )
    _vectors(
        options, "auto", "; auto: what adaptrt tune chose here, else what runs the bundle on a CPU"
    )
    add("--adapter", "FILE", "an .onnx_adapter file, for a bundle with a slot", kind=path)
    options.flag("--strict", "refuse texts that are too long (default: cut them and warn)")


def tune(command: ArgumentParser) -> None:
    """``adaptrt tune``: which bundle is timed, on which texts, and for how long."""
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "the bundle to tune for", kind=path, required=True)
    add(
        "--texts",
        "FILE",
        "texts like yours as .txt, .jsonl or .parquet (default: the project's)",
        kind=path,
    )
    add("--max-texts", "N", "how many of them are run", 64, kind=whole, dest="most_texts")
    add("--rounds", "N", "how often each executor is timed", 3, kind=whole)
    add("--minutes", "N", "no round begins after so many", 10.0, kind=number)
    options.flag("--threads", "try 1, 2, 4 and so on too, up to one per core")
    options.flag("--forget", "remove what was chosen for the bundle on this machine instead")


def evaluate(command: ArgumentParser) -> None:
    """``adaptrt eval``: what is scored, on which tasks, and what it is compared with."""
    options = Options(command)
    add = options.add
    add(
        "--bundle",
        "FOLDER",
        "a bundle with every task, or several that together have those needed; give the option "
        "again for another",
        kind=path,
        action="append",
        required=True,
    )
    add(
        "--reference",
        "NAME",
        "their checkpoint, a folder or a hub id, or none (default: the sample's for bundles of "
        "the sample)",
        kind=name,
    )
    add("--revision", "NAME", "the hub's branch, tag or commit of it (default: newest)", kind=name)
    add(
        "--preset",
        "NAME",
        "fast (the project's own texts, no download) or release (the tasks with published scores)",
        "fast",
    )
    add("--tasks", "LIST", "names of MTEB's tasks instead, separated by commas")
    _vectors(options, None, " (default: on a CPU, what each bundle was built for)")
    add("--out", "FOLDER", "where MTEB's result files go", Path("build/eval"), kind=path)
    options.flag("--json", "print JSON")
    options.flag(
        "--gate",
        "end with 3 where the mean of STS or of retrieval is not the checkpoint's",
    )


def _vectors(options: Options, runtime: str | None, more: str = "") -> None:
    """What a bundle makes of texts, and what runs it: ``runtime`` unless another is named."""
    add = options.add
    add("--dimensions", "N", "cut the vectors to this length (default: all of it)", kind=whole)
    add(
        "--output-type",
        "NAME",
        f"{_one_of(OutputType)}: 8-bit integers, or eight signs to a byte",
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


def _checkpoint(command: ArgumentParser) -> None:
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


def _form(command: ArgumentParser) -> None:
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
    add("--max-batch", "N", "most texts in one call", Default.max_batch, kind=whole)
    add(
        "--max-tokens",
        "N",
        "longest text in tokens, at most 8192",
        Default.max_tokens,
        kind=whole,
    )
    add("--out", "FOLDER", "bundles go into FOLDER/<model>/", Default.out, kind=path)


def _ranges(command: ArgumentParser) -> None:
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


def _parity(command: ArgumentParser) -> None:
    Options(command, "the comparison with PyTorch").add(
        "--parity-tokens", "N", "its longest text in tokens", Default.parity_tokens, kind=whole
    )


def _one_of(choices: Iterable[str]) -> str:
    """Names as a sentence has them: "fp32, fp16 or bf16"."""
    *others, last = choices
    return f"{', '.join(others)} or {last}"
