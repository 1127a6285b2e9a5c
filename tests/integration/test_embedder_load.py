"""A loaded bundle: its limit in bytes, copies in other processes, its end beside other threads."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from adaptrt import AdaptrtError, Embedder, GateError, InputError
from tests.support import rehash, run_cli

TEXTS = ["Guten Morgen", "東京は夜の七時"]


def test_limit_in_bytes_is_that_of_load(small_bundle: Path) -> None:
    with Embedder.load(small_bundle, max_bytes=12) as embedder:
        assert len(embedder.encode(["Guten Morgen"])) == 1
        with pytest.raises(InputError, match="text 1: 21 bytes, expected at most 12; split the"):
            embedder.encode(TEXTS)
    message = "text 0: 1048577 bytes, expected at most 1048576;"
    with Embedder.load(small_bundle) as embedder, pytest.raises(InputError, match=message):
        embedder.encode(["a" * ((1 << 20) + 1)])


def test_copy_in_another_process_loads_the_bundle_again(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data and process pools send it to their workers, which may stand in another folder."""
    monkeypatch.chdir(small_bundle.parent)
    with Embedder.load(small_bundle.name, threads=1, max_bytes=21) as embedder:
        expected = embedder.encode(TEXTS)
        spawn = get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=os.chdir, initargs=("/",)) as pool:
            found = pool.submit(methodcaller("encode", TEXTS), embedder).result(timeout=60)
        copied = copy.deepcopy(embedder)
        again = pickle.loads(pickle.dumps(copied))
        assert len(pickle.dumps(embedder)) < 1000  # arguments, no weights
    np.testing.assert_array_equal(found, expected)
    for other in (copied, again):  # open, although the first is closed
        with other:
            np.testing.assert_array_equal(other.encode(TEXTS), expected)
            with pytest.raises(InputError, match="22 bytes, expected at most 21"):
                other.encode(["a" * 22])


def test_closing_beside_threads_that_encode_ends_them_in_one_line(small_bundle: Path) -> None:
    embedder = Embedder.load(small_bundle)

    def work(_: int) -> str:
        while True:
            try:
                embedder.encode(TEXTS)
            except AdaptrtError as error:
                return str(error)

    with ThreadPoolExecutor(3) as pool:
        ended = pool.map(work, range(3))
        embedder.encode(TEXTS)
        embedder.close()
    assert set(ended) == {"this Embedder is closed; load it again"}


def _flip(path: Path) -> None:
    """A bit in the middle: the same size, and readers notice nothing."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/model.onnx"])
def test_a_changed_file_that_shapes_vectors_is_refused(
    bundle_copy: Path, tmp_path: Path, name: str
) -> None:
    """It gave other vectors in silence."""
    _flip(bundle_copy / name)
    with pytest.raises(GateError, match=rf"{name}: SHA-256 \w{{12}}…, the manifest recorded"):
        Embedder.load(bundle_copy)
    out = tmp_path / "repository"
    assert run_cli("triton", "--bundle", bundle_copy, "--out", out) == 3
    assert not out.exists()


def test_changed_canaries_are_not_compared(bundle_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "canaries.json"
    _flip(bundle_copy / "fingerprint.json")
    given = ("--bundle", bundle_copy, "--recorded", "--out", out)
    assert run_cli("index", "export", *given) == 3
    assert not out.exists()


def test_onnxruntime_prints_nothing_of_the_error_that_it_raises(
    bundle_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It printed a line of its own, in colour."""
    weights = bundle_copy / "onnx" / "model.onnx_data"
    os.truncate(weights, weights.stat().st_size // 2)
    rehash(bundle_copy)
    with pytest.raises(AdaptrtError, match="ONNX Runtime cannot load it"):
        Embedder.load(bundle_copy)
    assert capfd.readouterr().err == ""
