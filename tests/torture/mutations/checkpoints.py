"""Mutated checkpoints, adapters, configurations and tokenizers: what ``adaptrt engine`` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from export.bundle.staging import check_hashes
from runtimes.errors import AdaptrtError
from tests.support import Array
from tests.torture.mutations.bases import BUILD, MODEL, NAME, TASK, Bases
from tests.torture.mutations.edits import edit_bytes, edit_entry, edit_json, some
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place, linked, put

_FORMATS = ("original", "native", "original-sharded", "native-sharded")
_CONFIGURATIONS = (
    *("config.json", "config.json", "config.json", "tokenizer_config.json", "modules.json"),
    *("1_Pooling/config.json", "README.md", "special_tokens_map.json"),
)
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "f32", "", "F4")


def checkpoint(rng: Random, place: Place, bases: Bases) -> Case:
    """The files of tensors and their index."""
    model = linked(bases.get(rng.choice(_FORMATS)), place.input / MODEL)
    files = sorted(path for path in model.glob("model*") if path.is_file())
    file = rng.choice(files)
    return build(rng, place, bases, edit_file(rng, file))


def configuration(rng: Random, place: Place, bases: Bases) -> Case:
    """What says how tensors are to be understood, and what bundles' clients read."""
    model = linked(bases.get(rng.choice(_FORMATS[:2])), place.input / MODEL)
    file = model / rng.choice(_CONFIGURATIONS)
    if not file.exists():  # one that is not needed, made of another
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((model / "config.json").read_bytes())
    return build(rng, place, bases, edit_file(rng, file))


def tokenizer(rng: Random, place: Place, bases: Bases) -> Case:
    """Of both kinds: Unigram and BPE."""
    model = linked(bases.get(rng.choice(("original", "bpe"))), place.input / MODEL)
    return build(rng, place, bases, edit_file(rng, model / "tokenizer.json"))


def adapter(rng: Random, place: Place, bases: Bases) -> Case:
    """A user's adapter, or one that the checkpoint brings, as PEFT saves it."""
    native = bases.get("native")
    way = rng.choice(("slot", "slot", "own", "published"))
    if way == "published":
        model = linked(native, place.input / MODEL)
        folder = model / "retrieval_query"
        return build(rng, place, bases, _edit_peft(rng, folder))
    folder = linked(native / "classification", place.input / "peft")
    what = _edit_peft(rng, folder)
    if way == "own":
        linked(native, place.input / MODEL)
        return build(rng, place, bases, what, "--adapter-path", str(folder), task="mine")
    out = place.out / "mine.onnx_adapter"
    slot = str(bases.get("slot"))
    argv = ("adapter", "--quiet", "--peft", str(folder), "--bundle", slot, "--out", str(out))
    return Case(argv=argv, what=what, check=lambda: None if out.is_file() else "no file")


def _edit_peft(rng: Random, folder: Path) -> str:
    return edit_file(rng, folder / rng.choice(("adapter_config.json", "adapter_model.safetensors")))


def build(
    rng: Random, place: Place, bases: Bases, what: str, *options: str, task: str = ""
) -> Case:
    """A build of the checkpoint in ``place``, over a former bundle or into nothing."""
    task = task or rng.choice((TASK, TASK, TASK, "base"))
    final = place.out / MODEL / NAME
    if task == TASK and not options and rng.random() < 0.3:
        linked(bases.get("merged"), final)
        what += ", over a former bundle"
    argv = (*BUILD, "--model", str(place.input / MODEL), "--out", str(place.out))
    return Case(argv=(*argv, "--task", task, *options), what=what, check=lambda: broken(final))


def broken(final: Path) -> str | None:
    """What is wrong with a bundle that a build published; None where it is whole."""
    try:
        check_hashes(final)
    except AdaptrtError as error:
        return f"published, but {error}"
    others = [path.name for path in final.parent.iterdir() if path != final]
    return f"beside the bundle: {others}" if others else None


def edit_file(rng: Random, path: Path) -> str:
    """One file changed by one of the ways that fit its kind."""
    if rng.random() < 0.06:
        return edit_entry(rng, path)
    if path.suffix == ".safetensors" and rng.random() < 0.3:
        return f"{path.name}: {_edit_tensors(rng, path)}"
    raw = path.read_bytes()
    ways: list[Callable[[Random, bytes], tuple[bytes, str]]] = [edit_bytes]
    if path.suffix == ".json":
        ways += [edit_json] * 3
    if path.suffix == ".safetensors":
        ways += [_edit_header, _edit_header]
    content, said = rng.choice(ways)(rng, raw)
    put(path, content)
    return f"{path.name}: {said}"


