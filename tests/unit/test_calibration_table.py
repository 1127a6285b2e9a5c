"""``calibration.json``: round trip, key, and everything that its reader must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibration.profile import Distribution, Profile
from calibration.table import (
    Calibration,
    Corpus,
    Counts,
    Range,
    Trial,
    read_calibration,
    storage_setting,
    write_calibration,
)
from runtimes.errors import AdaptrtError, InputError
from runtimes.schemes import INT4W, INT8, INT8W
from tests.support import listing

FC1 = "encoder.layers.0.mlp.fc1"


def make_range(**changes: Any) -> Range:
    fields: dict[str, Any] = {
        "observer": "mse",
        "amplitude": 1.27,
        "scale": 0.01,
        "histogram_digest": "ab",
        "channel_max": [1.0, 0.1 + 0.2],
        "alpha": 0.5,
        "output_error": 0.01,
        "cosine": 0.9999,
    }
    return Range(**fields | changes)


CORPUS = Corpus(sha256="1" * 64, counts=Counts(task={}, language={"de": 3}, length={"16": 3}))


_SEEN = Distribution(counts={"a": 2, "b": 1}, noise=0.25)
PROFILE = Profile(
    vocabulary="3" * 64, texts=3, length=_SEEN, script=_SEEN, tokens=_SEEN, frequent={"▁ü": 0.5}
)


def make(**changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "model_sha256": "0" * 64,
        "task": "classification",
        "corpus": CORPUS,
        "settings": {"observer": "mse", "max_tokens": 512, "seed": 0, "prefix": "Frage: ü"},
        "tensors": {FC1: make_range(), "other": make_range(cosine=None, output_error=None)},
        "profile": PROFILE,
    }
    return Calibration(**fields | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_calibration(tmp_path / "calibration.json", make())
    return tmp_path / "calibration.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_round_trip_is_exact(path: Path) -> None:
    assert read_calibration(path) == make()


def test_no_tensors_round_trip(tmp_path: Path) -> None:
    write_calibration(tmp_path / "new" / "a.json", make(tensors={}))
    assert read_calibration(tmp_path / "new" / "a.json") == make(tensors={})


def test_file_has_a_line_per_gemm_and_is_deterministic(path: Path, tmp_path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum('"histogram_digest"' in line for line in lines) == 2
    write_calibration(tmp_path / "again.json", make())
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_key_is_of_everything_but_the_tensors() -> None:
    assert make().key == make(tensors={}).key
    others = [
        make(model_sha256="2" * 64),
        make(task="separation"),
        make(corpus=replace(CORPUS, sha256="2" * 64)),
        make(corpus=replace(CORPUS, counts=Counts(task={}, language={}, length={}))),
        make(settings=dict(make().settings) | {"seed": 1}),
    ]
    assert len({make().key, *(other.key for other in others)}) == 6


def test_key_does_not_depend_on_the_order_of_settings() -> None:
    assert make(settings=dict(reversed(list(make().settings.items())))).key == make().key


def test_tables_of_before_profiles_are_read_with_the_key_that_they_had(path: Path) -> None:
    """Written by the version of 2026-11-28, from :func:`make` without its tensors."""
    old = make(tensors={}, profile=None)
    assert old.key == "5a2dbf07a4a6f494e0682ca4e4dcbe5ceac4030dea0b191b6312b04d28a2cfb7"
    edit(path, lambda v: (v.update(schema=1, tensors={}), v.pop("profile")))
    assert read_calibration(path) == old
    edit(path, lambda v: v.update(profile=None))  # which schema 1 does not have
    with pytest.raises(InputError, match=r"missing or unknown: .'profile'"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(schema=3), "schema 3, expected 1 or 2"),
        (lambda v: v.update(schema=[2]), r"schema \[2\], expected 1 or 2"),
        (lambda v: v.update(schema=1), "missing or unknown: .'profile'"),
        (lambda v: v.update(profile=3), "profile: got 3, expected object"),
        (lambda v: v["profile"].update(texts=0), "profile: .*not what texts give"),
        (lambda v: v["profile"].update(texts="x"), "profile.texts: got 'x', expected int"),
        (lambda v: v["profile"].update(more=1), "profile.'more': unknown"),
        (lambda v: v["profile"].pop("script"), "profile.script: missing"),
        (lambda v: v["profile"]["script"].update(noise=2.0), "profile.script: .*noise 2.0"),
        (lambda v: v["profile"]["tokens"].update(counts={}), "not 1 to 4096 positive numbers"),
        (lambda v: v["profile"]["length"]["counts"].update({"8": 0}), "positive numbers"),
        (
            lambda v: v["profile"]["length"]["counts"].update({"8": 10**40}),
            "1 to 4096 positive numbers",
        ),
        (lambda v: v["profile"]["frequent"].update({"a": 1.5}), "not what texts give"),
        (lambda v: v.pop("task"), "missing or unknown: .'task'"),
        (lambda v: v.update(extra=1), "missing or unknown: .'extra'"),
        (lambda v: v.update({"x\n\x1b" * 200: 1}), r"unknown: .'x\\n\\x1b.{100,200} characters"),
        (lambda v: v.update(task="separation"), "key .*: changed"),
        (lambda v: v["settings"].update(seed=7), "key .*: changed"),
        (lambda v: v["corpus"].update(sha256="2"), "key .*: changed"),
        (lambda v: v["corpus"].pop("counts"), "corpus.counts: missing"),
        (lambda v: v["corpus"].update(counts="abc"), "corpus.counts: got 'abc', expected object"),
        (lambda v: v["corpus"]["counts"].update(length=5), "counts.length: got 5, expected object"),
        (lambda v: v["corpus"]["counts"].update({"\n": 1}), r"corpus.'counts.\\n': unknown"),
        (lambda v: v["settings"].pop("observer"), "settings.observer: missing"),
        (lambda v: v.update(tensors=[]), r"tensors: got \[\], expected object"),
        (lambda v: v.update(task=3), "task: got 3, expected str"),
        (lambda v: v["tensors"].update({FC1: 3}), FC1),
        (lambda v: v["tensors"][FC1].pop("scale"), f"{FC1}.*scale"),
        (lambda v: v["tensors"][FC1].update(zero_point=0), "zero_point"),
        (lambda v: v["tensors"][FC1].update(observer="guess"), "observer 'guess', expected one"),
        (lambda v: v["tensors"][FC1].update(scale=0.02), "scale 0.02, expected amplitude 1.27"),
        (lambda v: v["tensors"][FC1].update(scale="x"), f"{FC1}.*or no number"),
        (lambda v: v["tensors"][FC1].update(amplitude=-1.27), "not finite, negative"),
        (lambda v: v["tensors"][FC1].update(amplitude=float("nan")), "not finite, negative"),
        (lambda v: v["tensors"][FC1].update(amplitude=10**400), "not finite, negative"),
        (lambda v: v["tensors"][FC1].update(scale=10**400), "not finite, negative"),
        (lambda v: v["tensors"][FC1].update(histogram_digest=[]), "histogram_digest is no text"),
        (lambda v: v["tensors"][FC1].update(channel_max=[]), "channel_max is empty"),
        (lambda v: v["tensors"][FC1].update(channel_max=[1, "2"]), "or no number"),
        (lambda v: v["tensors"][FC1].update(channel_max=[float("inf")]), "not finite"),
        (lambda v: v["tensors"][FC1].update(cosine=float("nan")), "not finite"),
    ],
)
def test_changed_files_are_refused(
    path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(path, change)
    with pytest.raises(InputError, match=rf"calibration\.json: .*{words}.*calibrate again"):
        read_calibration(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_calibration(tmp_path / "a.json")


def test_failed_write_leaves_the_former_file(path: Path) -> None:
    before = listing(path.parent)
    unwritable = make(settings={"observer": object()})
    with pytest.raises(TypeError):
        write_calibration(path, unwritable)
    assert listing(path.parent) == before


def test_unwritable_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaptrtError, match=r"cannot write .*calibration\.json"):
        write_calibration(tmp_path / "file" / "calibration.json", make())


def test_dead_range_is_a_range() -> None:
    """Its scale is the least there is, not its amplitude / 127."""
    make_range(amplitude=0.0, scale=2.0**-14).require_scale(INT8)
    with pytest.raises(ValueError, match="expected amplitude"):
        make_range(amplitude=0.0, scale=0.0).require_scale(INT8)


WEIGHTS_ALONE: dict[str, Any] = {"observer": "none", **storage_setting(INT4W)}


def test_weights_alone_have_no_ranges(tmp_path: Path) -> None:
    """What is recorded is what quantising one costs, and the block that it was tried with."""
    trial = Trial(output_error=0.1, cosine=0.999)
    table = make(settings=WEIGHTS_ALONE, tensors={FC1: trial})
    write_calibration(tmp_path / "a.json", table)
    assert read_calibration(tmp_path / "a.json") == table
    assert (table.storage.name, table.settings["block"]) == ("int4 weights", 32)
    other = make(settings=WEIGHTS_ALONE | {"block": 64}, tensors={FC1: trial})
    assert other.key != table.key
    assert storage_setting(INT8W) == {"storage": "int8 weights"}


@pytest.mark.parametrize(
    "entry",
    [
        {"output_error": 0.1},
        {"output_error": None, "cosine": 0.9},
        {"output_error": 0.1, "cosine": float("nan")},
        {"output_error": 0.1, "cosine": 0.9, "amplitude": 1.0},
    ],
)
def test_what_no_trial_gives_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    write_calibration(path, make(settings=WEIGHTS_ALONE, tensors={}))
    edit(path, lambda v: v["tensors"].update({FC1: entry}))
    with pytest.raises(InputError, match=f"{FC1}.*calibrate again"):
        read_calibration(path)
