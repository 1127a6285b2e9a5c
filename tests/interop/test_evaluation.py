"""Scores by mteb itself, of a small random model on the offline tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import mteb
import pytest
from mteb.abstasks.task_metadata import TaskType
from mteb.cache import ResultCache
from mteb.models.abs_encoder import get_prompt_name
from mteb.models.model_implementations.jina_models import JinaWrapper, jina_embeddings_v3
from mteb.models.models_protocols import EncoderProtocol
from mteb.types import PromptType

from export.checkpoint.reader import Checkpoint
from export.evaluation import encoder as encoder_module
from export.evaluation.encoder import Embedders, MtebEncoder
from export.evaluation.evaluate import evaluate
from export.evaluation.offline import OFFLINE
from export.evaluation.published import published
from export.evaluation.results import open_cache, score
from export.evaluation.scores import Column, Evaluation, gate_failures
from export.evaluation.spec import EvaluationSpec, Preset
from export.evaluation.task_map import ADAPTERS, ROLES, adapter_for
from export.evaluation.tasks import find_tasks
from runtimes.choices import BASE_TASK, OutputType, Precision
from runtimes.embedder import Embedder
from runtimes.errors import InputError
from tests.support import build, run_cli

GATED = ("OfflineRetrieval", "OfflineSTS")


@pytest.fixture(scope="module")
def small_switchable(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("switchable")
    assert build(out, "--model", small_folder, "--adapter", "switchable") == 0
    return out / "small" / "switchable-fp32-onnxruntime"


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory, small_switchable: Path, small_folder: Path
) -> EvaluationSpec:
    """What was scored on every offline task, with its results. Nothing in them may be changed."""
    spec = EvaluationSpec(
        bundles=[small_switchable],
        reference=str(small_folder),
        out=tmp_path_factory.mktemp("eval"),
        gate=True,
    )
    evaluate(spec)
    return spec


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would embed a text fails."""

    def refuse(*_: Any) -> Embedder:
        raise AssertionError("an embedder was asked for")

    monkeypatch.setattr(Embedders, "for_task", refuse)


def test_the_map_is_mtebs_own() -> None:
    """A change in mteb's implementation of the model is noticed here."""
    assert jina_embeddings_v3.loader_kwargs["model_prompts"] == ADAPTERS
    assert jina_embeddings_v3.loader is JinaWrapper
    for task_type in get_args(TaskType):
        for role in (None, *ROLES):
            metadata = mteb.get_task("STS12").metadata.model_copy(update={"type": task_type})
            name = get_prompt_name(ADAPTERS, metadata, role and PromptType(role))
            assert adapter_for(task_type, role) == ADAPTERS.get(name, BASE_TASK)


def test_prefixes_are_for_retrieval_alone(original: Checkpoint) -> None:
    prefixes = {task: original.config.prefix(task) for task in original.tasks}
    assert {k: v for k, v in prefixes.items() if v} == JinaWrapper.jina_task_to_prompt


def test_published_scores_are_of_tasks_that_mteb_has() -> None:
    for make in find_tasks([], Preset.RELEASE):
        task = make()
        cells = published().cells(task.metadata.name)
        assert set(task.eval_splits) == {cell.split for cell in cells}
        assert set(task.hf_subsets) == {cell.subset for cell in cells}
    assert published().revision == jina_embeddings_v3.revision


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["stsbenchmark"], "mteb has no 'stsbenchmark'; did you mean STSBenchmark"),
        (["OfflineStS"], "did you mean OfflineSTS"),
        (["STS12", "STS12"], "'STS12' is given twice"),
        (["CIFAR10ZeroShot"], "is a task of text, image, expected one of texts alone"),
        (
            ["CQADupstackRetrieval"],
            "is the mean of other tasks; name those: CQADupstackAndroidRetrieval,",
        ),
        (["\x1b"], r"mteb has no '\x1b'; its documentation lists the tasks"),
    ],
    ids=["near", "offline", "twice", "images", "aggregate", "nothing-like-it"],
)
def test_an_unusable_task_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(InputError) as raised:
        find_tasks(names, Preset.FAST)
    assert words in str(raised.value)


