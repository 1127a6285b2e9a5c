"""Bundles that hold some of the tokens: built, compared with whole ones, served, damaged."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import adaptrt
from calibration.corpus import own_texts
from export.checkpoint.names import WORD
from export.checkpoint.reader import open_checkpoint
from export.checkpoint.source import SAMPLE
from export.graph.trace import trace
from export.graph.weights import ROW_OF
from export.spec import GraphForm
from runtimes import Embedder, VocabularyWarning
from runtimes.api.catalogue import open_catalogue
from runtimes.api.contract import parse
from runtimes.api.encoders import Loading, LocalEncoder
from runtimes.api.problems import ApiError
from runtimes.api.queue import Order
from runtimes.api.settings import Settings
from runtimes.api.work import Work, prepare, route
from runtimes.bundle_files import FINGERPRINT_FILE, SHARED_FILE, WEIGHT_FILE
from runtimes.canaries import CANARIES
from runtimes.errors import InputError
from runtimes.executors.ort import OrtRuntime
from runtimes.fingerprint import fingerprint_of
from runtimes.manifest import read_manifest
from runtimes.text.vocabulary import read_mask
from tests.support import DEEP, Array, build, listing, rehash, run_cli
from tests.zoo import write_original

GERMAN = own_texts()["de"]
COVERED = [text for code in ("de", "en", "fr") for text in own_texts()[code][::12]]
TURKISH = "Köpeğim bugün çok mutlu."
WORDS = ("Haus", "Katze", "Garten", "Regen", "Brot", "Schule", "Fenster", "Wasser")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of few words, which cover each other: a user's own."""
    texts = [f"{a} und {b} im {c}." for a in WORDS for b in WORDS for c in WORDS[:4]]
    path = tmp_path_factory.mktemp("texts") / "own.jsonl"
    lines = (json.dumps({"text": text, "language": "de"}) for text in texts)
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> tuple[Path, Path]:
    """A random checkpoint with byte-level BPE: whole, and with the tokens of few texts."""
    folder = write_original(tmp_path_factory.mktemp("bpe") / "bytes")
    shutil.copyfile(DEEP / "tokenizer.json", folder / "tokenizer.json")
    out = folder.parent / "build"
    whole = ("--model", folder, "--task", "separation", "--layout", "flat", "--name", "whole")
    assert build(out, *whole) == 0
    few = ("--vocabulary", corpus, "--unknown", "replace")
    assert build(out, "--model", folder, "--task", "separation", *few) == 0
    return out / "bytes" / "whole", out / "bytes" / "separation-fp32-onnxruntime-vocabulary"


def same_vectors(whole: Embedder, few: Embedder, texts: list[str], task: str | None) -> bool:
    return np.array_equal(whole.encode(texts, task=task), few.encode(texts, task=task))


def test_manifest_says_what_is_held_and_what_that_covers(pruned: Path) -> None:
    manifest = read_manifest(pruned)
    record = manifest.vocabulary
    assert record is not None
    assert (record.of, record.source, record.unknown) == (16000, "languages de,en,fr", "error")
    assert 2000 < record.rows < 3500
    assert set(record.coverage) == {"de", "en", "fr"}
    assert all(0.2 < row.covered / row.texts < 0.9 for row in record.coverage.values())
    assert sum(row.texts for row in record.coverage.values()) == record.texts
    assert 0 < record.gate.covered < record.gate.texts
    mask = read_mask(pruned / "vocabulary.npy", record.of)
    assert mask.sum() == record.rows
    assert (manifest.layout, manifest.architecture.vocab) == ("flat", 16000)


def test_graphs_hold_the_rows_alone(pruned: Path, chunk_bundle: Path) -> None:
    rows = read_manifest(pruned).vocabulary
    assert rows is not None
    sizes = [(folder / "model.onnx_data").stat().st_size for folder in (chunk_bundle, pruned)]
    dropped = (16000 - rows.rows) * (64 + 32) * 4  # the table and, of five tasks, the bank
    assert abs(sizes[0] - sizes[1] - dropped) < 16000 * 4 + 3 * 4096


