"""Scores side by side, as far as that needs no mteb: map, refusals, gate and table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.evaluation.contenders import check_contenders, check_model, open_contenders
from export.evaluation.encoder import Embedders, as_numbers
from export.evaluation.published import Cell, published
from export.evaluation.scores import (
    GATED_TYPES,
    Column,
    Evaluation,
    Row,
    check_gateable,
    gate_failures,
    require_gate,
)
from export.evaluation.table import as_json, text_lines
from export.evaluation.task_map import adapter_for, adapters_of
from runtimes.choices import OutputType, Precision
from runtimes.embedder import Embedder
from runtimes.errors import GateError, InputError
from runtimes.outputs import converter
from runtimes.schemes import SCHEMES
from tests.support import CallableRuntime, cosines, make_manifest, run_cli, sample_tokenizer

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
RETRIEVAL, STS = {"NFCorpus": "Retrieval"}, {"STS12": "STS"}
FLOAT = OutputType.FLOAT32


@pytest.mark.parametrize(
    ("task_type", "role", "adapter"),
    [
        ("Retrieval", "query", "retrieval.query"),
        ("Retrieval", "document", "retrieval.passage"),
        ("Reranking", "query", "separation"),
        ("Reranking", "document", "separation"),
        ("Clustering", None, "separation"),
        ("PairClassification", None, "classification"),
        ("MultilabelClassification", None, "classification"),
        ("STS", None, "text-matching"),
        ("BitextMining", None, "text-matching"),
        ("Summarization", None, "text-matching"),
        ("InstructionReranking", "query", "base"),
    ],
)
def test_the_adapter_of_a_text(task_type: str, role: str | None, adapter: str) -> None:
    assert adapter_for(task_type, role) == adapter


def test_what_tasks_need_between_them() -> None:
    assert adapters_of(["Retrieval", "STS"]) == (*TASKS[:2], "text-matching")
    assert adapters_of(["Reranking", "Regression"]) == ("separation", "base")
    assert adapters_of([]) == ()


def test_published_scores_have_their_source() -> None:
    record = published()
    assert (record.model, len(record.revision)) == ("jinaai/jina-embeddings-v3", 40)
    assert len(record.by_cell) == len(record.scores) == 19
    assert len(record.tasks) == 17
    assert record.by_cell[Cell(task="SCIDOCS", split="test", subset="default")].score == 0.1992
    assert record.by_cell[Cell(task="JSTS", split="validation", subset="default")].score == 0.8193
    amazon = record.cells("AmazonCounterfactualClassification")
    assert [cell.subset for cell in amazon] == ["en", "de", "ja"]
    assert record.cells("OfflineSTS") == ()


def written(folder: Path, **changes: Any) -> Path:
    """A bundle's folder as far as its manifest."""
    folder.mkdir()
    manifest = make_manifest(**changes).to_json()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def switchable(folder: Path, **changes: Any) -> Path:
    names = dict.fromkeys((*TASKS, "base"), "")
    return written(folder, adapter="switchable", task="all", tasks=TASKS, prefixes=names, **changes)


def merged(folder: Path, task: str, **changes: Any) -> Path:
    return written(folder, task=task, tasks=(task,), prefixes={task: ""}, prefix="", **changes)


def test_a_switchable_bundle_is_a_column_and_merged_ones_are_one_together(tmp_path: Path) -> None:
    folders = [
        switchable(tmp_path / "all"),
        merged(tmp_path / "q", "retrieval.query", precision="fp16"),
        merged(tmp_path / "s", "separation"),
        merged(tmp_path / "p", "retrieval.passage", precision="fp16"),
    ]
    first, second, third = open_contenders(folders)
    assert [c.label for c in (first, second, third)] == [str(folders[0]), "fp16", str(folders[2])]
    assert set(first.by_task) == {*TASKS, "base"}
    served = {task: bundle.folder for task, bundle in second.by_task.items()}
    assert served == {"retrieval.query": folders[1], "retrieval.passage": folders[3]}


def test_a_changed_bundle_has_another_revision(tmp_path: Path) -> None:
    """Or it would be shown the scores of the former one."""
    folder = switchable(tmp_path / "all")
    (before,) = open_contenders([folder])
    revision = before.revision
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["adaptrt"] = "1"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert before.revision != revision