def test_an_engine_has_its_checkpoints_scores(scored: EvaluationSpec) -> None:
    evaluation = evaluate(scored)
    assert [row.cell.task for row in evaluation.rows] == list(OFFLINE)
    (column,) = evaluation.columns
    assert gate_failures(evaluation) == []
    assert all(0 < value < 1 for value in column.scores.values())


def test_what_was_scored_is_not_scored_again(
    scored: EvaluationSpec, nothing_opens: None, small_folder: Path, capsys: Any
) -> None:
    options = ("--reference", small_folder, "--out", scored.out, "--gate")
    assert run_cli("eval", "--bundle", scored.bundles[0], *options) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["checkpoint", "fp32", "difference"]
    assert [line.split()[0] for line in shown[1:]] == list(OFFLINE)
    assert run_cli("eval", "--bundle", scored.bundles[0], *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in found["rows"]] == list(OFFLINE)


def test_results_are_mtebs_own_files(scored: EvaluationSpec) -> None:
    evaluation = evaluate(scored)
    (column,) = evaluation.columns
    loaded = ResultCache(scored.out).load_task_result("OfflineSTS", column.name, column.revision)
    assert loaded.task_name == "OfflineSTS"
    (row,) = [row for row in evaluation.rows if row.cell.task == "OfflineSTS"]
    assert loaded.scores["test"][0]["main_score"] == column.scores[row.cell]
    assert not list(scored.out.glob(".*"))


def run(
    folder: Path, load: Callable[[str], Embedder], tasks: tuple[str, ...] = GATED, **options: Any
) -> Column:
    """The column of whatever embeds, under a name of its own."""
    encoder = MtebEncoder(
        Embedders(place=lambda task: task, load=load), name="adaptrt/x", revision="1", **options
    )
    assert isinstance(encoder, EncoderProtocol)
    makers = find_tasks(tasks, Preset.FAST)
    scores = score(encoder, "x", makers, open_cache(folder))
    return Column(
        label="x",
        precision=Precision.INT8,
        name="adaptrt/x",
        revision="1",
        scores={row.cell: value for row, value in scores.items()},
    )


def judged(scored: EvaluationSpec, column: Column) -> list[str]:
    evaluation = evaluate(scored)
    rows = [row for row in evaluation.rows if row.cell in column.scores]
    return gate_failures(Evaluation(rows=rows, columns=[column], reference=evaluation.reference))


def test_the_gate_passes_the_right_engine(scored: EvaluationSpec, tmp_path: Path) -> None:
    """Guards the two tests below: it is not their way of asking that fails."""
    assert judged(scored, run(tmp_path, lambda _: Embedder.load(scored.bundles[0]))) == []


def test_the_gate_finds_a_wrong_adapter(
    scored: EvaluationSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "adapter_for", lambda *_: "separation")
    failures = judged(scored, run(tmp_path, lambda _: Embedder.load(scored.bundles[0])))
    assert [line.split()[3] for line in failures] == ["Retrieval", "STS"]


def test_the_gate_finds_a_prefix_that_is_left_out(scored: EvaluationSpec, tmp_path: Path) -> None:
    column = run(tmp_path, lambda _: Embedder.load(scored.bundles[0]), prefix=False)
    assert [line.split()[3] for line in judged(scored, column)] == ["Retrieval"]


