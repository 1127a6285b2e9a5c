"""Scores by mteb, kept as its own result files: what is there already is not computed again."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mteb
from mteb.cache import ResultCache

from export.console.progress import bars_shown, log, stage
from export.evaluation.encoder import MtebEncoder
from export.evaluation.published import Cell
from export.evaluation.scores import Row
from export.evaluation.tasks import TaskMaker
from runtimes.errors import InputError, one_line

_BATCH = 256  # texts that mteb hands over at once; how they are grouped into calls is ours
_SETTINGS = "run_settings.jsonl"  # mteb adds to it
_STAGED = ".adaptrt-"
_STALE = 60.0  # seconds; a file is written in milliseconds
_NOISY = ("mteb", "datasets", "huggingface_hub", "sentence_transformers")


class WholeFilesCache(ResultCache):  # type: ignore[misc]  # mteb has no types here
    """mteb's results in a folder, each written whole: a killed run leaves no part of a file."""

    def save_to_cache(self, task_result: Any, model_name: Any, *args: Any, **more: Any) -> None:
        """Write into a folder beside, then rename file by file."""
        target = self.get_task_result_path(task_result.task_name, model_name, *args).parent
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_STAGED, dir=self.cache_path) as folder:
            staging = ResultCache(folder)
            path = staging.get_task_result_path(task_result.task_name, model_name, *args)
            if (target / _SETTINGS).is_file():
                path.parent.mkdir(parents=True)
                shutil.copy(target / _SETTINGS, path.parent)
            staging.save_to_cache(task_result, model_name, *args, **more)
            for file in path.parent.iterdir():
                file.replace(target / file.name)


def open_cache(folder: Path) -> WholeFilesCache:
    """The results in ``folder``; what a killed run left half written is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_STAGED}*"):
        if time.time() - left.stat().st_mtime > _STALE:  # else another run may be writing it
            shutil.rmtree(left)
    return WholeFilesCache(folder)


def score(
    encoder: MtebEncoder,
    label: str,
    makers: Sequence[TaskMaker],
    cache: WholeFilesCache,
) -> Mapping[Row, float]:
    """The main scores of every task, split and subset, in their order.

    ``makers`` give each task anew: what a task draws at random, it draws alike for everybody.
    """
    scores: dict[Row, float] = {}
    with _quiet():
        for number, make in enumerate(makers, 1):
            task = make()
            name = task.metadata.name
            result = _kept(task, encoder, cache)
            if result is None:
                with stage(f"{label} {number}/{len(makers)} {name}"):
                    _evaluate(task, encoder, cache)
                result = _stored(task, encoder, cache)
            else:
                log.info("  %s %d/%d %s: kept", label, number, len(makers), name)
            scores |= _main_scores(task, result)
    return scores


def _kept(task: Any, encoder: MtebEncoder, cache: WholeFilesCache) -> Any:
    """The result that is there, if it is whole and of this data; None otherwise."""
    result = _same(task, encoder, cache)
    return None if result is None or result.get_missing_evaluations(task) else result


def _same(task: Any, encoder: MtebEncoder, cache: WholeFilesCache) -> Any:
    """What is there of the same data by the same mteb."""
    result = _stored(task, encoder, cache)
    same = result is not None and (
        result.dataset_revision == task.metadata.revision and result.mteb_version == _version()
    )
    return result if same else None


def _stored(task: Any, encoder: MtebEncoder, cache: WholeFilesCache) -> Any:
    """The result file as mteb reads it; None without one."""
    name, meta = task.metadata.name, encoder.mteb_model_meta
    try:
        return cache.load_task_result(name, meta)
    except (KeyError, ValueError) as error:
        path = cache.get_task_result_path(name, meta)
        raise InputError(f"--out: {path} is not a result of mteb's; delete it") from error


def _version() -> str:
    from importlib.metadata import version

    return version("mteb")


def _evaluate(task: Any, encoder: MtebEncoder, cache: WholeFilesCache) -> None:
    strategy = "always" if _same(task, encoder, cache) is None else "only-missing"
    _load(task)
    mteb.evaluate(
        encoder,
        task,
        cache=cache,
        overwrite_strategy=strategy,
        encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
        show_progress_bar=False,
        co2_tracker=False,
    )


def _load(task: Any) -> None:
    """The data, from datasets' cache or the hub."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        task.load_data()
    except (OSError, RuntimeError, ValueError, HTTPError, HfHubHTTPError) as error:
        raise InputError(
            f"--tasks: the data of {task.metadata.name} cannot be had "
            f"({one_line(str(error))[:200]}); check the network, or take --preset fast, which "
            "downloads nothing"
        ) from error


def _main_scores(task: Any, result: Any) -> Iterator[tuple[Row, float]]:
    metadata = task.metadata
    for split in task.eval_splits:
        for entry in result.scores[split]:
            if entry["hf_subset"] in task.hf_subsets:
                row = Row(
                    cell=Cell(task=metadata.name, split=split, subset=entry["hf_subset"]),
                    task_type=metadata.type,
                    metric=metadata.main_score,
                    dataset_revision=result.dataset_revision,
                )
                yield row, float(entry["main_score"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither bars nor words of mteb and its libraries."""
    import datasets
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    levels = {name: logging.getLogger(name).level for name in _NOISY}
    bars = datasets.are_progress_bars_disabled(), are_progress_bars_disabled()
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    if not bars_shown():  # a download is worth a bar
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if not bars[0]:
            datasets.enable_progress_bars()
        if not bars[1]:
            enable_progress_bars()
