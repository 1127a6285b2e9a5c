"""Mutated bundles: their manifest, their graphs, and the other files that commands read."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from export.cli import main
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.files import sha256
from tests.torture.mutations.bases import (
    BUILD,
    MODEL,
    NAME,
    TASK,
    Bases,
    encode,
)
from tests.torture.mutations.checkpoints import broken, edit_file
from tests.torture.mutations.edits import edit_in_place
from tests.torture.mutations.forked import Limits, run_forked
from tests.torture.mutations.graphs import edit_graph
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place, linked, put

_DATA = (
    *("parity.json", "fingerprint.json", "plan.json", "reference.npy", "reference_chunks.npy"),
    *("tokenizer.json", "vocabulary.npy", "config.json", "model.onnx_data", "onnx/model.onnx_data"),
)


def manifest(rng: Random, place: Place, bases: Bases) -> Case:
    """``manifest.json``, read by every command that takes a bundle."""
    base, bundle = _chosen(rng, place, bases, ("merged", "merged", "switchable", "slot", "engine"))
    what = edit_file(rng, bundle / MANIFEST_FILE)
    if rng.random() < 0.08 and base == "merged":
        return _replaced(place, bases, bundle, what)
    return _used(rng, place, bases, base, bundle, what)


def graph(rng: Random, place: Place, bases: Bases) -> Case:
    """One of the graphs, as bytes or by what is in it."""
    base, bundle = _chosen(rng, place, bases, ("merged", "merged", "switchable", "slot"))
    files = sorted(bundle.rglob("*.onnx"))
    read = [path for path in files if path.name in ("model.onnx", "model.onnxruntime.onnx")]
    file = rng.choice(read if rng.random() < 0.8 else files)
    if rng.random() < 0.3:
        return _changed_in_place(rng, place, bases, base, bundle, file)
    if rng.random() < 0.7:
        content, said = edit_graph(rng, file.read_bytes())
        put(file, content)
        what = f"{file.name}: {said}"
    else:
        what = edit_file(rng, file)
    what, repaired = _hashes(rng, bundle, what)
    return _used(rng, place, bases, base, bundle, what, repaired=repaired)


def data(rng: Random, place: Place, bases: Bases) -> Case:
    """Records of the gate, vectors, the tokenizer, weights, and what stands beside bundles."""
    if rng.random() < 0.25:
        return _beside(rng, place, bases)
    base, bundle = _chosen(rng, place, bases, ("merged", "bpe-bundle", "switchable", "engine"))
    files = [path for name in _DATA if (path := bundle / name).exists()]
    file = rng.choice(files)
    if rng.random() < 0.4:
        return _changed_in_place(rng, place, bases, base, bundle, file)
    what, repaired = _hashes(rng, bundle, edit_file(rng, file))
    return _used(rng, place, bases, base, bundle, what, repaired=repaired)


def _chosen(rng: Random, place: Place, bases: Bases, names: tuple[str, ...]) -> tuple[str, Path]:
    base = rng.choice(bases.among(*names))
    return base, linked(bases.get(base), place.input / "bundle")


def _hashes(rng: Random, bundle: Path, what: str) -> tuple[str, bool]:
    """What a careful forger would do in half of the cases: the manifest follows the files."""
    if rng.random() < 0.5:
        return what, False
    path = bundle / MANIFEST_FILE
    raw = json.loads(path.read_bytes())
    for entry in raw["artifacts"]:
        file = bundle / entry["path"]
        if file.is_file() and file.stat().st_size < 1 << 30:
            entry |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
    put(path, json.dumps(raw).encode())
    return f"{what}, hashes repaired", True


def _changed_in_place(
    rng: Random, place: Place, bases: Bases, base: str, bundle: Path, file: Path
) -> Case:
    """A file of the recorded size and another content, whose hash says so."""
    content, said = edit_in_place(rng, file.read_bytes())
    put(file, content)
    what = f"{file.name}: {said}, its size kept"
    if rng.random() < 0.7:
        return _encoded(rng, place, bases, base, bundle, what, repaired=False)
    return _used(rng, place, bases, base, bundle, what)


def _used(
    rng: Random,
    place: Place,
    bases: Bases,
    base: str,
    bundle: Path,
    what: str,
    *,
    repaired: bool = False,
) -> Case:
    """One of the commands that read a bundle."""
    command = rng.choice(("verify", "encode", "encode", "triton", "inspect", "index"))
    if command == "encode":
        return _encoded(rng, place, bases, base, bundle, what, repaired=repaired)
    argv: tuple[str, ...] = (command, "--quiet", "--bundle", str(bundle))
    match command:
        case "inspect":
            argv += ("--tokens", "16", *rng.choice(((), ("--json",))))
        case "triton":
            argv += ("--out", str(place.out / "repository"))
        case "index":
            canaries = str(bases.get("canaries") / "canaries.json")
            argv = rng.choice(
                (
                    ("index", "fingerprint", *argv[1:]),
                    ("index", "check", *argv[1:], "--index", canaries),
                    ("index", "check", *argv[1:], "--index", canaries, "--recorded"),
                    ("index", "export", *argv[1:], "--out", str(place.out / "canaries.json")),
                )
            )
    return Case(argv=argv, what=what, repaired=repaired)


def _encoded(
    rng: Random,
    place: Place,
    bases: Bases,
    base: str,
    bundle: Path,
    what: str,
    *,
    repaired: bool,
) -> Case:
    options: tuple[str, ...] = ()
    if base == "switchable":
        options = ("--task", "classification")
    if base == "slot":
        options = ("--adapter", str(bases.get("adapter-file") / "mine.onnx_adapter"))

    def finds() -> str | None:
        ended = run_forked(main, ("verify", "--quiet", "--bundle", str(bundle)), place, Limits())
        return "verify" if ended.code in (2, 3) else None

    return Case(
        argv=encode(bundle, *options),
        what=what,
        vectors=bases.vectors(base, *options),
        repaired=repaired,
        finds=finds,
    )


def _replaced(place: Place, bases: Bases, bundle: Path, what: str) -> Case:
    """A build that is to replace the bundle whose manifest was changed."""
    model = linked(bases.get("original"), place.input / MODEL)
    final = place.out / MODEL / NAME
    final.parent.mkdir()
    bundle.rename(final)
    argv = (*BUILD, "--model", str(model), "--out", str(place.out), "--task", TASK)
    return Case(argv=argv, what=f"{what}, in the way of a build", check=lambda: broken(final))


def _beside(rng: Random, place: Place, bases: Bases) -> Case:
    """An adapter for a slot, or the canaries of an index, with a bundle that is whole."""
    if rng.random() < 0.5 and not bases.few:
        folder = linked(bases.get("adapter-file"), place.input / "adapter")
        file = folder / "mine.onnx_adapter"
        what = edit_file(rng, file)
        return Case(argv=encode(bases.get("slot"), "--adapter", str(file)), what=what)
    folder = linked(bases.get("canaries"), place.input / "index")
    what = edit_file(rng, folder / "canaries.json")
    bundle = str(bases.get("merged"))
    argv = ("index", "check", "--quiet", "--bundle", bundle, "--index", f"{folder}/canaries.json")
    return Case(argv=(*argv, *rng.choice(((), ("--recorded",)))), what=what)