@pytest.mark.parametrize("task", ["retrieval.query", "separation", "base"])
def test_covered_texts_have_the_very_same_vectors(
    pruned: Path, chunk_bundle: Path, task: str
) -> None:
    with Embedder.load(chunk_bundle) as whole, Embedder.load(pruned) as few:
        assert same_vectors(whole, few, COVERED, task)
        document = " ".join(COVERED[:6])
        both = [e.encode_chunks(document, sentences=2, task=task).vectors for e in (whole, few)]
        assert np.array_equal(both[0], both[1])


def test_every_graph_that_a_cpu_runs_gives_the_same(pruned: Path, chunk_bundle: Path) -> None:
    """Portable and primitive, as the gate does; by id, so that every row is looked up."""
    mask = read_mask(pruned / "vocabulary.npy", 16000)
    ids = np.flatnonzero(mask)[None]
    feeds: dict[str, Array] = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "task_id": np.array([1]),
        "chunk_weights": np.full((1, 1, ids.size), 1 / ids.size, np.float32),
    }
    for name in ("model.onnx", "model.primitive.onnx", "model.onnxruntime.onnx"):
        vectors = []
        for folder in (chunk_bundle, pruned):
            with OrtRuntime(folder / name, folder=folder) as runtime:
                vectors.append(runtime.run(feeds)["chunk_embedding"])
        assert np.array_equal(vectors[0], vectors[1]), name


@pytest.mark.parametrize(
    ("target", "precision"), [("openvino", "fp32"), ("tensorrt10", "fp16"), ("onnxruntime", "bf16")]
)
def test_other_targets_and_types_pass_the_gate(
    tmp_path: Path, small_folder: Path, corpus: Path, target: str, precision: str
) -> None:
    """OpenVINO's own format; the primitive graph, in FP16; and, in BF16, the traced module."""
    few = ("--model", small_folder, "--vocabulary", corpus, "--max-tokens", 64)
    assert build(tmp_path, *few, "--target", target, precision=precision, tokens=16) == 0
    (bundle,) = (path.parent for path in tmp_path.glob("small/*/manifest.json"))
    assert run_cli("verify", "--bundle", bundle) == 0
    with Embedder.load(bundle) as embedder:
        assert embedder.encode(["Katze und Brot"]).shape == (1, 64)
        with pytest.raises(InputError, match="which this bundle does not hold"):
            embedder.encode([TURKISH])


def test_byte_level_bpe_and_a_users_own_texts(byte_level: tuple[Path, Path]) -> None:
    whole, few = byte_level
    record = read_manifest(few).vocabulary
    assert record is not None
    assert (record.source, record.unknown) == ("'own.jsonl'", "replace")
    assert record.coverage["de"].covered == record.coverage["de"].texts == 256
    with Embedder.load(whole) as full, Embedder.load(few) as pruned:
        assert same_vectors(full, pruned, ["Katze und Brot im Garten.", "x1!"], None)
        words = r"1 of 2 texts .*, of which 0 are unknown"
        with pytest.warns(VocabularyWarning, match=words) as said:
            found = pruned.encode(["Katze im Haus", TURKISH])
        assert said[0].filename == __file__
        assert np.allclose(found[:1], full.encode(["Katze im Haus"]), atol=1e-6)
        assert not np.allclose(found[1:], full.encode([TURKISH]), atol=1e-2)
    assert run_cli("verify", "--bundle", few) == 0


