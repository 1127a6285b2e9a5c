"""What a server is started with: settings, keys, bundles under names, options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from export.cli import main
from runtimes.api.catalogue import Catalogue, Served
from runtimes.api.keys import Keys
from runtimes.api.problems import ApiError
from runtimes.api.settings import Settings
from runtimes.choices import AdapterMode, HeadName
from runtimes.errors import InputError
from tests.runtime_support import make_manifest, sample_tokenizer

KEY, OTHER = "k" * 32, "o" * 20
SWITCHABLE = {"base": "", "retrieval.query": "Q: ", "separation": ""}


def settings(**changes: Any) -> Settings:
    return Settings(**{"bundles": (Path("b"),)} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bundles": ()}, "--bundle: got none"),
        ({"max_texts": 0}, "--max-texts: got 0, expected at least 1"),
        ({"max_concurrent": 0}, "--max-concurrent"),
        ({"max_queue": 5}, "--max-queue: got 5, expected at least --max-texts"),
        ({"workers": -1}, "--workers"),
        ({"threads": 0}, "--threads"),
        ({"deadline": 0}, "--deadline"),
        ({"deadline": float("nan")}, "--deadline"),
        ({"port": 65536}, "--port: got 65536, expected 0"),
        ({"model_names": ("a", "b")}, "--model-name: got 2 for 1 bundles"),
        ({"tls_key": Path("k")}, "--tls-certificate and --tls-key: got one"),
        ({"triton": "grpc://h:1", "workers": 2}, "--triton: the server there runs the model"),
        ({"cors_origins": ("example.org",)}, "--cors-origin: got 'example.org', expected [*] or"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        settings(**changes)


def test_the_command_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is opened: the bundle is not even there."""
    assert main(["api", "--bundle", "nowhere", "--max-queue", "5"]) == 2
    assert "--max-queue: got 5" in capsys.readouterr().err
    assert main(["api", "--bundle", "nowhere"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "runtimes.api.server", raising=False)
    assert main(["api", "--bundle", "nowhere"]) == 4
    assert "uvicorn is not installed; pip install 'adaptrt[api]'" in capsys.readouterr().err


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_any_of_the_keys_opens(tmp_path: Path) -> None:
    keys = Keys.read(write(tmp_path / "keys", f"# of the tests\n{KEY}\n\n  {OTHER}\n"))
    assert keys.wanted
    assert keys.allows(f"Bearer {KEY}")
    assert keys.allows(f"bearer {OTHER}")
    for wrong in (None, "", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer # of the"):
        assert not keys.allows(wrong)
    assert Keys.read(None).allows(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no key"), ("# nothing\n", "holds no key"), ("short\n", "line 1: expected a key")],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """A key is not repeated in the error, which goes into logs."""
    with pytest.raises(InputError, match=words) as raised:
        Keys.read(write(tmp_path / "keys", text))
    assert "short" not in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        Keys.read(tmp_path / "none")


def served(number: int, model: str, prefixes: dict[str, str], **changes: Any) -> Served:
    manifest = make_manifest(prefixes=prefixes, tasks=tuple(prefixes), **changes)
    return Served(
        number=number,
        model=model,
        folder=Path(f"bundle-{number}"),
        manifest=manifest,
        tokenizer=sample_tokenizer(64),
    )


def switchable(number: int, model: str = "m", **changes: Any) -> Served:
    return served(number, model, SWITCHABLE, adapter=AdapterMode.SWITCHABLE, **changes)


def merged(number: int, model: str = "m") -> Served:
    return served(number, model, {"separation": ""})


def test_bundles_are_found_by_task_and_model() -> None:
    chunks = switchable(2, head=HeadName.CHUNKS)
    catalogue = Catalogue([switchable(0), merged(1), chunks, merged(3, "n")])
    assert catalogue.route("m", "separation", late=False)[0].number == 1  # a merged one first
    assert catalogue.route("m", None, late=False) == (catalogue.bundles[0], "base")
    assert catalogue.route("someone/m", "separation", late=True)[0].number == 2
    assert catalogue.route("n", "separation", late=False)[0].number == 3


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (("x", None, False), 404, "model: got 'x', expected one of m, n"),
        ((None, None, False), 400, "model: none given, expected one of m, n"),
        (("m", "translation", False), 400, "task: got 'translation', expected one of base"),
        (("n", None, False), 400, "task: none given, which is base, expected one of separation"),
        (("m", None, True), 400, "late_chunking: no bundle of m"),
    ],
)
def test_nothing_is_used_in_place_of_another(
    asked: tuple[str | None, str | None, bool], status: int, words: str
) -> None:
    model, task, late = asked
    with pytest.raises(ApiError, match=words) as raised:
        Catalogue([switchable(0), merged(1, "n")]).route(model, task, late=late)
    assert raised.value.kind.status == status


def test_another_default_task() -> None:
    catalogue = Catalogue([merged(0)], "separation")
    assert catalogue.route(None, None, late=False)[1] == "separation"
    assert catalogue.answers_without_task
    assert not Catalogue([merged(0)]).answers_without_task
    with pytest.raises(InputError, match="--default-task: got 'x', expected one of separation"):
        Catalogue([merged(0)], "x")


def test_two_bundles_that_would_answer_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="bundle-0' and 'bundle-1' both have separation of m"):
        Catalogue([merged(0), merged(1)])
    with pytest.raises(InputError, match="different models"):
        Catalogue([merged(0), switchable(1, dimensions=(2, 16))])
