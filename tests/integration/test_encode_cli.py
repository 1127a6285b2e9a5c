"""``adaptrt encode``: JSON lines, .npy, prefix, dimensions, standard input, refusals."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes import Embedder
from tests.support import Array, build, run_cli

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
    query_bundle: Path, expected: Array, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS) + "\n"))
    lines = encode(capsys, "--bundle", query_bundle)
    assert [line["text"] for line in lines] == TEXTS
    np.testing.assert_array_equal(
        np.array([line["embedding"] for line in lines], np.float32), expected
    )


def test_empty_standard_input_gives_no_line(
    query_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert encode(capsys, "--bundle", query_bundle) == []


@pytest.mark.filterwarnings("default::runtimes.tokens.TruncationWarning")
def test_long_text_warns_on_one_line_and_is_refused_with_strict(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", small_folder, "--task", "base", "--max-tokens", 64)
    assert build(tmp_path, *options) == 0
    bundle = tmp_path / "small" / "base-fp32"
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


def test_standard_input_that_is_not_utf_8_exits_2(small_bundle: Path) -> None:
    """The interpreter decodes standard input, so this needs a process of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "export.cli", "encode", "--bundle", small_bundle],
        input=b"caf\xe9\n", capture_output=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")


def test_lone_surrogate_in_an_argument_exits_2(
    query_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lone surrogate" in refused(capsys, "--bundle", query_bundle, "caf\udce9")
