"""``adaptrt``, the import name: its names, its defaults, and what it refuses."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import adaptrt
from adaptrt import InputError, build, verify
from calibration import table
from export.cli import _parser
from export.request import BuildRequest
from runtimes.manifest import SCHEMA, SCHEMA_MINOR

ROOT = Path(adaptrt.__file__).parents[1]


def test_public_names_are_there() -> None:
    assert {"Embedder", "TritonEmbedder", "build", "verify"} < set(adaptrt.__all__)
    assert all(getattr(adaptrt, name) is not None for name in adaptrt.__all__)
    assert set(adaptrt.__all__) <= set(dir(adaptrt))


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BuildSpec'"):
        adaptrt.BuildSpec  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_a_release() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", adaptrt.__version__)


def test_every_option_of_the_command_is_an_argument_with_the_same_default() -> None:
    options = vars(_parser().parse_args(["engine"]))
    of_the_command = {"command", "debug", "quiet", "verbose", "run", "version"}
    defaults = {field.name: field.default for field in fields(BuildRequest)}
    assert {k: v for k, v in options.items() if k not in of_the_command} == defaults
    arguments = inspect.signature(build).parameters
    assert {n: p.default for n, p in arguments.items()} == defaults | {"out": "build"}


def test_the_makefile_has_the_same_defaults() -> None:
    text = (ROOT / "Makefile").read_text()
    stated = dict(re.findall(r"^([A-Z_]+) \?= ([\w.,]+)$", text, re.MULTILINE))
    names = ("task", "precision", "target", "gpu")
    assert [stated[n.upper()] for n in names] == [str(getattr(BuildRequest, n)) for n in names]


@pytest.mark.parametrize("package", ["adaptrt", "export", "runtimes", "calibration"])
def test_packages_say_that_they_have_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"max_batch": "8"}, "MAX_BATCH: got '8', expected a whole number"),
        ({"max_batch": 0}, "MAX_BATCH: got 0, expected at least 1"),
        ({"precision": None}, "PRECISION: got None, expected text"),
        ({"precision": "fp4"}, "PRECISION: got 'fp4', expected one of auto, fp32"),
        ({"gpu": 89}, "GPU: got 89, expected names"),
        ({"gpu": ["sm89", "89"]}, "GPU: got '89', expected a name such as sm86"),
        ({"out": b"build"}, "OUT: got b'build', expected a path"),
        ({"model": "\0"}, "MODEL: got '\\x00', expected a name without NUL"),
        ({"workspace": float("nan")}, "WORKSPACE: got nan, expected a number"),
        ({"refittable": 1}, "REFITTABLE: got 1, expected True or False"),
        ({"task": "all", "adapter_path": "mine"}, "TASK=all with ADAPTER_PATH"),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(tmp_path: Path, choices: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        build(**{"out": tmp_path / "build"} | choices)  # type: ignore[arg-type]
    assert not (tmp_path / "build").exists()


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="BUNDLE: got None, expected a path"):
        verify(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no manifest"):
        verify(str(tmp_path))


def test_stability_page_has_every_name_and_the_schemas_in_use() -> None:
    text = (ROOT / "docs" / "stability.md").read_text()
    assert [name for name in adaptrt.__all__ if f"`{name}`" not in text] == []
    version = adaptrt.__version__.rpartition(".")[0]
    manifest = f"schema {SCHEMA}, minor 0 to {SCHEMA_MINOR} | schema {SCHEMA}, minor {SCHEMA_MINOR}"
    assert f"| {version} | {manifest} | schema 1 to {table.SCHEMA}, writes {table.SCHEMA} |" in text
