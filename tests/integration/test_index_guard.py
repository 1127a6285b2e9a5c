"""Bundles beside indexes: what belongs together is taken, each mix-up is refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptrt import Embedder, IndexMismatchError, InputError
from runtimes.canaries import CANARIES
from runtimes.fingerprint import BundleFingerprints, Fingerprint, fingerprint_of
from runtimes.index.guard import Guard
from runtimes.index.offer import Offer
from tests.index_support import TEXTS, write_index, write_part
from tests.support import build, edit_json, listing, rehash, run_cli
from tests.zoo import write_native

BEFORE = Path(__file__).parents[1] / "data" / "bundles-before"
PASSAGE, QUERY = "retrieval.passage", "retrieval.query"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Real bundles of small random checkpoints, and a passage index of the switchable one."""

    folder: Path
    switchable: Path
    query: Path
    separation: Path
    passage: Path
    fp16: Path
    own: Path
    slot: Path
    adapter: Path
    index: Path

    def copy(self, name: str, bundle: Path) -> Path:
        return Path(shutil.copytree(bundle, self.folder / name))

    def write(self, name: str, **options: Any) -> Path:
        """Another index of the switchable bundle."""
        with Embedder.load(self.switchable) as embedder:
            return write_index(self.folder / name, embedder, **{"task": PASSAGE} | options)

    def changed(self, name: str, **changes: Any) -> Path:
        """The index with another fingerprint in its one file."""
        with Embedder.load(self.switchable) as embedder:
            one = fingerprint_of(embedder, task=PASSAGE)
            vectors = embedder.encode(TEXTS, task=PASSAGE)
        path = self.folder / name / "part.parquet"
        write_part(path, vectors, TEXTS, replace(one, **changes))
        return path.parent


@pytest.fixture(scope="module")
def shelf(
    tmp_path_factory: pytest.TempPathFactory,
    small_folder: Path,
    chunk_bundle: Path,
    query_bundle: Path,
    small_bundle: Path,
) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    native = write_native(small_folder, folder / "small-native", adapters=True)
    options = ("--task", PASSAGE)
    assert build(folder, "--model", small_folder, *options) == 0
    assert build(folder, "--model", small_folder, *options, precision="fp16") == 0
    lora = ("--adapter-path", native / "separation")
    assert build(folder / "own", "--model", small_folder, *options, *lora) == 0
    slot = ("--adapter", "slot", "--rank", 6, "--task", "base")
    assert build(folder, "--model", native, *slot) == 0
    bundle, adapter = folder / "small-native" / "base-slot-fp32-r6", folder / "a.onnx_adapter"
    peft = native / "separation"
    assert run_cli("adapter", "--peft", peft, "--bundle", bundle, "--out", adapter) == 0
    with Embedder.load(chunk_bundle) as embedder:
        index = write_index(folder / "index", embedder, task=PASSAGE)
    return Shelf(
        folder=folder,
        switchable=chunk_bundle,
        query=query_bundle,
        separation=small_bundle,
        passage=folder / "small" / f"{PASSAGE}-fp32-onnxruntime",
        fp16=folder / "small" / f"{PASSAGE}-fp16-onnxruntime",
        own=folder / "own" / "small" / f"{PASSAGE}-own-fp32-onnxruntime",
        slot=bundle,
        adapter=adapter,
        index=index,
    )


def check(bundle: Path, index: Path, *more: object) -> int:
    return run_cli("index", "check", "--bundle", bundle, "--index", index, *more)