def test_merged_bundles_serve_each_its_task(
    scored: EvaluationSpec, query_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    assert build(tmp_path, "--model", small_folder, "--task", "retrieval.passage") == 0
    bundles = [query_bundle, tmp_path / "small" / "retrieval.passage-fp32-onnxruntime"]
    out = tmp_path / "eval"
    merged = EvaluationSpec(bundles=bundles, tasks=["OfflineRetrieval"], out=out)
    (column,) = evaluate(merged).columns
    (switchable,) = evaluate(scored).columns
    for cell, value in column.scores.items():
        assert value == pytest.approx(switchable.scores[cell], abs=1e-4)


def test_a_task_that_nothing_serves_is_refused_before_any_work(
    query_bundle: Path, tmp_path: Path, nothing_opens: None
) -> None:
    out = tmp_path / "eval"
    spec = EvaluationSpec(bundles=[query_bundle], tasks=["OfflineSTS"], out=out)
    with pytest.raises(InputError, match=r"OfflineSTS needs text-matching, which fp32"):
        evaluate(spec)
    assert not out.exists()


def test_a_stopped_run_goes_on_where_it_stopped(scored: EvaluationSpec, tmp_path: Path) -> None:
    """Nothing of the task under way is left, and none that was finished is computed again."""
    asked: list[str] = []

    def load(task: str) -> Embedder:
        asked.append(task)
        if task == "text-matching" and asked.count(task) == 1:
            raise KeyboardInterrupt
        return Embedder.load(scored.bundles[0])

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, load)
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"OfflineRetrieval.json", "model_meta.json", "run_settings.jsonl"}
    assert judged(scored, run(tmp_path, load)) == []
    assert asked == ["retrieval.query", "retrieval.passage", "text-matching", "text-matching"]


def test_a_result_is_written_whole_or_not_at_all(
    scored: EvaluationSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(result: Any, path: Path) -> None:
        path.write_text("{")
        raise OSError("the disk is full")

    monkeypatch.setattr("mteb.results.TaskResult.to_disk", half)
    with pytest.raises(OSError, match="the disk is full"):
        run(tmp_path, lambda _: Embedder.load(scored.bundles[0]), ("OfflineSTS",))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left, written = tmp_path / ".adaptrt-left", tmp_path / ".adaptrt-written"
    left.mkdir()
    written.mkdir()
    os.utime(left, (0, 0))
    open_cache(tmp_path)
    assert list(tmp_path.iterdir()) == [written]


def test_results_on_other_texts_are_not_taken_for_these(
    scored: EvaluationSpec, tmp_path: Path
) -> None:
    asked: list[str] = []

    def load(task: str) -> Embedder:
        asked.append(task)
        return Embedder.load(scored.bundles[0])

    first = run(tmp_path, load, ("OfflineSTS",))
    (path,) = tmp_path.rglob("OfflineSTS.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset_revision": "other"}))
    assert run(tmp_path, load, ("OfflineSTS",)) == first
    assert asked == ["text-matching"] * 2


def test_a_result_that_is_none_is_named(scored: EvaluationSpec, tmp_path: Path) -> None:
    def load(_: str) -> Embedder:
        return Embedder.load(scored.bundles[0])

    run(tmp_path, load, ("OfflineSTS",))
    (path,) = tmp_path.rglob("OfflineSTS.json")
    for damaged in ("{", "{}", '{"task_name": 1}'):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"OfflineSTS.json is not a result of mteb's"):
            run(tmp_path, load, ("OfflineSTS",))


def test_texts_that_are_cut_are_counted(
    scored: EvaluationSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: str) -> Embedder:
        embedder = Embedder.load(scored.bundles[0])
        embedder.tokenizer.max_tokens = 16
        return embedder

    run(tmp_path, load, ("OfflineSTS",))
    line = "OfflineSTS: 120 texts are longer than the bundle takes and were cut"
    assert [message.strip() for message in caplog.messages].count(line) == 2


def test_length_prefix_and_output_have_results_of_their_own(
    scored: EvaluationSpec, tmp_path: Path
) -> None:
    choices: tuple[dict[str, Any], ...] = (
        {},
        {"dimensions": 32},
        {"prefix": False},
        {"output": OutputType.BINARY},
        {"output": OutputType.INT8},
    )
    means = []
    for choice in choices:
        spec = EvaluationSpec(
            bundles=scored.bundles, tasks=["OfflineRetrieval"], out=tmp_path, **choice
        )
        evaluation = evaluate(spec)
        means.append(evaluation.means(evaluation.columns[0])["Retrieval"])
    assert len({path.name for path in (tmp_path / "results").iterdir()}) == len(choices)
    assert len(set(means)) == len(choices)
    assert means[-1] == pytest.approx(means[0], abs=0.02)  # 8 bits of each number are much
