"""The options of ``adaptrt embed``."""

from __future__ import annotations

from argparse import ArgumentParser

from export.console.options import Options, vectors
from export.console.values import name, names, number, path, whole
from runtimes.corpus.records import Engine, OnError, Stored
from runtimes.corpus.records import Wanted as Corpus


def embed(command: ArgumentParser) -> None:
    """``adaptrt embed``: a corpus, what is made of it, and what does the work."""
    command.add_argument(
        "input",
        metavar="INPUT",
        help="file, folder or glob of .parquet, .jsonl, .csv, .tsv or .txt; all but the first "
        "also with .gz or .zst",
    )
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "what adaptrt engine built", kind=path, required=True)
    add("--out", "FOLDER", "where the Parquet parts go", kind=path, required=True)
    add("--column", "NAME", "the column, or JSON key, of the texts", Corpus.column, kind=name)
    add("--id-column", "NAME", "the column of ids (default: FILE:POSITION)", kind=name)
    add("--keep", "NAMES", "input columns that the output has too, separated by commas", kind=names)
    add("--task", "NAME", "what the texts are for; needed where a bundle has several")
    vectors(
        options,
        "auto",
        "; auto: what adaptrt tune chose here, else what runs the bundle on a CPU",
        Stored,
    )
    add("--adapter", "FILE", "an .onnx_adapter file, for a bundle with a slot", kind=path)
    options.flag("--strict", "refuse texts that are too long (default: cut them)")
    add(
        "--on-error",
        "NAME",
        "stop at a row that cannot be embedded, or skip it and list it",
        OnError.STOP,
    )
    options.flag("--dry-run", "say how many tokens and parts there are, and how long they take")
    options = Options(command, "a row per chunk, of a bundle built with --head chunks")
    options.flag("--late-chunking", "embed documents whole, and give each chunk its vector")
    options.add("--chunk-tokens", "N", "tokens per chunk", kind=whole)
    options.add("--sentences", "N", "sentences per chunk", kind=whole)
    _embed_engines(command)


def _embed_engines(command: ArgumentParser) -> None:
    add = Options(command, "what does the work").add
    add("--engine", "NAME", "local (this machine) or ray", Engine.LOCAL)
    add("--workers", "N", "of local: processes that run the model (default: 1)", kind=whole)
    add("--device", "NAME", "cpu, cuda, or cuda:1 for the second GPU")
    add(
        "--threads", "N", "of each worker on a CPU (default: a fair share of the cores)", kind=whole
    )
    add("--split-bytes", "N", "of input text in a part", Corpus.split_bytes, kind=whole)
    add("--ray-address", "ADDRESS", "a cluster's (default: one on this machine)")
    add("--actors", "N", "of ray: how many, or MIN-MAX for a pool that grows (default: 1)")
    add("--cpus-per-actor", "N", "of ray: threads of each (default: 1)", kind=whole)
    add("--gpus-per-actor", "N", "of ray: GPUs of each, 0.5 for half of one", kind=number)
