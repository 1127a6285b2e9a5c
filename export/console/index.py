"""``adaptrt index``: does a bundle belong to an index, and what an index has to carry for that."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from runtimes.choices import FileKind, OutputType
from runtimes.embedder import Embedder
from runtimes.errors import IndexMismatchError, InputError, shown
from runtimes.files import replacing
from runtimes.fingerprint import Fingerprint, fingerprint_of
from runtimes.index.offer import Offer, read_recorded
from runtimes.index.read import Index, read_index
from runtimes.index.sample import TEXTS, measure_sample
from runtimes.index.verdict import compare
from runtimes.manifest import read_manifest
from runtimes.outputs import converter

# What each action takes beside --bundle.
_TAKES = {
    "check": (
        *("index", "task", "dimensions", "output_type", "runtime", "adapter", "recorded"),
        *("text_column", "texts", "json"),
    ),
    "export": (
        *("index", "task", "dimensions", "output_type", "runtime", "adapter", "recorded"),
        *("prefix", "out"),
    ),
    "fingerprint": ("json",),
}


def run(arguments: Namespace) -> int:
    """One action; the exit code says whether the bundle belongs to the index."""
    _require_its_own(arguments)
    match arguments.action:
        case "check":
            return _check(arguments)
        case "export":
            return _export(arguments)
        case _:
            return _fingerprint(arguments)


def _require_its_own(arguments: Namespace) -> None:
    """Options of another action are refused, not ignored."""
    given = {n: v for n, v in vars(arguments).items() if v not in (None, False)}
    given["prefix"] = given.pop("no_prefix", None)
    everything = {name for names in _TAKES.values() for name in names}
    for name in sorted(everything - set(_TAKES[arguments.action])):
        if given.get(name):
            flag = "--no-prefix" if name == "prefix" else f"--{name.replace('_', '-')}"
            others = " and ".join(a for a, names in _TAKES.items() if name in names)
            raise InputError(f"{flag}: is for adaptrt index {others}; leave it out")
    if arguments.recorded and (arguments.runtime or arguments.adapter or arguments.text_column):
        raise InputError(
            "--recorded: the bundle is not opened; leave --runtime, --adapter and --text-column out"
        )


def _bundle(arguments: Namespace) -> Path:
    if arguments.bundle is None:
        raise InputError("--bundle: none given; name the folder that adaptrt engine built")
    folder: Path = arguments.bundle
    return folder


@contextmanager
def _open(arguments: Namespace) -> Iterator[Embedder]:
    folder = _bundle(arguments)
    runtime = arguments.runtime or "auto"
    with Embedder.load(folder, runtime=runtime, adapter=arguments.adapter) as embedder:
        yield embedder


def _check(arguments: Namespace) -> int:
    folder = _bundle(arguments)
    if arguments.index is None:
        raise InputError("--index: none given; name the index that the bundle is compared with")
    if arguments.texts is not None and arguments.text_column is None:
        raise InputError("--texts: needs --text-column NAME, the column of the index's texts")
    if arguments.texts is not None and arguments.texts < 2:
        raise InputError(f"--texts: got {arguments.texts}, expected 2 or more")
    index = read_index(arguments.index)
    if arguments.recorded:
        return _say(arguments, Offer.recorded(folder, read_manifest(folder)), index)
    with _open(arguments) as embedder:
        offer = Offer.of_embedder(embedder, f"bundle {folder}")
        return _say(arguments, offer, index, embedder)


def _say(arguments: Namespace, offer: Offer, index: Index, embedder: Embedder | None = None) -> int:
    verdict = compare(
        offer,
        index.fingerprint,
        task=arguments.task,
        dimensions=arguments.dimensions,
        output=arguments.output_type,
    )
    sample = None
    if arguments.text_column is not None and embedder is not None and verdict.fits:
        if index.fingerprint.task not in offer.prefixes:
            raise InputError(
                f"--text-column: the index's texts are of {index.fingerprint.task}, which "
                f"{offer.name} does not embed; leave it out"
            )
        count = arguments.texts or TEXTS
        sample = measure_sample(embedder, index, arguments.text_column, count)
    if arguments.json:
        found = verdict.to_json() | {"sample": sample and asdict(sample)}
        print(json.dumps(found, indent=2))
    else:
        print(*verdict.lines(), *([f"  {sample.line()}"] if sample else []), sep="\n")
    return 0 if verdict.fits else IndexMismatchError.exit_code


def _export(arguments: Namespace) -> int:
    out: Path | None = arguments.out
    if out is None or out.suffix != ".json":
        raise InputError(f"--out: got {shown(str(out))}, expected a file's name ending in .json")
    if not out.parent.is_dir():
        raise InputError(f"--out: {shown(str(out.parent))}: no such folder")
    if (arguments.index is None) == (arguments.bundle is None):
        raise InputError("--bundle and --index: expected one of them, to export the canaries of")
    one = _exported(arguments)
    with replacing(out) as staged:
        staged.write_bytes(one.to_bytes())
    print(f"{out}: {_line(one)}")
    return 0


def _exported(arguments: Namespace) -> Fingerprint:
    if arguments.index is not None:
        for name in ("task", "dimensions", "output_type", "runtime", "adapter", "recorded"):
            if getattr(arguments, name):
                flag = name.replace("_", "-")
                raise InputError(f"--{flag}: the index says its own; leave it out with --index")
        return read_index(arguments.index).fingerprint
    output = OutputType.parse("--output-type", arguments.output_type or OutputType.FLOAT32)
    if arguments.recorded:
        return _recorded(arguments, output)
    with _open(arguments) as embedder:
        task, width = arguments.task, arguments.dimensions
        one = fingerprint_of(
            embedder, task=task, dimensions=width, output=output, prefix=not arguments.no_prefix
        )
        converter(output, one.dimensions, [one.task], embedder.manifest.output_ranges)
        return one


def _recorded(arguments: Namespace, output: OutputType) -> Fingerprint:
    folder = _bundle(arguments)
    manifest = read_manifest(folder)
    offer, task = Offer.recorded(folder, manifest), arguments.task or manifest.task
    if task not in offer.prefixes:
        raise InputError(f"task: got {shown(task)}, expected one of {', '.join(offer.prefixes)}")
    width = manifest.dimensions[-1] if arguments.dimensions is None else arguments.dimensions
    if width not in manifest.dimensions:
        known = ", ".join(map(str, manifest.dimensions))
        raise InputError(f"dimensions: got {width}, expected one of {known}")
    converter(output, width, [task], manifest.output_ranges)
    one = offer.measure(task, width, not arguments.no_prefix)
    limit = manifest.output_ranges.get(task, {}).get(str(width))
    return replace(one, output=output, range=limit)


def _fingerprint(arguments: Namespace) -> int:
    """Those that were recorded; of an older bundle, computed now."""
    folder = _bundle(arguments)
    manifest = read_manifest(folder)
    if any(entry.kind == FileKind.FINGERPRINT for entry in manifest.artifacts):
        ones, when = read_recorded(folder, manifest), "recorded by its build"
    else:
        with Embedder.load(folder) as embedder:
            ones = tuple(fingerprint_of(embedder, task=task) for task in manifest.prefixes)
        when = "computed now"
    if arguments.json:
        print(json.dumps([_plain(one) for one in ones], indent=2))
    else:
        print(f"{folder}: {when}", *(f"  {_line(one)}" for one in ones), sep="\n")
    return 0


def _plain(one: Fingerprint) -> dict[str, object]:
    """Without its canaries, which are long, but with what says that all else is the same."""
    return {k: v for k, v in asdict(one).items() if k != "canaries"} | {"digest": one.digest}


def _line(one: Fingerprint) -> str:
    count = sum(canary is not None for canary in one.canaries)
    return (
        f"{one.task}, {one.dimensions} dimensions, {one.output}, {one.precision} for {one.target}, "
        f"{count} canaries by {one.executed}, {one.digest[:12]}"
    )
