"""Packages that do not fit together are named before any work."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from export.build import requirements
from export.build.requirements import check_installed
from runtimes.errors import MissingError
from tests.support import build, listing


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