def test_a_bundle_is_given_once(tmp_path: Path) -> None:
    folder = switchable(tmp_path / "all")
    with pytest.raises(InputError, match=r"--bundle: .*all.* is given twice"):
        open_contenders([folder, tmp_path / "." / "all"])
    twins = [merged(tmp_path / name, "separation") for name in "ab"]
    with pytest.raises(InputError, match=r"--bundle: .*a' and .*b' both serve separation in fp32"):
        open_contenders(twins)


def refusal(tmp_path: Path, types: Mapping[str, str], *given: Any, **changes: Any) -> str:
    contenders = open_contenders([merged(tmp_path / "one", "text-matching", **changes)])
    with pytest.raises(InputError) as raised:
        check_contenders(contenders, types, *given)
    return str(raised.value)


def test_what_a_bundle_cannot_give_is_refused(tmp_path: Path) -> None:
    missing = refusal(tmp_path, RETRIEVAL, None, FLOAT, precision="fp16")
    assert missing == (
        "--tasks: NFCorpus needs retrieval.query and retrieval.passage, which fp16 does not have; "
        "add what `make engine TASK=retrieval.query PRECISION=fp16 TARGET=onnxruntime` builds, or "
        "take a bundle with ADAPTER=switchable"
    )


def test_a_length_and_an_output_that_a_bundle_lacks_are_refused(tmp_path: Path) -> None:
    assert "--dimensions: got 3, expected one of 2, 4, 8, which" in refusal(tmp_path, STS, 3, FLOAT)
    (contender,) = open_contenders([tmp_path / "one"])
    with pytest.raises(InputError, match="int8 needs the range of text-matching's vectors"):
        check_contenders([contender], STS, 4, OutputType.INT8)
    check_contenders([contender], STS, 4, FLOAT)
    check_contenders([contender], STS, 8, OutputType.BINARY)


def test_another_models_bundle_is_refused_beside_a_reference(tmp_path: Path) -> None:
    contenders = open_contenders([switchable(tmp_path / "all")])
    check_model(contenders, "0" * 64)
    with pytest.raises(InputError, match=r"--reference: .*all.* was built from another model"):
        check_model(contenders, "1" * 64)


