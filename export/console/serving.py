"""The options of the commands that embed texts."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from export.console.options import Options, other_tokens, vectors
from export.console.values import name, number, path, port, size, whole
from runtimes.api.settings import Settings as Served
from runtimes.choices import OutputType

INDEX_ACTIONS = ("check", "export", "fingerprint")


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
    vectors(
        options, "auto", "; auto: what adaptrt tune chose here, else what runs the bundle on a CPU"
    )
    add("--adapter", "FILE", "an .onnx_adapter file, for a bundle with a slot", kind=path)
    other_tokens(options)
    options.flag("--strict", "refuse texts that are too long (default: cut them and warn)")


def index(command: ArgumentParser) -> None:
    """``adaptrt index``: which action, and what it compares or writes."""
    command.add_argument(
        "action",
        choices=INDEX_ACTIONS,
        metavar="ACTION",
        help="check: does the bundle belong to the index; export: write canaries as JSON, to be "
        "kept beside any store; fingerprint: what a bundle's vectors are determined by",
    )
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "what adaptrt engine built", kind=path)
    add("--index", "PATH", "a folder that adaptrt embed wrote, or a .json of canaries", kind=path)
    add("--out", "FILE", "of export: where to write", kind=path)
    add("--task", "NAME", "what the bundle will be asked for (default: what fits the index)")
    add("--dimensions", "N", "the vectors' length (default: the index's, or all)", kind=whole)
    add("--output-type", "NAME", f"{', '.join(OutputType)} (default: the index's, or float32)")
    add("--runtime", "NAME", "what runs the bundle (default: as adaptrt encode)")
    add("--adapter", "FILE", "an .onnx_adapter file, for a bundle with a slot", kind=path)
    options.flag(
        "--recorded", "use the canaries that the bundle's build recorded; the bundle is not opened"
    )
    add("--text-column", "NAME", "of check: embed texts of this column of the index again")
    add("--texts", "N", "how many of them (default: 64)", kind=whole)
    options.flag("--no-prefix", "of export: without the task's instruction", dest="no_prefix")
    options.flag("--json", "for programs")


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
    add(
        "--index",
        "PATH",
        "what the vectors are for, a folder that adaptrt embed wrote or a .json of canaries: the "
        "server does not start where they do not belong there; give the option again for another",
        kind=path,
        action="append",
        dest="indexes",
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
    other_tokens(options)
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
