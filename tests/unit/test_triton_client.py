"""The client before it has talked to any server."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import runtimes
from runtimes import InputError, MissingError, TritonEmbedder
from runtimes.serving import renumber


@pytest.mark.parametrize("url", ["localhost:8000", "https://x:1", "http://", "", "grpc:x"])
def test_url_must_say_how(url: str) -> None:
    with pytest.raises(InputError, match=r"url: got .*, expected http://host:port or grpc://"):
        TritonEmbedder(url)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_wrong_input_is_refused_without_a_server(scheme: str) -> None:
    with pytest.raises(InputError, match="batch_size: got 0"):
        TritonEmbedder(f"{scheme}://localhost:1", batch_size=0)
    with TritonEmbedder(f"{scheme}://localhost:1", deadline=0.01) as client:
        for texts, words in [
            ("text", "got one str"),
            (["\ud800"], "lone surrogate"),
            ([None], "got"),
        ]:
            with pytest.raises(InputError, match=words):
                client.encode(texts, task="base")
        with pytest.raises(InputError, match="expected exactly one of chunks"):
            client.encode_chunks("text", [(0, 1)], sentences=1)
        assert client.encode([], dimensions=32).shape == (0, 32)


def test_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    with pytest.raises(MissingError, match=r"pip install 'adaptrt\[serve\]'"):
        TritonEmbedder("http://localhost:1")


def test_other_names_of_the_package_do_not_exist() -> None:
    module: Any = runtimes
    with pytest.raises(AttributeError, match="TritonEmbeder"):
        _ = module.TritonEmbeder


def test_errors_of_a_batch_name_the_callers_texts() -> None:
    assert renumber("text 1: too long", [7, 9]) == "text 9: too long"
    assert renumber("dimensions: got 1", [7, 9]) == "dimensions: got 1"