def test_the_latest_embedders_stay_open() -> None:
    """A retrieval task goes to and fro between two; a third closes the one used longest ago."""
    opened: list[str] = []

    def load(task: str) -> Embedder:
        opened.append(task)
        runtime = CallableRuntime(lambda ids, mask: np.ones((len(ids), 8), np.float32))
        return Embedder(make_manifest(), sample_tokenizer(), runtime)

    embedders = Embedders(place=lambda task: task, load=load)
    query, passage = embedders.for_task("q"), embedders.for_task("p")
    assert embedders.for_task("q") is query
    other = embedders.for_task("s")
    assert embedders.for_task("q") is query
    assert opened == ["q", "p", "s"]
    assert [e.runtime.closed for e in (query, passage, other)] == [False, True, False]  # type: ignore[attr-defined]
    embedders.close()
    assert [e.runtime.closed for e in (query, other)] == [True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("output", OutputType)
def test_what_is_stored_comes_as_the_numbers_it_stands_for(output: OutputType) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranges = {"task": {"64": float(np.abs(vectors).max())}}
    numbers = as_numbers(converter(output, 64, ["task"] * 50, ranges)(vectors), output)
    assert numbers.dtype == np.float32
    assert numbers.shape == vectors.shape
    if output in (OutputType.BINARY, OutputType.UBINARY):
        assert (numbers == np.where(vectors > 0, 1, -1)).all()
    else:
        assert cosines(numbers, vectors).min() > 0.9999


ROWS = tuple(
    Row(
        cell=Cell(task=task, split=split, subset=subset),
        task_type=task_type,
        metric="main",
        dataset_revision=revision,
    )
    for task, split, subset, task_type, revision in (
        ("STS12", "test", "default", "STS", "a0d554a64d88156834ff5ae9920b964011b16384"),
        ("JSTS", "validation", "default", "STS", "today's"),
        ("Mine", "test", "en", "Retrieval", "1"),
        ("Mine", "test", "de", "Retrieval", "1"),
    )
)


def column(precision: Precision | None, *values: float) -> Column:
    return Column(
        label=precision or "checkpoint",
        precision=precision,
        name="adaptrt/x",
        revision="0",
        scores=dict(zip((row.cell for row in ROWS), values, strict=True)),
    )


EXACT = column(None, 0.8, 0.6, 0.3, 0.5)


def evaluation(*columns: Column, reference: Column | None = EXACT) -> Evaluation:
    return Evaluation(rows=ROWS, columns=columns, reference=reference)


def test_a_mean_is_over_tasks_and_a_tasks_over_its_subsets() -> None:
    assert evaluation().means(EXACT) == pytest.approx({"STS": 0.7, "Retrieval": 0.4})


@pytest.mark.parametrize(
    ("precision", "limit"),
    [
        ("fp32", 1e-4),
        ("fp16", 1e-4),
        ("bf16", 2e-3),
        ("int8", 2e-3),
        ("fp8", 2e-3),
        ("int8w", 2e-3),
        ("int4w", 2e-3),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gate_is_as_narrow_as_the_precision(precision: str, limit: float, sign: int) -> None:
    kind = Precision(precision)
    assert SCHEMES[kind].max_score_change == limit
    within, beyond = sign * 0.9 * limit, sign * 1.1 * limit
    require_gate(evaluation(column(kind, 0.8 + within, 0.6 + within, 0.3, 0.5)))
    failing = evaluation(column(kind, 0.8 + beyond, 0.6 + beyond, 0.3, 0.5))
    (line,) = gate_failures(failing)
    assert line.startswith(f"{precision}: mean of STS ")
    assert line.endswith(f"a difference of {beyond:+.6f}, expected at most {limit}")
    with pytest.raises(GateError, match="mean of STS"):
        require_gate(failing)


def test_the_gate_names_every_mean_and_passes_no_nan() -> None:
    wrong = column(Precision.INT8, 0.1, 0.1, math.nan, 0.5)
    assert [line.split()[3] for line in gate_failures(evaluation(wrong))] == list(GATED_TYPES)


def test_what_has_no_gate_is_refused() -> None:
    types = ["STS"]
    with pytest.raises(InputError, match="name it with --reference"):
        check_gateable(types, has_reference=False, output=FLOAT)
    with pytest.raises(InputError, match="--output-type float32"):
        check_gateable(types, has_reference=True, output=OutputType.INT8)
    with pytest.raises(InputError, match="STS and Retrieval, and --tasks has neither"):
        check_gateable(["Clustering"], has_reference=True, output=FLOAT)
    check_gateable(types, has_reference=True, output=FLOAT)


FP16 = column(Precision.FP16, 0.80002, 0.6, 0.3, 0.49)


def test_the_table_shows_bundle_by_bundle_beside_both() -> None:
    assert list(text_lines(evaluation(FP16), published())) == [
        "                   published  checkpoint     fp16  difference",
        "STS12                0.82438     0.80000  0.80002    +0.00002",
        "JSTS validation     0.81930*     0.60000  0.60000    +0.00000",
        "Mine en                    -     0.30000  0.30000    +0.00000",
        "Mine de                    -     0.50000  0.49000    -0.01000",
        "mean of STS                -     0.70000  0.70001    +0.00001",
        "mean of Retrieval          -     0.40000  0.39500    -0.00500",
        "published: jinaai/jina-embeddings-v3, mteb's results as of 2026-11-29",
        "* measured on another revision of the data",
    ]


def test_the_table_leaves_out_what_there_is_not() -> None:
    own = Evaluation(rows=ROWS[2:], columns=[FP16])
    assert list(text_lines(own, published())) == [
        "                      fp16",
        "Mine en            0.30000",
        "Mine de            0.49000",
        "mean of Retrieval  0.39500",
    ]


def test_json_has_every_digit() -> None:
    found = json.loads(json.dumps(as_json(evaluation(FP16), published(), {"prefix": True})))
    assert found["rows"][0]["scores"] == {"checkpoint": 0.8, "fp16": 0.80002}
    assert (found["rows"][0]["published"], found["rows"][2]["published"]) == (0.82438, None)
    assert found["means"]["fp16"]["Retrieval"] == pytest.approx(0.395)
    assert found["columns"]["fp16"] == {"name": "adaptrt/x", "revision": "0", "precision": "fp16"}
    assert found["settings"] == {"prefix": True}


@pytest.mark.skipif(find_spec("mteb") is not None, reason="mteb is installed here")
def test_without_mteb_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("eval", "--bundle", tmp_path) == 4
    assert "mteb is not installed; pip install 'adaptrt[eval]'" in capsys.readouterr().err