def _edit_header(rng: Random, raw: bytes) -> tuple[bytes, str]:
    """The JSON in front of the tensors: names, types, shapes and places."""
    size = int.from_bytes(raw[:8], "little")
    header, body = raw[8 : 8 + size], raw[8 + size :]
    if rng.random() < 0.5:
        content, said = edit_json(rng, header)
    else:
        content, said = _edit_entry_of_header(rng, header)
    length = len(content)
    if rng.random() < 0.1:
        length = rng.choice((0, 1, length - 1, length + 1, 100_000_000, 2**63, 2**64 - 1))
        said += f", its length {length}"
    return length.to_bytes(8, "little") + content + body, f"header: {said}"


def _edit_entry_of_header(rng: Random, header: bytes) -> tuple[bytes, str]:
    entries = json.loads(header)
    said = []
    for _ in range(some(rng)):
        names = [name for name in entries if name != "__metadata__"]
        name, other = rng.choice(names), rng.choice(names)
        entry = entries[name]
        way = rng.choice(("type", "shape", "places", "swap", "name", "copy", "gone"))
        match way:
            case "type":
                entry["dtype"] = rng.choice(_DTYPES)
            case "shape":
                entry["shape"] = rng.choice(
                    (
                        entry["shape"][::-1],
                        [*entry["shape"], 1],
                        entry["shape"][1:],
                        [2**40],
                        [0],
                        [2**32, 2**32],
                        [-1, 4],
                        [2**63],
                        [1] * 100,
                    )
                )
            case "places":
                start, end = entry["data_offsets"]
                entry["data_offsets"] = rng.choice(
                    (
                        [end, start],
                        [start, end + 1],
                        [start + 1, end],
                        [0, 2**62],
                        [-4, end],
                        [start, start],
                        [2**64 - 1, end],
                        [start, end, end],
                        [],
                    )
                )
            case "swap":
                entries[name], entries[other] = entries[other], entries[name]
            case "name":
                entries[rng.choice((name + "x", "", "../x", other + "\0", "x" * 5000))] = (
                    entries.pop(name)
                )
            case "copy":
                entries[name + ".copy"] = dict(entry)
            case "gone":
                del entries[name]
        said.append(f"{way} of {name}")
    return json.dumps(entries).encode(), ", ".join(said)


def _edit_tensors(rng: Random, path: Path) -> str:
    """A file that is whole, with other numbers or tensors in it."""
    tensors: dict[str, Array] = {name: np.array(v) for name, v in load_file(path).items()}
    said = []
    for _ in range(some(rng)):
        name = rng.choice(sorted(tensors))
        value = tensors[name]
        way = rng.choice(sorted(_NUMBERS))
        with suppress(ValueError, OverflowError):  # an integer is no NaN; one may be empty by now
            tensors[name] = np.ascontiguousarray(_NUMBERS[way](rng, value))
        said.append(f"{way} in {name}")
    path.unlink()  # another name of it keeps the bytes
    save_file(tensors, path)
    return ", ".join(said)


def _one(rng: Random, value: Array, number: float) -> Array:
    value.reshape(-1)[rng.randrange(value.size)] = number
    return value


_NUMBERS: dict[str, Callable[[Random, Array], Array]] = {
    "NaN": lambda rng, value: _one(rng, value, float("nan")),
    "infinity": lambda rng, value: _one(rng, value, rng.choice((float("inf"), float("-inf")))),
    "a huge number": lambda rng, value: _one(rng, value, 3e38),
    "a number beyond FP16": lambda rng, value: _one(rng, value, 1e6),
    "zeros": lambda rng, value: np.zeros_like(value),
    "subnormals": lambda rng, value: (np.ones(value.shape, np.float32) * 1e-40).astype(value.dtype),
    "a million times more": lambda rng, value: (value.astype(np.float32) * 1e6).astype(value.dtype),
    "a transposition": lambda rng, value: value.T,
    "a row less": lambda rng, value: value[:-1],
    "FP64": lambda rng, value: value.astype(np.float64),
    "FP32": lambda rng, value: value.astype(np.float32),
    "FP16": lambda rng, value: value.astype(np.float16),
    "BF16": lambda rng, value: value.astype(ml_dtypes.bfloat16),
    "integers": lambda rng, value: value.astype(np.int32),
    "nothing": lambda rng, value: value.reshape(-1)[:0],
}
