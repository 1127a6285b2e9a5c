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

from adaptrt import AdaptrtError, Embedder, InputError

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
