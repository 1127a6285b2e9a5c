"""The record of what determines vectors: both its forms, and what is refused in them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.canaries import CANARIES, texts_sha256
from runtimes.choices import FileKind, OutputType
from runtimes.errors import InputError
from runtimes.fingerprint import (
    BundleFingerprints,
    Fingerprint,
    embed_canaries,
    make_fingerprint,
)
from runtimes.index.read import read_index
from runtimes.manifest import Artifact
from tests.support import Array, make_manifest, present

WIDTH = 8
WHERE = Path("index.json")


def unit(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def fingerprint(**changes: Any) -> Fingerprint:
    tokenizer = Artifact(path="tokenizer.json", kind=FileKind.TOKENIZER, bytes=1, sha256="7" * 64)
    manifest = make_manifest(artifacts=(tokenizer,))
    made = make_fingerprint(
        manifest,
        task=manifest.task,
        vectors=[None, *(unit(seed) for seed in range(1, len(CANARIES)))],
        executed="ONNX Runtime (CPU)",
    )
    return replace(made, **changes)


def test_texts_never_change() -> None:
    """Vectors of other texts say nothing about an index that was made before."""
    assert texts_sha256() == "a73c2b51a523975186c5900ee3f8044eb18bd140f544730a38443f6cfd4cd7bf"
    assert len(CANARIES) == 16


def test_bytes_give_the_record_again() -> None:
    one = fingerprint()
    again = Fingerprint.from_bytes(one.to_bytes(), WHERE)
    assert again == one
    assert again.digest == one.digest
    assert again.vectors[0] is None
    np.testing.assert_array_equal(again.vectors[3], unit(3))


def test_file_gives_the_record_again(tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    path.write_bytes(fingerprint().to_bytes())
    assert Fingerprint.read(path) == fingerprint()
    path.write_bytes(BundleFingerprints(fingerprints=(fingerprint(),)).to_bytes())
    assert BundleFingerprints.read(path).fingerprints == (fingerprint(),)


def test_digest_is_of_all_but_the_canaries() -> None:
    one = fingerprint()
    assert replace(one, canaries=one.canaries[::-1]).digest == one.digest
    assert replace(one, output=OutputType.INT8).digest != one.digest
    assert replace(one, range=0.5).digest != one.digest


def test_cut_is_normalised_again() -> None:
    cut = fingerprint().cut(4)
    assert cut.dimensions == 4
    expected = unit(2)[:4] / np.linalg.norm(unit(2)[:4])
    np.testing.assert_allclose(present(cut.vectors[2]), expected, rtol=1e-6)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "other"}, "format: got 'other', expected"),
    "a newer schema": ({"schema": 2}, "schema: got 2, expected"),
    "no hash": ({"model": "abc"}, "model: got 'abc', expected"),
    "a precision of another version": ({"precision": "fp2"}, "precision: got 'fp2', expected one"),
    "an output of another version": ({"output": "int3"}, "output: got 'int3', expected one of"),
    "no dimensions": ({"dimensions": 0}, "dimensions: got 0, expected"),
    "other dimensions": ({"dimensions": 4}, r"canaries\[1\]: got 32 bytes, expected 16"),
    "few canaries": ({"canaries": [None]}, "got 1 canaries, expected 16"),
    "no base64": ({"canaries": ["!"] * 16}, r"canaries\[0\]: got '!'"),
    "a canary of zeros": ({"canaries": ["A" * 43 + "="] * 16}, "length 0, expected 1"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = CHANGES[case]
    text = json.dumps(json.loads(fingerprint().to_bytes()) | changes)
    with pytest.raises(InputError, match=message) as refused:
        Fingerprint.from_bytes(text.encode(), WHERE)
    assert str(refused.value).startswith("index.json: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"null", b"{}"])
def test_no_fingerprint_is_one_line(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^index\.json: "):
        Fingerprint.from_bytes(content, WHERE)


def test_not_a_number_is_no_canary() -> None:
    packed = np.full(WIDTH, np.nan, "<f4").tobytes()
    bad = fingerprint(canaries=(packed,) * 16)
    with pytest.raises(InputError, match="length nan"):
        Fingerprint.from_bytes(bad.to_bytes(), WHERE)


def test_too_few_canaries_say_why() -> None:
    """Short engines take few of the texts."""

    def encode(text: str) -> Array:
        if len(text) > 2:
            raise InputError("text 0: 40 tokens, the bundle takes 16")
        return unit(0)[None]

    with pytest.raises(InputError, match=r"1 of the 16 canary texts.*at least 4: text 0: 40 tok"):
        embed_canaries(encode)


def test_an_index_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("canaries.json", "part.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="no file"):
            read_index(tmp_path / name)
