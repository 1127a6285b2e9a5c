"""The checkpoints, adapters and bundles that are mutated: tiny, and made when first asked for."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from export.checkpoint.source import SAMPLE
from export.cli import main
from export.gate.texts import parity_lines
from tests.support import SAMPLE_HF
from tests.torture.mutations.forked import Limits, run_forked
from tests.torture.mutations.judgement import Vectors, read_vectors
from tests.torture.mutations.places import Place, clear, linked
from tests.zoo import Size, write_native, write_original

TINY = Size(hidden=32, layers=1, heads=2, intermediate=32, rank=2)
TASK = "retrieval.query"  # it has an instruction
MODEL, NAME = "model", "made"  # what folders of checkpoints and bundles are called
TEXTS = ("Where is the station?", "Wo ist der Bahnhof?", "雨 rain")
BUILD = (
    *("engine", "--quiet", "--target", "onnxruntime", "--precision", "fp32", "--name", NAME),
    *("--parity-tokens", "16", "--max-tokens", "64", "--max-batch", "8"),
)
_SAMPLE_FILES = ("README.md", "modules.json", "tokenizer_config.json", "1_Pooling/config.json")
_BPE_VOCAB = 2000


class Bases:
    """What is mutated, below ``folder``, where several processes may ask for the same."""

    def __init__(self, folder: Path, *, few: bool = False) -> None:
        """``few``: of bundles the cheapest alone is made."""
        self.folder, self.few = folder.absolute(), few
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> Path:
        """The folder, or file, of a row of :data:`MAKERS`. Not to be changed."""
        place = self.folder / name
        with self._locked(name):
            if not place.exists():
                staged = self.folder / f".{name}"
                clear(staged)
                MAKERS[name](self, staged)
                staged.rename(place)
        return place

    def among(self, *names: str) -> tuple[str, ...]:
        """Those of the bundles that may be made."""
        return ("merged",) if self.few else names

    def vectors(self, name: str, *options: str) -> Vectors:
        """What ``adaptrt encode`` gives for :data:`TEXTS` with an unmutated bundle."""
        place = self.folder / f"{name}.vectors.npy"
        bundle = self.get(name)
        with self._locked(place.name):
            if not place.exists():
                out = self.call(*encode(bundle, *options))
                np.save(place, read_vectors(out))
        vectors: Vectors = np.load(place)
        return vectors

    def call(self, *argv: str) -> bytes:
        """The command with these arguments, which must succeed; its output."""
        place = Place.fresh(self.folder / ".call")
        ended = run_forked(main, argv, place, Limits(seconds=600))
        if ended.code != 0:
            raise RuntimeError(f"{argv}: ended with {ended.code}: {ended.err}")
        return ended.out

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def encode(bundle: Path, *options: str) -> tuple[str, ...]:
    """The arguments that embed :data:`TEXTS`."""
    return ("encode", "--quiet", "--bundle", str(bundle), *options, *TEXTS)


def _original(bases: Bases, out: Path) -> None:
    write_original(out, TINY)
    for name in _SAMPLE_FILES:
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(SAMPLE / name, out / name)


def _native(bases: Bases, out: Path) -> None:
    write_native(bases.get("original"), out, adapters=True)
    shutil.copyfile(SAMPLE_HF / "tokenizer_config.json", out / "tokenizer_config.json")


def _sharded(whole: str) -> Callable[[Bases, Path], None]:
    def make(bases: Bases, out: Path) -> None:
        linked(bases.get(whole), out)
        tensors = load_file(out / "model.safetensors")
        (out / "model.safetensors").unlink()
        names = sorted(tensors)
        shards = {f"model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
        for shard, held in shards.items():
            save_file({n: tensors[n] for n in held}, out / shard, metadata={"format": "pt"})
        where = {name: shard for shard, held in shards.items() for name in held}
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        (out / "model.safetensors.index.json").write_text(json.dumps(index))

    return make


def _bpe(bases: Bases, out: Path) -> None:
    """The same model with a tokenizer of another kind."""
    linked(bases.get("original"), out)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=_BPE_VOCAB, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([line["text"] for line in parity_lines()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    (out / "tokenizer.json").unlink()
    tokenizer.save(str(out / "tokenizer.json"))


def _bundle(checkpoint: str, *options: str) -> Callable[[Bases, Path], None]:
    """Built with ``options``, which may override those of :data:`BUILD`."""

    def make(bases: Bases, out: Path) -> None:
        model = out.with_name(f"{out.name}.from") / MODEL
        clear(model.parent)
        linked(bases.get(checkpoint), model)
        built = model.parent / "out"
        bases.call(*BUILD, "--model", str(model), "--out", str(built), *options)
        (built / MODEL / NAME).rename(out)
        clear(model.parent)

    return make


def _adapter_file(bases: Bases, out: Path) -> None:
    out.mkdir()
    file = str(out / "mine.onnx_adapter")
    peft, slot = str(bases.get("native") / "classification"), str(bases.get("slot"))
    bases.call("adapter", "--quiet", "--peft", peft, "--bundle", slot, "--out", file)


def _calibration(texts: str) -> Callable[[Bases, Path], None]:
    def make(bases: Bases, out: Path) -> None:
        model = out.with_name(f"{out.name}.from") / MODEL
        clear(model.parent)
        linked(bases.get("original"), model)
        built = model.parent / "out"
        bases.call(*calibrate(model, built), "--calibration-texts", texts)
        (file,) = built.rglob("*.json")
        out.mkdir()
        shutil.copyfile(file, out / "calibration.json")
        clear(model.parent)

    return make


def calibrate(model: Path, out: Path) -> tuple[str, ...]:
    """The arguments that calibrate a checkpoint."""
    return ("calibrate", "--quiet", "--model", str(model), "--task", TASK, "--out", str(out))


def _canaries(bases: Bases, out: Path) -> None:
    out.mkdir()
    bundle, file = str(bases.get("merged")), str(out / "canaries.json")
    bases.call("index", "export", "--recorded", "--quiet", "--bundle", bundle, "--out", file)


_MERGED = ("--task", TASK)
_SWITCHABLE = ("--adapter", "switchable", "--head", "chunks", "--vocabulary", "de,en")
_ENGINE = (*_MERGED, "--target", "tensorrt_rtx", "--gpu", "sm89", "--precision", "fp16")
MAKERS: dict[str, Callable[[Bases, Path], None]] = {
    "original": _original,
    "native": _native,
    "original-sharded": _sharded("original"),
    "native-sharded": _sharded("native"),
    "bpe": _bpe,
    "merged": _bundle("original", *_MERGED),
    "bpe-bundle": _bundle("bpe", *_MERGED),
    "switchable": _bundle("native", *_SWITCHABLE),
    "slot": _bundle("native", "--adapter", "slot", "--rank", "4", "--task", "base"),
    "engine": _bundle("original", *_ENGINE),
    "openvino": _bundle("original", *_MERGED, "--target", "openvino"),
    "adapter-file": _adapter_file,
    "calibration": _calibration("32"),
    "calibration-other": _calibration("48"),
    "canaries": _canaries,
}