def test_other_texts_are_refused_by_name(
    pruned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Embedder.load(pruned) as few:
        for call in (
            lambda: few.encode([GERMAN[0], TURKISH], task="separation"),
            lambda: few.encode_chunks(TURKISH, sentences=1, task="separation"),
            lambda: few.run_rows(few.tokenizer.tokenize([TURKISH]), ["separation"]),
        ):
            with pytest.raises(InputError, match="which this bundle does not hold"):
                call()
    written = tmp_path / "vectors.npy"
    texts = ("--task", "separation", "--out", written, GERMAN[0], TURKISH)
    assert run_cli("encode", "--bundle", pruned, *texts) == 2
    assert "error: text 1: has the tokens '" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_cli("encode", "--bundle", pruned, "--unknown", "replace", *texts) == 0
    assert "vocabulary: 1 of 2 texts hold tokens" in capsys.readouterr().err


def test_a_text_is_judged_by_what_is_embedded_of_it(pruned: Path) -> None:
    """Tokens behind the bundle's limit are cut off, and missed by nobody."""
    with Embedder.load(pruned) as few:
        few.tokenizer.max_tokens = 16
        with pytest.warns(UserWarning, match="the end is cut off"):
            few.encode([f"{'das Haus ' * 20}{TURKISH}"], task="base")


def test_fallback_embeds_what_the_bundle_does_not_hold(
    pruned: Path, chunk_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, task = [COVERED[0], TURKISH, COVERED[1]], "classification"
    with (
        Embedder.load(chunk_bundle) as whole,
        Embedder.load(pruned, unknown="fallback", fallback=chunk_bundle) as few,
    ):
        found = few.encode(texts, task=task)
        assert few.sent_on == 1
        assert np.allclose(found, whole.encode(texts, task=task), atol=1e-6)
        assert np.array_equal(found[1:2], whole.encode(texts[1:2], task=task))
        late = [e.encode_chunks(TURKISH, sentences=1, task=task) for e in (whole, few)]
        assert np.array_equal(late[0].vectors, late[1].vectors)
        assert few.sent_on == 2
    sent = ("--unknown", "fallback", "--fallback", chunk_bundle, "--task", task, *texts)
    assert run_cli("encode", "--bundle", pruned, *sent) == 0
    assert "1 of 3 texts: by " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unknown": "ignore"}, "unknown: got 'ignore', expected one of error, fallback, replace"),
        ({"unknown": "fallback"}, "fallback: none given"),
        ({"fallback": "CHUNKS"}, "but unknown is 'error'; leave it out"),
        ({"unknown": "fallback", "fallback": "FEW"}, "holds not every token either"),
        ({"unknown": "fallback", "fallback": "SMALL"}, "has no task "),
        ({"unknown": "fallback", "fallback": "SAMPLE"}, "is of another model"),
    ],
)
def test_a_fallback_that_does_not_fit_is_refused(
    pruned: Path,
    chunk_bundle: Path,
    small_bundle: Path,
    fp32_bundle: Path,
    options: dict[str, str],
    words: str,
) -> None:
    places = {"CHUNKS": chunk_bundle, "FEW": pruned, "SMALL": small_bundle, "SAMPLE": fp32_bundle}
    given = {key: places.get(value, value) for key, value in options.items()}
    with pytest.raises(InputError) as caught:
        Embedder.load(pruned, **given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    with pytest.raises(InputError, match="holds every token; leave it out"):
        Embedder.load(small_bundle, unknown="error")


def damaged(pruned: Path, folder: Path) -> Path:
    """A copy, its large files linked."""
    return Path(shutil.copytree(pruned, folder / pruned.name))


def test_a_map_that_does_not_fit_the_tokenizer_is_refused(pruned: Path, tmp_path: Path) -> None:
    bundle = damaged(pruned, tmp_path)
    mask = np.load(bundle / "vocabulary.npy")
    np.save(bundle / "vocabulary.npy", np.roll(mask, 1)[:-1])
    rehash(bundle)
    with pytest.raises(InputError, match=r"holds uint8 \[1999\], expected uint8 \[2000\]"):
        Embedder.load(bundle)
    np.save(bundle / "vocabulary.npy", mask | 1)
    rehash(bundle)
    with pytest.raises(InputError, match="tokens, expected "):
        Embedder.load(bundle)
    np.save(bundle / "vocabulary.npy", mask)
    shutil.copyfile(DEEP / "tokenizer.json", bundle / "tokenizer.json")
    rehash(bundle)
    with pytest.raises(InputError, match="is not the tokenizer that "):
        Embedder.load(bundle)


def test_verify_finds_another_map(
    pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("verify", "--bundle", pruned) == 0
    bundle = damaged(pruned, tmp_path)
    mask = np.load(bundle / "vocabulary.npy")
    np.save(bundle / "vocabulary.npy", mask[::-1])
    assert run_cli("verify", "--bundle", bundle) == 3
    rehash(bundle)  # as many tokens, other ones: texts that the gate compared are not covered
    capsys.readouterr()
    assert run_cli("verify", "--bundle", bundle) in (2, 3)


def test_tasks_of_one_build_share_table_and_map() -> None:
    """As TASK=all builds them: what no adapter changes lies in a file that they have in common."""
    config = open_checkpoint(SAMPLE).config
    graph = trace(config, "float32", 4, 64, GraphForm(embedding_rank=16, kept_rows=900))
    slots = {slot.name: slot for slot in graph.slots}
    table, down = (slots[f"{WORD}.{part}"] for part in ("weight", "lora_down"))
    assert (slots[ROW_OF].file, table.file) == (SHARED_FILE, SHARED_FILE)
    assert (slots[ROW_OF].shape, slots[ROW_OF].dtype) == ((16000, 1), "int32")
    assert (table.shape, down.shape) == ((900, 256), (900, 16))
    assert down.file == WEIGHT_FILE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--vocabulary", "de,xx"), "VOCABULARY: no texts in 'xx', expected languages of "),
        (("--vocabulary", "absent.txt"), "which is no file, expected one with texts"),
        (("--vocabulary", "EMPTY"), "no text in it, expected at least one"),
        (
            ("--vocabulary", "SCATTERED"),
            "took no part in the choice the tokens kept cover 42.9%",
        ),
        (
            ("--vocabulary", "de", "--vocabulary-min-count", 2),
            "of its texts, expected at least 90%; lower VOCABULARY_MIN_COUNT",
        ),
        (
            ("--vocabulary", "de", "--vocabulary-min-count", 0),
            "VOCABULARY_MIN_COUNT: got 0, expected at least 1",
        ),
        (("--vocabulary-min-count", 2), "VOCABULARY_MIN_COUNT: got 2 without VOCABULARY"),
        (("--unknown", "error"), "UNKNOWN: got 'error' without VOCABULARY"),
        (("--vocabulary", "de", "--unknown", "drop"), "UNKNOWN: got 'drop', expected one of"),
        (
            ("--vocabulary", "de", "--refittable", "--target", "tensorrt_rtx"),
            "--refittable: a refit puts the weights of the whole vocabulary into the engine",
        ),
        (("--vocabulary", "de", "--layout", "hub"), "VOCABULARY: clients of LAYOUT=hub"),
        (("--vocabulary", "de", "--adapter", "slot"), "VOCABULARY: clients of LAYOUT=hub"),
        (
            ("--vocabulary", "de", "--adapter", "switchable", "--interface", "official"),
            "VOCABULARY: clients of LAYOUT=hub",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    words: str,
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "empty.txt").write_text("\n \n")
    scattered = (own_texts()[code][0] for code in ("de", "ru", "el", "ar", "hi", "tr", "pl"))
    (texts / "scattered.txt").write_text("\n".join(scattered))
    files = {"EMPTY": texts / "empty.txt", "SCATTERED": texts / "scattered.txt"}
    given = [files.get(str(option), option) for option in options]
    assert build(tmp_path / "build", "--model", small_folder, *given) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "build").exists() or listing(tmp_path / "build") == {}


def test_build_takes_languages_as_a_list(tmp_path: Path, small_folder: Path) -> None:
    with pytest.raises(InputError, match="no texts in 'xx'"):
        adaptrt.build(small_folder, target="onnxruntime", vocabulary=["de", "xx"], out=tmp_path)
    with pytest.raises(InputError, match="which is no file"):
        adaptrt.build(small_folder, vocabulary=tmp_path / "no.txt", target="onnxruntime")


def work(settings: Settings, **body: object) -> Work:
    """A request to the HTTP server, as far as it goes before the encoder."""
    catalogue = open_catalogue(settings)
    request = parse(json.dumps({"task": "separation"} | body).encode())
    return prepare(route(request, catalogue, settings), settings)


def test_http_server_refuses_texts_and_ids_with_other_tokens(pruned: Path) -> None:
    settings = Settings(bundles=(pruned,))
    assert work(settings, input=COVERED[:2]).warnings == []
    missing = int(np.flatnonzero(~read_mask(pruned / "vocabulary.npy", 16000))[0])
    for value, late in (([GERMAN[0], TURKISH], False), ([[missing]], False), ([TURKISH], True)):
        with pytest.raises(ApiError, match="which this bundle does not hold") as caught:
            work(settings, input=value, late_chunking=late)
        assert (caught.value.kind.status, caught.value.param) == (400, "input")


def test_http_server_segments_anew_and_says_so(pruned: Path) -> None:
    settings = Settings(bundles=(pruned,), unknown="replace")
    with Embedder.load(pruned, unknown="replace") as few, warnings.catch_warnings():
        warnings.simplefilter("ignore", VocabularyWarning)
        found = work(settings, input=[COVERED[0], TURKISH])
        assert found.warnings[0].startswith("vocabulary: 1 of 2 texts hold tokens")
        tasks = ["separation"] * 2
        assert np.array_equal(
            few.run_rows(found.rows[1:], tasks[1:]), few.encode([TURKISH], task="separation")
        )
        late = work(settings, input=[TURKISH], late_chunking=True)
        assert late.warnings[0].startswith("vocabulary: 1 of 1 texts")
        assert late.plan is not None
        assert len(few.run_window(late.plan.calls[0], "separation")) == 1


def test_http_server_sends_on_to_a_full_bundle(pruned: Path, chunk_bundle: Path) -> None:
    settings = Settings(bundles=(pruned,), unknown="fallback", fallback=chunk_bundle)
    found = work(settings, input=[COVERED[0], TURKISH])
    assert found.warnings == [
        "vocabulary: 1 of 2 texts hold tokens that the bundle does not; embedded by a full one"
    ]
    encoder = LocalEncoder(Loading.of(settings))
    try:
        order = Order(bundle=0, rows=tuple(found.rows), tasks=("separation",) * 2)
        with Embedder.load(chunk_bundle) as whole:
            expected = whole.encode([COVERED[0], TURKISH], task="separation")
        assert np.allclose(encoder.run(order), expected, atol=1e-6)
    finally:
        encoder.close()
    with pytest.raises(InputError, match="fallback: none given"):
        LocalEncoder(Loading.of(Settings(bundles=(pruned,), unknown="fallback")))
    with pytest.raises(InputError, match="--unknown: every bundle holds every token"):
        open_catalogue(Settings(bundles=(chunk_bundle,), unknown="replace"))
    with pytest.raises(InputError, match="--fallback: no bundle sends texts on"):
        open_catalogue(Settings(bundles=(pruned,), fallback=chunk_bundle))
    mixed = Loading.of(Settings(bundles=(pruned,), unknown="fallback", fallback=chunk_bundle))
    assert mixed.policy(read_manifest(chunk_bundle)) == (None, None)


def test_a_repository_carries_the_map_and_no_fallback(
    pruned: Path, byte_level: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "repository"
    assert run_cli("triton", "--bundle", pruned, "--out", out) == 0
    (about,) = (out / "embed" / "1" / "bundles").iterdir()
    names = {path.name for path in about.iterdir()}
    assert names == {"manifest.json", "vocabulary.npy", "tokenizer.json"}
    assert read_manifest(about).vocabulary == read_manifest(pruned).vocabulary
    bundle = damaged(pruned, tmp_path)
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["vocabulary"]["unknown"] = "fallback"
    (bundle / "manifest.json").write_text(json.dumps(raw))
    assert run_cli("triton", "--bundle", bundle, "--out", tmp_path / "other") == 2
    assert "a repository has not" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("which", ["pruned", "byte_level"])
def test_a_bundle_of_some_tokens_has_a_fingerprint(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Four canaries are of tokens that every bundle keeps; none is embedded another way."""
    found = request.getfixturevalue(which)
    bundle: Path = found[1] if isinstance(found, tuple) else found
    with Embedder.load(bundle, unknown="replace") as embedder:
        task = embedder.manifest.tasks[0]
        rows = embedder.tokenizer.tokenize([embedder.manifest.prefixes[task] + t for t in CANARIES])
        now = fingerprint_of(embedder, task=task)
        kept = embedder.tokenizer.kept
    assert kept is not None
    away = kept.uncovered(rows)
    assert away
    assert not set(away) & {0, 1, 2, 3}
    (recorded, *_) = json.loads((bundle / FINGERPRINT_FILE).read_bytes())["fingerprints"]
    for canaries in (now.canaries, recorded["canaries"]):
        absent = [i for i, canary in enumerate(canaries) if canary is None]
        assert set(absent) >= set(away)
        assert not set(absent) & {0, 1, 2, 3}
