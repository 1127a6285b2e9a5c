"""Adapters for other people's libraries: which side takes which bundle, and a missing library.

The adapters themselves run with the real libraries in ``tests/interop``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import adaptrt.integrations
from adaptrt import InputError, MissingError
from adaptrt.integrations.sides import Side, choose_task
from tests.support import make_manifest
from tests.unit.test_imports import HEAVY, loaded_after

# Module of adaptrt.integrations: the library that it imports, and the extra that installs it.
LIBRARIES = {
    "haystack": ("haystack", "haystack"),
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "sentence_transformers": ("sentence_transformers", "sentence-transformers"),
}


@pytest.mark.parametrize(
    ("task", "query", "passage"),
    [
        ("retrieval.query", "retrieval.query", None),
        ("retrieval.passage", None, "retrieval.passage"),
        ("classification", "classification", "classification"),
        ("text-matching", "text-matching", "text-matching"),
        ("mine", "mine", "mine"),
    ],
)
def test_a_merged_bundle_embeds_its_own_side(
    task: str, query: str | None, passage: str | None
) -> None:
    manifest = make_manifest(task=task, tasks=(task,), prefixes={task: ""})
    for side, expected in ((Side.QUERY, query), (Side.PASSAGE, passage)):
        if expected is not None:
            assert choose_task(manifest, side) == expected
            continue
        with pytest.raises(InputError, match=rf"got a bundle of {task}, expected one of {side}"):
            choose_task(manifest, side)


@pytest.mark.parametrize("side", Side)
def test_a_switchable_bundle_embeds_both(side: Side) -> None:
    tasks = ("retrieval.query", "retrieval.passage")
    manifest = make_manifest(adapter="switchable", task="all", tasks=tasks)
    assert choose_task(manifest, side) == side.value


def test_a_refusal_says_how_to_build_what_is_expected() -> None:
    with pytest.raises(InputError) as caught:
        choose_task(make_manifest(), Side.PASSAGE)
    assert str(caught.value) == (
        "passages: got a bundle of retrieval.query, expected one of retrieval.passage, or a "
        "switchable one for both sides; build it with `make engine TASK=retrieval.passage` or "
        "ADAPTER=switchable"
    )


@pytest.mark.parametrize("module", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, extra = LIBRARIES[module]
    name = f"adaptrt.integrations.{module}"
    for loaded in [n for n in sys.modules if n == name or n.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingError) as caught:
        importlib.import_module(name)
    message = str(caught.value)
    assert message.endswith(f" is not installed; pip install 'adaptrt[{extra}]'")
    assert "\n" not in message


def test_every_adapter_is_tried_without_its_library() -> None:
    (folder,) = map(Path, adaptrt.integrations.__path__)
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "sides", *LIBRARIES}


def test_the_rule_of_sides_is_light() -> None:
    assert loaded_after("import adaptrt.integrations.sides") & HEAVY == set()