# Fitting pairs


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("switchable", ["compatible", "retrieval.passage: adds to it", "its query side"]),
        ("passage", ["compatible", "retrieval.passage: adds to it"]),
        (
            "query",
            ["compatible as its query side", "only names were compared", "its own build measured"],
        ),
        ("fp16", ["comparable with a loss of", "is in fp16 for onnxruntime"]),
    ],
)
def test_what_belongs_together_is_taken(
    shelf: Shelf, name: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = getattr(shelf, name)
    assert check(bundle, shelf.index) == 0
    lines = capsys.readouterr().out
    assert lines.startswith(said[0])
    assert all(words in lines for words in said)
    task = QUERY if name == "query" else PASSAGE
    with Embedder.load(bundle, index=shelf.index) as guarded, Embedder.load(bundle) as plain:
        np.testing.assert_array_equal(
            guarded.encode(TEXTS, task=task), plain.encode(TEXTS, task=task)
        )


def test_loss_of_another_precision_is_measured(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(shelf.fp16, shelf.index, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["standing"], found["canaries"]["count"]) == ("comparable", len(CANARIES))
    assert 0 < found["loss"] < 1e-5
    with Embedder.load(shelf.fp16) as half, Embedder.load(shelf.passage) as full:
        cosines = (half.encode(CANARIES) * full.encode(CANARIES)).sum(axis=1)
    assert found["canaries"]["least"] == pytest.approx(float(cosines.min()), abs=1e-6)


def test_texts_of_the_index_are_embedded_again(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled = ("--text-column", "text", "--texts", 40, "--json")
    assert check(shelf.fp16, shelf.index, *sampled) == 0
    sample = json.loads(capsys.readouterr().out)["sample"]
    assert sample["count"] == 40
    assert 0.9999 < sample["least"] <= sample["mean"] <= 1.0000001
    assert sample["overlap"] > 0.9
    # Not the texts that the vectors are of: the sample sees what names and canaries cannot.
    with Embedder.load(shelf.passage) as embedder:
        one, vectors = fingerprint_of(embedder), embedder.encode(TEXTS)
    path = shelf.folder / "shuffled" / "part.parquet"
    write_part(path, vectors[::-1], TEXTS, one)
    assert check(shelf.passage, path.parent, *sampled) == 0
    assert json.loads(capsys.readouterr().out)["sample"]["least"] < 0.99


@pytest.mark.parametrize("output", ["int8", "uint8", "binary", "ubinary"])
def test_every_output_type_and_a_shorter_length(
    shelf: Shelf, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = shelf.write(f"short-{output}", dimensions=32, output=output)
    assert check(shelf.passage, index, "--text-column", "text", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dimensions"], found["output"]) == (32, output)
    assert found["sample"]["least"] > 0.999
    with Embedder.load(shelf.switchable, index=index) as embedder:
        assert embedder.encode(TEXTS, task=QUERY, dimensions=32).dtype == np.float32
        with pytest.raises(InputError, match="dimensions: got 64, expected 32 for the index"):
            embedder.encode(TEXTS, task=QUERY)


def test_floats_may_be_stored_in_half_and_late_chunks_are_not_sampled(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    with Embedder.load(shelf.passage) as embedder:
        one, vectors = fingerprint_of(embedder), embedder.encode(TEXTS)
    half = shelf.folder / "half" / "part.parquet"
    write_part(half, vectors.astype(np.float16), TEXTS, one)
    assert check(shelf.passage, half.parent, "--text-column", "text") == 0
    assert "60 texts of the index embedded again, least cosine" in capsys.readouterr().out
    table = pq.read_table(half)
    chunks = shelf.folder / "chunks" / "part.parquet"
    chunks.parent.mkdir()
    numbers = pa.array(range(len(TEXTS)), pa.int32())
    pq.write_table(table.append_column("chunk", numbers), chunks)
    assert check(shelf.passage, chunks.parent) == 0
    assert check(shelf.passage, chunks.parent, "--text-column", "text") == 2
    assert "holds late chunks; leave it out" in capsys.readouterr().err


def test_slot_with_the_file_that_the_index_was_made_with(shelf: Shelf) -> None:
    with Embedder.load(shelf.slot, adapter=shelf.adapter) as embedder:
        index = write_index(shelf.folder / "slot-index", embedder)
    assert check(shelf.slot, index, "--adapter", shelf.adapter) == 0


def test_canaries_as_json_stand_for_any_store(shelf: Shelf, tmp_path: Path) -> None:
    exported, same = tmp_path / "canaries.json", tmp_path / "same.json"
    assert run_cli("index", "export", "--index", shelf.index, "--out", exported) == 0
    assert check(shelf.passage, exported) == 0
    assert check(shelf.separation, exported) == 6
    from_bundle = ("--bundle", shelf.switchable, "--task", PASSAGE, "--recorded")
    assert run_cli("index", "export", *from_bundle, "--out", same) == 0
    assert Fingerprint.read(same).identity == Fingerprint.read(exported).identity
    assert check(shelf.passage, same, "--recorded") == 0


def test_bundles_record_what_they_embed(shelf: Shelf) -> None:
    """By the gate's graph at build; here the same executor embeds the same texts."""
    recorded = BundleFingerprints.read(shelf.switchable / "fingerprint.json").fingerprints
    with Embedder.load(shelf.switchable) as embedder:
        assert [one.task for one in recorded] == list(embedder.manifest.prefixes)
        for one in recorded:
            now = fingerprint_of(embedder, task=one.task)
            assert now.digest == one.digest
            for ours, theirs in zip(now.vectors, one.vectors, strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None and theirs is not None:
                    assert float(ours @ theirs) > 0.9999995


def test_bundle_of_an_earlier_version_is_measured_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = min(BEFORE.iterdir())
    before = listing(bundle)
    assert run_cli("index", "fingerprint", "--bundle", bundle) == 0
    assert "computed now" in capsys.readouterr().out
    out = tmp_path / "canaries.json"
    assert run_cli("index", "export", "--bundle", bundle, "--out", out) == 0
    assert check(bundle, out) == 0
    assert check(bundle, out, "--recorded") == 2
    assert "recorded no fingerprint; leave --recorded out" in capsys.readouterr().err
    assert listing(bundle) == before


# Mix-ups


def _tampered(shelf: Shelf) -> Path:
    """Other weights under the same names: a quarter of the file's numbers are halved."""
    bundle = shelf.copy("tampered", shelf.passage)
    path = bundle / "onnx" / "model.onnx_data"
    numbers = np.fromfile(path, np.float32)
    numbers[: len(numbers) // 4] *= np.linspace(0.2, 2, len(numbers) // 4, dtype=np.float32)
    numbers.tofile(path)
    rehash(bundle)
    return bundle


def _other_tokenizer(shelf: Shelf) -> Path:
    bundle = shelf.copy("tokenizer", shelf.passage)
    edit_json(bundle / "tokenizer.json", normalizer=None)
    rehash(bundle)
    return bundle


Case = tuple[Callable[[Shelf], Path], Callable[[Shelf], Path], tuple[object, ...], str]
MIXED_UP: dict[str, Case] = {
    "another model": (
        lambda s: min(BEFORE.iterdir()),
        lambda s: s.index,
        (),
        r"model: bundle .* is of 'tiny' \w{12}, the index of 'small' \w{12}",
    ),
    "an adapter of one's own under the task's name": (
        lambda s: s.own,
        lambda s: s.index,
        (),
        "model: bundle .*own.* is of 'small' ",
    ),
    "another task": (
        lambda s: s.separation,
        lambda s: s.index,
        (),
        "task: bundle .* has separation, the index is of retrieval.passage, which "
        "retrieval.query searches",
    ),
    "queries beside queries": (
        lambda s: s.passage,
        lambda s: s.write("queries", task=QUERY),
        (),
        "task: bundle .* has retrieval.passage, the index is of retrieval.query",
    ),
    "a task that was asked for": (
        lambda s: s.switchable,
        lambda s: s.index,
        ("--task", "classification"),
        "task: asked for classification, the index is of retrieval.passage",
    ),
    "another instruction": (
        lambda s: s.passage,
        lambda s: s.write("bare", prefix=False),
        (),
        "prefix: bundle .* puts 'Represent .*' before texts of retrieval.passage, the index was "
        "made with ''",
    ),
    "another instruction, seen from the query side": (
        lambda s: s.query,
        lambda s: s.write("bare-again", prefix=False),
        (),
        "prefix: bundle .* before texts of retrieval.query, the index was made with '' for",
    ),
    "another file in the slot": (
        lambda s: s.slot,
        lambda s: _slot_index(s),
        (),
        r"adapter: bundle .* has no file in its slot, the index was made with a file \w{12}",
    ),
    "another length": (
        lambda s: s.passage,
        lambda s: s.write("short", dimensions=32),
        ("--dimensions", 64),
        "dimensions: asked for 64, the index has 32",
    ),
    "a length that the model does not have": (
        lambda s: s.passage,
        lambda s: _odd_length(s),
        (),
        "dimensions: the index has 20, bundle .* gives 32, 64",
    ),
    "another output type": (
        lambda s: s.passage,
        lambda s: s.index,
        ("--output-type", "int8"),
        "output type: asked for int8, the index has float32",
    ),
    "vectors of any length": (
        lambda s: s.passage,
        lambda s: s.changed("any-length", normalised=False),
        (),
        "normalisation: the index has vectors of any length",
    ),
    "another tokenizer": (
        _other_tokenizer,
        lambda s: s.index,
        (),
        r"tokenizer: bundle .* has \w{12}, the index \w{12}",
    ),
    "other weights under the same names": (
        _tampered,
        lambda s: s.index,
        (),
        "vectors: by their names both are the same, but the canaries' cosines are at least 0",
    ),
    "canaries of other texts": (
        lambda s: s.passage,
        lambda s: s.changed("other-texts", canary_texts="1" * 64),
        (),
        "canaries: the index has vectors of other texts",
    ),
}


def _slot_index(shelf: Shelf) -> Path:
    with Embedder.load(shelf.slot, adapter=shelf.adapter) as embedder:
        return write_index(shelf.folder / "filled", embedder)


def _odd_length(shelf: Shelf) -> Path:
    with Embedder.load(shelf.passage) as embedder:
        one = fingerprint_of(embedder).cut(20)
        vectors = embedder.encode(TEXTS)[:, :20]
    path = shelf.folder / "odd" / "part.parquet"
    write_part(path, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), TEXTS, one)
    return path.parent


@pytest.mark.parametrize("case", MIXED_UP)
def test_mix_up_is_refused_with_its_reason(
    shelf: Shelf, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle_of, index_of, options, reason = MIXED_UP[case]
    bundle, index = bundle_of(shelf), index_of(shelf)
    assert check(bundle, index, *options) == 6
    said = capsys.readouterr()
    headline, *reasons = said.out.splitlines()
    assert headline == "not compatible"
    assert any(_matches(reason, line) for line in reasons), reasons
    assert said.err == ""
    if not options:  # what is asked for is known at each call
        with pytest.raises(IndexMismatchError, match=reason) as refused:
            Embedder.load(bundle, index=index)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 6


def _matches(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def test_folder_with_vectors_of_two_kinds_is_refused(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Path(shutil.copytree(shelf.index, shelf.folder / "two"))
    queries = shelf.write("two-queries", task=QUERY, parts=1)
    shutil.copyfile(queries / "part-0.parquet", index / "part-9.parquet")
    assert check(shelf.switchable, index) == 6
    assert "hold vectors of two kinds: task 'retrieval.passage' and" in capsys.readouterr().err


def test_column_that_is_not_what_the_fingerprint_says_is_refused(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    with Embedder.load(shelf.passage) as embedder:
        one, vectors = fingerprint_of(embedder), embedder.encode(TEXTS, dimensions=32)
    path = shelf.folder / "narrow" / "part.parquet"
    write_part(path, vectors, TEXTS, one)
    assert check(shelf.passage, path.parent) == 6
    assert "fingerprint says 64 dimensions as float32: 64 of float32" in capsys.readouterr().err


# The guarded embedder's calls


def test_guarded_calls_are_those_of_the_index(shelf: Shelf) -> None:
    with Embedder.load(shelf.switchable, index=shelf.index) as embedder:
        assert embedder.encode(TEXTS[:2], task=[QUERY, PASSAGE]).shape == (2, 64)
        assert embedder.encode_chunks(TEXTS[0], sentences=1, task=PASSAGE).vectors.shape == (1, 64)
        with pytest.raises(InputError, match=r"task: got separation, expected retrieval\.passage"):
            embedder.encode(TEXTS, task="separation")
        with pytest.raises(InputError, match="dimensions: got 32, expected 64 for the index"):
            embedder.encode(TEXTS, task=QUERY, dimensions=32)
        with pytest.raises(InputError, match="output: got binary, expected float32 or float32"):
            embedder.encode(TEXTS, task=QUERY, output="binary")
        with pytest.raises(InputError, match="prefix: got False, but the index"):
            embedder.encode(TEXTS, task=QUERY, prefix=False)
        with pytest.raises(InputError, match=r"task: got separation"):
            embedder.encode_chunks(TEXTS[0], sentences=1, task="separation")


def test_copy_is_guarded_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(shelf.index.parent)
    with Embedder.load(shelf.switchable, index=shelf.index.name) as embedder:
        packed = pickle.dumps(embedder)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(packed) as again, pytest.raises(InputError, match="task: got separation"):
        again.encode(TEXTS, task="separation")


def test_canary_that_a_bundle_does_not_take_is_left_out(
    shelf: Shelf, small_folder: Path, tmp_path: Path
) -> None:
    """Those of at most 32 tokens are compared; of nearly none, nothing can be said."""
    short = ("--model", small_folder, "--task", "separation", "--max-tokens", 32)
    assert build(tmp_path, *short) == 0
    (bundle,) = (tmp_path / "small").iterdir()
    with Embedder.load(shelf.separation) as embedder:
        index = write_index(tmp_path / "index", embedder, TEXTS[:3])
    with Embedder.load(bundle, index=index) as guarded:
        assert guarded.guard is not None
        assert guarded.guard.verdict.canaries is not None
        assert 4 <= guarded.guard.verdict.canaries.count < 16
    with Embedder.load(bundle) as embedder:
        offer = Offer.of_embedder(embedder, "bundle")
        few = replace(
            fingerprint_of(embedder),
            canaries=(*fingerprint_of(embedder).canaries[:3], *[None] * 13),
        )
        out = tmp_path / "few.json"
        out.write_bytes(few.to_bytes())
        with pytest.raises(IndexMismatchError, match="vectors of 3 common texts, expected at l"):
            Guard.of(offer, out)


# Bad input: one line, exit code 2, nothing written

BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no action": ((), "the following arguments are required: ACTION"),
    "another action": (("compare",), "invalid choice: 'compare'"),
    "no bundle": (("check", "--index", "INDEX"), "--bundle: none given"),
    "no index": (("check", "--bundle", "BUNDLE"), "--index: none given"),
    "no such index": (("check", "--bundle", "BUNDLE", "--index", "nowhere"), "no such file or"),
    "an empty folder": (("check", "--bundle", "BUNDLE", "--index", "EMPTY"), "no .parquet file"),
    "no Parquet": (("check", "--bundle", "BUNDLE", "--index", "TEXT"), "not a usable Parquet"),
    "no fingerprint": (
        ("check", "--bundle", "BUNDLE", "--index", "BARE"),
        "has no adaptrt.fingerprint in its metadata",
    ),
    "no JSON": (("check", "--bundle", "BUNDLE", "--index", "BROKEN"), "not valid JSON"),
    "no bundle's folder": (("check", "--bundle", "EMPTY", "--index", "INDEX"), "manifest.json"),
    "a column that is not there": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--text-column", "body"),
        "--text-column: got 'body', expected one of id, text, embedding",
    ),
    "texts without a column": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--texts", "9"),
        "--texts: needs --text-column",
    ),
    "an output type": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--output-type", "int3"),
        "output: got 'int3', expected one of",
    ),
    "a runtime": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--runtime", "cudnn"),
        "runtime: got 'cudnn', expected one of",
    ),
    "recorded by a runtime": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--recorded", "--runtime", "openvino"),
        "--recorded: the bundle is not opened",
    ),
    "an option of another action": (
        ("check", "--bundle", "BUNDLE", "--index", "INDEX", "--out", "x.json"),
        "--out: is for adaptrt index export; leave it out",
    ),
    "nothing to export": (("export", "--out", "x.json"), "--bundle and --index: expected one"),
    "no place": (("export", "--bundle", "BUNDLE"), "--out: got 'None', expected a file's name"),
    "no such place": (
        ("export", "--bundle", "BUNDLE", "--out", "nowhere/x.json"),
        "--out: 'nowhere': no such folder",
    ),
    "a task that it does not have": (
        ("export", "--bundle", "BUNDLE", "--out", "x.json", "--task", "separation"),
        "task: got 'separation'",
    ),
    "a length that it does not have": (
        ("export", "--bundle", "BUNDLE", "--out", "x.json", "--dimensions", "20", "--recorded"),
        "dimensions: got 20, expected one of 32, 64",
    ),
    "a task of an index": (
        ("export", "--index", "INDEX", "--out", "x.json", "--task", "separation"),
        "--task: the index says its own",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    shelf: Shelf,
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, message = BAD[case]
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "TEXT").mkdir()
    (tmp_path / "TEXT" / "part.parquet").write_text("no Parquet")
    (tmp_path / "BROKEN.json").write_text("{")
    with Embedder.load(shelf.passage) as embedder:
        bare = tmp_path / "BARE" / "part.parquet"
        write_part(bare, embedder.encode(TEXTS[:2]), TEXTS[:2], None)
    places: dict[object, object] = {
        "BUNDLE": shelf.passage,
        "INDEX": shelf.index,
        "BROKEN": "BROKEN.json",
    }
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    assert run_cli("index", *(places.get(word, word) for word in options)) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert listing(tmp_path) == before
