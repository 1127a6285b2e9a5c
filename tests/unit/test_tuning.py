"""What is measured in which order, what is chosen, and what is printed of it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibration.corpus import load_corpus
from export.tuning import tune as tuning_module
from export.tuning.sample import Request, Sample, take_sample
from export.tuning.table import text_lines
from export.tuning.tune import (
    NOISE,
    Candidate,
    Measured,
    TuneSpec,
    Tuning,
    candidates,
    choose_fastest,
    draw_texts,
    run_rounds,
)
from runtimes.choices import GraphKind
from runtimes.cpu_kinds import Cpu
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.manifest import Artifact
from runtimes.open import EXECUTORS
from tests.support import make_manifest

ORT = Candidate(executor=EXECUTORS["onnxruntime"])
ONE = replace(ORT, threads=1)
OTHER = Candidate(executor=EXECUTORS["openvino"])
GPU = Candidate(executor=EXECUTORS["onnxruntime_cuda"])


def sampled(seconds: float, memory: int | None = None) -> Sample:
    return Sample(seconds=seconds, memory=memory)


def measured(candidate: Candidate, *seconds: float, memory: int | None = None) -> Measured:
    return Measured(candidate=candidate, samples=tuple(sampled(s, memory) for s in seconds))


def names(target: str, *kinds: GraphKind, threads: bool = False, **changes: Any) -> list[str]:
    """The candidates of a bundle with these graphs, as "executor" or "executor-threads"."""
    artifacts = tuple(Artifact(path=kind, kind=kind, bytes=1, sha256="0") for kind in kinds)
    manifest = make_manifest(target={"name": target}, artifacts=artifacts, **changes)
    found = candidates(manifest, 6, threads=threads)
    return [f"{c.executor.name}-{c.threads}".removesuffix("-None") for c in found]


def test_candidates_are_what_the_bundle_has_something_for(monkeypatch: pytest.MonkeyPatch) -> None:
    every = tuple(kind for kind in GraphKind)
    assert names("openvino", *every) == ["openvino", "onnxruntime"]  # untuned comes first
    assert names("onnxruntime", GraphKind.ONNXRUNTIME) == ["onnxruntime"]
    monkeypatch.setattr(tuning_module, "device_sm", lambda: "sm89")
    with_gpu = ["openvino", "onnxruntime", "onnxruntime_cuda"]
    assert names("openvino", *every) == with_gpu
    assert names("openvino", *every, precision="int8") == with_gpu[:2]


def test_threads_are_powers_of_two_below_one_per_core() -> None:
    graphs = (GraphKind.OPENVINO, GraphKind.ONNXRUNTIME)
    assert names("openvino", *graphs, threads=True) == [
        *("openvino", "openvino-1", "openvino-2", "openvino-4"),
        *("onnxruntime", "onnxruntime-1", "onnxruntime-2", "onnxruntime-4"),
    ]
    manifest = make_manifest(
        artifacts=(Artifact(path="a", kind="onnxruntime", bytes=1, sha256="0"),)
    )
    assert [c.threads for c in candidates(manifest, 1, threads=True)] == [None]
    assert [c.threads for c in candidates(manifest, 2, threads=True)] == [None, 1]
    assert [c.threads for c in candidates(manifest, 8, threads=True)] == [None, 1, 2, 4]


def test_every_round_measures_all_in_another_order() -> None:
    calls: list[Candidate] = []

    def sample(candidate: Candidate) -> Sample:
        calls.append(candidate)
        return sampled(1.0 + len(calls))

    found = [ORT, ONE, OTHER, GPU]
    result, left_out = run_rounds(found, sample, 5, 60)
    assert [one.candidate for one in result] == found
    assert left_out == {}
    rounds = [tuple(calls[i : i + 4]) for i in range(0, 20, 4)]
    assert all(Counter(one) == Counter(found) for one in rounds)
    assert len(set(rounds)) > 1
    assert all(len(one.samples) == 5 for one in result)


def test_what_is_not_installed_is_left_out_with_the_reason() -> None:
    calls: list[Candidate] = []

    def sample(candidate: Candidate) -> Sample:
        calls.append(candidate)
        if candidate.executor.name == "openvino":
            raise MissingError("OpenVINO is not installed")
        return sampled(1.0)

    result, left_out = run_rounds([OTHER, replace(OTHER, threads=1), ORT], sample, 3, 60)
    assert [one.candidate for one in result] == [ORT]
    assert left_out == {"openvino": "OpenVINO is not installed"}
    assert sum(c.executor.name == "openvino" for c in calls) == 1


def test_other_failures_end_the_measuring() -> None:
    def sample(_: Candidate) -> Sample:
        raise AdaptrtError("openvino: cannot load it")

    with pytest.raises(AdaptrtError, match="cannot load it"):
        run_rounds([OTHER, ORT], sample, 3, 60)


def test_no_round_begins_when_the_time_is_over() -> None:
    result, _ = run_rounds([ORT, ONE], lambda _: sampled(1.0), 9, 0.0)
    assert [len(one.samples) for one in result] == [1, 1]  # everything is measured once


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        ((1.0, 1.0, 1.0), (0.5, 0.5, 9.0), OTHER),  # medians
        ((1.0,), (1.5,), ORT),
        ((1.0,), (1 / (1 + NOISE / 2),), ORT),  # as fast: what is used untuned stays
        ((1.0,), (1 / (1 + NOISE * 2),), OTHER),
    ],
)
def test_fastest_is_chosen(
    first: tuple[float, ...], second: tuple[float, ...], chosen: Candidate
) -> None:
    rows = [measured(ORT, *first), measured(OTHER, *second)]
    assert choose_fastest(rows).candidate == chosen


def test_texts_are_drawn_from_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"text {number}\n" for number in range(100)))
    few = draw_texts(TuneSpec(bundle=tmp_path, texts=path, most_texts=10))
    assert len(few) == len(set(few)) == 10
    assert max(int(text.split()[1]) for text in few) > 50
    assert few == draw_texts(TuneSpec(bundle=tmp_path, texts=path, most_texts=10))
    assert len(draw_texts(TuneSpec(bundle=tmp_path, texts=path, most_texts=200))) == 100
    own = {text.text for text in load_corpus(None)}
    assert set(draw_texts(TuneSpec(bundle=tmp_path))) < own
    with pytest.raises(InputError, match=r"--texts: .*absent.txt: no such file"):
        draw_texts(TuneSpec(bundle=tmp_path, texts=tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"most_texts": 0}, "--max-texts: got 0, expected at least 1"),
        ({"rounds": 0}, "--rounds: got 0, expected at least 1"),
        ({"minutes": -1.0}, "--minutes: got -1.0, expected 0 or more"),
    ],
    ids=str,
)
def test_bounds_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TuneSpec(bundle=Path("b"), **options)


def test_table() -> None:
    rows = (
        measured(OTHER, 4.0, 2.0, 3.0, memory=2_000_000_000),
        measured(ONE, 6.0, 6.0, 6.0),
        measured(GPU, 1.0, 1.0, 1.0, memory=500_000_000),
    )
    lines = text_lines(
        Tuning(
            measured=rows,
            chosen=rows[2],
            left_out={"tensorrt": "it is not installed"},
            texts=30,
            tokens=600,
            cpu=Cpu(machine="x86_64", flags=None, model="A CPU", cores=4),
            path=Path("/h/tune.json"),
        )
    )
    assert list(lines) == [
        "30 texts, 600 tokens; medians of 3; A CPU, 4 cores",
        "executor           threads   texts/s  tokens/s  ratio    memory",
        "openvino                 4      10.0       200   1.00   2.00 GB",
        "onnxruntime              1       5.0       100   0.50         -",
        "onnxruntime_cuda         -      30.0       600   3.00   0.50 GB",
        "left out: tensorrt: it is not installed",
        "chosen: onnxruntime_cuda; written to /h/tune.json",
        "(Embedder.load and adaptrt encode read it; ADAPTRT_TUNE_FILE names another file)",
    ]


def test_process_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that the system kills for its memory."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    request = Request(bundle="b", runtime="openvino", threads=None, task=None, texts=("a",))
    with pytest.raises(AdaptrtError, match="openvino: the process that measures it ended with 1"):
        take_sample(request)
