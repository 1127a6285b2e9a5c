"""Packages that do not fit together are named before any work."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import adaptrt
from export.build import requirements
from export.build.requirements import check_installed
from runtimes.errors import MissingError
from tests.support import build, listing, run_cli


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Other versions than those installed; None is a package that is not there."""

    def change(**versions: str | None) -> None:
        def installed(name: str) -> str:
            if name not in versions:
                return version(name)
            if (found := versions[name]) is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(requirements, "version", installed)

    return change


def test_what_is_installed_here_fits() -> None:
    check_installed()


def test_both_versions_and_the_command_are_named(pretend: Callable[..., None]) -> None:
    pretend(transformers="5.24.0")
    with pytest.raises(MissingError) as caught:
        check_installed()
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "installed is transformers 5.24.0" in message
    assert "pip install 'transformers<5.24,>=5.4'" in message
    assert message.isprintable()


def test_transformers_own_wish_is_asked_too(pretend: Callable[..., None]) -> None:
    """Its table wants peft 0.20 or newer."""
    pretend(peft="0.19.1")
    with pytest.raises(MissingError, match=r"transformers \S+ needs peft>=0\.20\.0, installed is "):
        check_installed()


def test_missing_package_is_named(pretend: Callable[..., None]) -> None:
    pretend(onnxscript=None)
    with pytest.raises(MissingError, match="installed is no onnxscript; pip install 'onnxscript"):
        check_installed()


LIGHT = dict.fromkeys(
    ["torch", "transformers", "peft", "onnx", "onnxscript", "onnx-ir", "ml-dtypes", "safetensors"]
)


@pytest.mark.parametrize(
    ("ort", "extras"),
    [({}, "export"), ({"onnxruntime": None}, "cpu,export")],
    ids=["light", "without an executor"],
)
def test_light_install_is_told_what_to_install(
    pretend: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ort: dict[str, str | None],
    extras: str,
) -> None:
    pretend(**LIGHT | ort)
    expected = (
        "error: this needs torch and 7 other packages that a light install leaves out; "
        f"pip install 'adaptrt[{extras}]'\n"
    )
    file = tmp_path / "mine.onnx_adapter"
    for command in (
        ["engine"],
        ["calibrate"],
        ["refit", "--engine", "x", "--task", "x"],
        ["adapter", "--peft", "x", "--bundle", "x", "--out", str(file)],
    ):
        assert run_cli(*command) == 4
        assert capsys.readouterr().err == expected
    with pytest.raises(MissingError, match="leaves out"):
        adaptrt.build(out=tmp_path)
    assert listing(tmp_path) == {}


def test_two_onnx_runtimes_are_one_too_many(pretend: Callable[..., None]) -> None:
    pretend(**{"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.0"})
    with pytest.raises(MissingError) as caught:
        check_installed()
    message = str(caught.value)
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.0 are both installed" in message
    assert (
        "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'adaptrt[cpu]'" in message
    )


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.31.0", None),
        ("1.30.0", "needs onnxruntime-gpu<1.32,>=1.31, installed is onnxruntime-gpu 1.30.0"),
        (None, "ONNX Runtime is not installed"),
    ],
)
def test_either_onnx_runtime_will_do(
    pretend: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    words: str | None,
) -> None:
    pretend(**{"onnxruntime": None, "onnxruntime-gpu": version})
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    if words is None:
        check_installed()
    else:
        with pytest.raises(MissingError, match=re.escape(words)):
            check_installed()


def test_onnx_runtime_of_another_name_will_do(pretend: Callable[..., None]) -> None:
    """It is importable here, and is in no distribution that is known."""
    pretend(**{"onnxruntime": None, "onnxruntime-gpu": None})
    check_installed()


def test_embedder_without_an_executor_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, small_bundle: Path
) -> None:
    monkeypatch.delitem(sys.modules, "runtimes.executors.ort", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"not installed; pip install 'adaptrt\[cpu\]'"):
        adaptrt.Embedder.load(small_bundle)


def test_build_asks_before_it_works(
    pretend: Callable[..., None],
    tmp_path: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(peft="0.30.0")
    assert build(tmp_path, "--model", small_folder) == 4
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: packages do not fit")
    assert listing(tmp_path) == {}
