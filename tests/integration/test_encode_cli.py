"""``adaptrt encode``: JSON lines, .npy, prefix, dimensions, standard input, refusals."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt import Embedder
from runtimes.manifest import read_manifest
from tests.support import Array, build, cosines, run_cli

TEXTS = ["Guten Morgen", "東京は夜の七時", " "]


def encode(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_cli("encode", *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run_cli("encode", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put ``text`` on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture(scope="module")
def expected(query_bundle: Path) -> Array:
    with Embedder.load(query_bundle) as embedder:
        return embedder.encode(TEXTS)


def test_one_json_line_per_text_in_order(
    query_bundle: Path, expected: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = encode(capsys, "--bundle", query_bundle, *TEXTS)
    assert [line["text"] for line in lines] == TEXTS
    vectors = np.array([line["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(vectors, expected)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_npy_file_holds_the_same_vectors(
    query_bundle: Path, expected: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = encode(capsys, "--bundle", query_bundle, "--out", tmp_path / "v.npy", *TEXTS)
    assert lines == []
    saved = np.load(tmp_path / "v.npy", allow_pickle=False)
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, expected)


def test_dimensions_cut_and_normalise(
    query_bundle: Path, expected: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = encode(capsys, "--bundle", query_bundle, "--dimensions", 32, *TEXTS)
    vectors = np.array([line["embedding"] for line in lines])
    cut = expected[:, :32]
    np.testing.assert_allclose(vectors, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)


def test_bits_are_whole_numbers_eight_to_a_byte(
    query_bundle: Path, expected: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = encode(capsys, "--bundle", query_bundle, "--output-type", "ubinary", *TEXTS)
    packed = np.packbits(expected > 0, axis=1)
    assert [line["embedding"] for line in lines] == packed.tolist()
    options = ("--output-type", "binary", "--out", tmp_path / "v.npy")
    encode(capsys, "--bundle", query_bundle, *options, *TEXTS)
    saved = np.load(tmp_path / "v.npy", allow_pickle=False)
    assert saved.dtype == np.int8
    np.testing.assert_array_equal(saved, packed.astype(np.int16) - 128)


def test_int8_has_the_bundles_own_range(
    query_bundle: Path, expected: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = encode(capsys, "--bundle", query_bundle, "--output-type", "int8", *TEXTS)
    limit = read_manifest(query_bundle).output_ranges["retrieval.query"]["64"]
    steps = np.round(expected * np.float32(127 / limit)).clip(-127, 127)
    assert [line["embedding"] for line in lines] == steps.tolist()
    options = ("--output-type", "uint8", "--dimensions", 32, "--out", tmp_path / "v.npy")
    encode(capsys, "--bundle", query_bundle, *options, *TEXTS)
    saved = np.load(tmp_path / "v.npy", allow_pickle=False)
    assert (saved.dtype, saved.shape) == (np.uint8, (len(TEXTS), 32))
    assert cosines(saved.astype(np.float32) - 128, expected[:, :32]).min() >= 0.9995


def test_unknown_output_type_exits_2(
    query_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "--bundle", query_bundle, "--output-type", "int4", "x")
    assert "output: got 'int4', expected one of float32, int8, uint8, binary, ubinary" in error


def test_no_prefix_leaves_the_instruction_out(
    query_bundle: Path, expected: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    instruction = "Represent the query for retrieving evidence documents: "
    plain = encode(
        capsys, "--bundle", query_bundle, "--no-prefix", TEXTS[0], instruction + TEXTS[0]
    )
    vectors = np.array([line["embedding"] for line in plain], np.float32)
    assert np.abs(vectors[0] - expected[0]).max() > 1e-3
    np.testing.assert_allclose(vectors[1], expected[0], atol=1e-6)


def test_standard_input_is_one_text_per_line(
    query_bundle: Path,
    expected: Array,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed(monkeypatch, "\n".join(TEXTS) + "\n")
    lines = encode(capsys, "--bundle", query_bundle)
    assert [line["text"] for line in lines] == TEXTS
    np.testing.assert_array_equal(
        np.array([line["embedding"] for line in lines], np.float32), expected
    )


def test_empty_standard_input_gives_no_line(
    query_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "")
    assert encode(capsys, "--bundle", query_bundle) == []


@pytest.mark.filterwarnings("default::runtimes.text.tokens.TruncationWarning")
def test_long_text_warns_on_one_line_and_is_refused_with_strict(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", small_folder, "--task", "base", "--max-tokens", 64)
    assert build(tmp_path, *options) == 0
    bundle = tmp_path / "small" / "base-fp32-onnxruntime-t64"
    capsys.readouterr()
    assert run_cli("encode", "--bundle", bundle, "word " * 100) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err.startswith("warning: text 0: ")
    assert "the bundle takes 64; the end is cut off" in captured.err
    assert len(captured.err.splitlines()) == 1
    error = refused(capsys, "--bundle", bundle, "--strict", "word " * 100)
    assert "split the text, or allow truncation" in error


@pytest.mark.parametrize("dimensions", [0, 48, 128])
def test_unknown_dimension_exits_2(
    query_bundle: Path, capsys: pytest.CaptureFixture[str], dimensions: int
) -> None:
    error = refused(capsys, "--bundle", query_bundle, "--dimensions", dimensions, "x")
    assert f"dimensions: got {dimensions}, expected one of 32, 64" in error


@pytest.mark.parametrize("name", ["vectors.json", "vectors", "absent/vectors.npy"])
def test_unusable_out_exits_2_and_writes_nothing(
    query_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    error = refused(capsys, "--bundle", query_bundle, "--out", tmp_path / name, "x")
    assert error.startswith("error: --out")
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogate_in_an_argument_exits_2(
    query_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lone surrogate" in refused(capsys, "--bundle", query_bundle, "caf\udce9")


def test_empty_text_and_nul_in_an_argument_exit_2(
    query_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "text 1: empty" in refused(capsys, "--bundle", query_bundle, "x", "")
    assert "text 0: holds a NUL" in refused(capsys, "--bundle", query_bundle, "a\0b")


def vectors_of(lines: list[dict[str, Any]]) -> Array:
    return np.array([line["embedding"] for line in lines], np.float32)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "".join(f"{text}\n" for text in TEXTS)),
        ("windows.txt", "\ufeff" + "\r\n".join(TEXTS)),
        ("a.jsonl", "".join(json.dumps({"id": 7, "text": text}) + "\n" for text in TEXTS)),
        ("A.JSONL", "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)),
        ("no-suffix", "\n".join(TEXTS)),
    ],
)
def test_file_holds_a_text_per_line(
    query_bundle: Path,
    expected: Array,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    lines = encode(capsys, "--bundle", query_bundle, "--file", path)
    assert [line["text"] for line in lines] == TEXTS
    np.testing.assert_array_equal(vectors_of(lines), expected)


def test_dash_is_standard_input(
    query_bundle: Path,
    expected: Array,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed(monkeypatch, "\n".join(TEXTS))
    lines = encode(capsys, "--bundle", query_bundle, "--file", "-")
    np.testing.assert_array_equal(vectors_of(lines), expected)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"ok\n\nlast", "a.txt, line 2: empty"),
        ("a.txt", b"ok\n\r\nlast", "a.txt, line 2: empty"),
        ("a.txt", b"ok\n\n", "a.txt, line 2: empty"),
        ("a.txt", b"ok\nnul\0", "a.txt, line 2: holds a NUL character"),
        ("a.txt", b"ok\n\xff\xfe", "a.txt, line 2: not UTF-8 (byte 1 is 0xff)"),
        ("a.txt", "utf-16".encode("utf-16"), "a.txt, line 1: not UTF-8"),
        ("a.txt", b"ok\n" + b"x" * 1_048_577, "a.txt, line 2: 1048577 bytes, expected at most"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ""}', "a.jsonl, line 2: empty"),
        ("a.jsonl", b'{"text": "a"}\n\n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "a\\u0000"}', "a.jsonl, line 1: holds a NUL character"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1: holds a lone surrogate"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl, line 1: got int, expected str"),
        ("a.jsonl", b'{"body": "a"}', "a.jsonl, line 1: has no 'text'"),
        ("a.jsonl", b"[1]", "a.jsonl, line 1: got a JSON list"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not valid JSON"),
        ("a\nerror: forged.txt", b"\n", "forged.txt, line 1: empty"),
    ],
)
def test_unusable_lines_are_named(
    query_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    words: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(capsys, "--bundle", query_bundle, "--file", tmp_path / name)
    assert error.startswith("error: ")
    assert words in error


def test_file_that_is_not_there(query_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "--bundle", query_bundle, "--file", "/nowhere.txt")
    assert error == "error: --file: cannot read '/nowhere.txt' (No such file or directory)\n"


def test_texts_from_two_places_are_refused(
    query_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "--bundle", query_bundle, "--file", tmp_path / "a.txt", "x")
    assert error == "error: texts and --file: got both, expected one of them\n"


def test_npy_replaces_a_file_whole_and_follows_a_link(
    query_bundle: Path, expected: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.npy").write_bytes(b"former")
    (tmp_path / "link.npy").symlink_to("v.npy")
    refused(capsys, "--bundle", query_bundle, "--out", tmp_path / "link.npy", "")
    assert (tmp_path / "v.npy").read_bytes() == b"former"
    encode(capsys, "--bundle", query_bundle, "--out", tmp_path / "link.npy", *TEXTS)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.npy", "v.npy"]
    assert (tmp_path / "link.npy").is_symlink()


def test_out_that_is_a_folder(
    query_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.npy").mkdir()
    error = refused(capsys, "--bundle", query_bundle, "--out", tmp_path / "v.npy", "x")
    assert "is a folder, expected a file's name" in error
