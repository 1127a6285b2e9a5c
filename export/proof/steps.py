"""The work of a proof, step by step: which model is opened, what is run on it, what that weighs.

One model is held at a time, so steps on the same one stand together.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from export.console.progress import bars_shown, log, stage, work_bar
from export.gate.compare import batch_inputs, batches
from export.gate.texts import ParityText
from export.proof.store import Array, Kept, Store
from export.proof.subject import Subject
from export.proof.texts import work
from runtimes.arrays import Vectors
from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, InputError, MissingError, one_line
from runtimes.executors.base import Runtime
from runtimes.manifest import Architecture
from runtimes.tensors import SENTENCE_EMBEDDING

Tick = Callable[[float], None]
Arrays = Mapping[str, Array]
_OPENING = 8e3  # FLOP a weight: opening a model of 570 million takes as long as 4.6 TFLOP
VECTORS = "vectors"
SHUFFLED = 0  # the seed of orders
PADDING = 37  # columns; no length that a graph was traced with


@dataclass(frozen=True, kw_only=True)
class Opens:
    """A model by a name, and how it is opened.

    What goes wrong with one that is ``judged`` speaks against the bundle.
    """

    name: str
    open: Callable[[], Any]
    judged: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of work on a model; its name is what its result is kept under.

    ``run`` takes the model and what to call with the work that was done.
    """

    name: str
    opens: Opens
    flops: float
    run: Callable[[Any, Tick], Arrays]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What all steps gave. ``failed`` says why a step gave nothing."""

    results: Mapping[str, Kept]
    failed: Mapping[str, str]

    def vectors(self, name: str, key: str = VECTORS) -> Vectors:
        """The vectors of a step. Raises :class:`NotComputedError` where it failed."""
        return self.arrays(name)[key]

    def arrays(self, name: str) -> Arrays:
        """Everything that a step gave."""
        if name not in self.results:
            raise NotComputedError(self.failed.get(name, f"{name} was not computed"))
        return self.results[name].arrays

    def __contains__(self, name: str) -> bool:
        return name in self.results

    @property
    def seconds(self) -> float:
        """Of all steps, whenever they ran."""
        return sum(kept.seconds for kept in self.results.values())


class NotComputedError(Exception):
    """A section asks for what could not be computed; the message says why."""


def weights(shape: Architecture) -> float:
    """About how many numbers a model holds."""
    layer = 4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate
    return float(shape.layers * layer + shape.vocab * shape.hidden)


def run_texts(
    runtime: Runtime, texts: Sequence[ParityText], subject: Subject, tick: Tick
) -> Vectors:
    """Vectors in the texts' order, computed in padded batches as the gate does."""
    vectors: Vectors | None = None
    for batch in batches(texts):
        chosen = [texts[i] for i in batch]
        rows = run_batch(runtime, chosen, subject, tick)
        if vectors is None:
            vectors = np.empty((len(texts), rows.shape[1]), np.float32)
        vectors[batch] = rows
    if vectors is None:
        raise InputError("no text to prove the bundle on")
    return vectors


def run_batch(
    runtime: Runtime, texts: Sequence[ParityText], subject: Subject, tick: Tick
) -> Vectors:
    """One call, or as many as it takes where that is more than the bundle takes at once."""
    most = subject.manifest.max_batch
    parts = []
    for start in range(0, len(texts), most):
        some = texts[start : start + most]
        inputs = batch_inputs(some, range(len(some)), subject.tokenizer)
        parts.append(runtime.run(inputs)[SENTENCE_EMBEDDING.name])
        tick(work(subject.manifest.architecture, some))
    return np.concatenate(parts)


def plain(texts: Sequence[ParityText]) -> list[ParityText]:
    """As the reference takes them, which has one task."""
    return [ParityText(text.name, text.ids, text.task) for text in texts]


def texts_step(name: str, opens: Opens, texts: Sequence[ParityText], subject: Subject) -> Step:
    """The vectors of texts."""

    def run(model: Runtime, tick: Tick) -> Arrays:
        return {VECTORS: run_texts(model, texts, subject, tick)}

    return Step(name=name, opens=opens, flops=work(subject.manifest.architecture, texts), run=run)


def execute(steps: Sequence[Step], store: Store, shape: Architecture) -> Evidence:
    """Run what is not kept yet, with one bar over everything.

    A step whose model cannot be run is noted with the reason and tried again the next time; what
    the machine lacks or the user has to change ends the proof.
    """
    results: dict[str, Kept] = {}
    failed: dict[str, str] = {}
    for step in steps:
        if (kept := store.load(step.name)) is not None:
            results[step.name] = kept
    missing = [step for step in steps if step.name not in results]
    opening = _OPENING * weights(shape)
    models = len(dict.fromkeys(step.opens.name for step in missing))
    total = sum(step.flops for step in steps) + opening * models
    done = sum(step.flops for step in steps if step.name in results)
    if done:
        log.info("  %d of %d steps were done before", len(results), len(steps))
    with work_bar(total, done, "prove") as tick:
        for name, group in _by_model(missing):
            _run_group(name, group, store, results, failed, partial(tick, opening), tick)
    return Evidence(results=results, failed=failed)


def _by_model(steps: Sequence[Step]) -> Iterator[tuple[str, list[Step]]]:
    groups: list[tuple[str, list[Step]]] = []
    for step in steps:
        if groups and groups[-1][0] == step.opens.name:
            groups[-1][1].append(step)
        else:
            groups.append((step.opens.name, [step]))
    yield from groups


def _run_group(
    name: str,
    steps: Sequence[Step],
    store: Store,
    results: dict[str, Kept],
    failed: dict[str, str],
    opened: Callable[[], None],
    tick: Tick,
) -> None:
    judged = steps[0].opens.judged
    with ExitStack() as stack:
        if not bars_shown():  # a line for each model; a bar says as much
            stack.enter_context(stage(name))
        start = time.perf_counter()
        try:
            model = stack.enter_context(steps[0].opens.open())
        except Unavailable as error:
            failed |= dict.fromkeys((step.name for step in steps), str(error))
            return
        except _REFUSALS as error:
            if not judged or isinstance(error, MissingError):
                raise
            failed |= dict.fromkeys((step.name for step in steps), _why(error))
            return
        opened()
        for step in steps:
            try:
                arrays = step.run(model, tick)
            except _REFUSALS as error:
                if not judged or isinstance(error, MissingError):
                    raise
                failed[step.name] = _why(error)
                continue
            end = time.perf_counter()
            kept = Kept(arrays=arrays, by=_name(model), seconds=end - start)
            store.save(step.name, kept)
            results[step.name] = kept
            start = time.perf_counter()
        del model
    gc.collect()


def _name(model: Any) -> str:
    """What executes; of an embedder, what it runs."""
    return str(model.runtime.name if isinstance(model, Embedder) else model.name)


class Unavailable(Exception):  # noqa: N818 - no error: a control that a checkpoint has not
    """What a group of steps is to run does not exist; the message says why."""


# An executor's refusal, or names and shapes that differ, as in verify.
_REFUSALS = (AdaptrtError, LookupError, TypeError, ValueError)


def _why(error: BaseException) -> str:
    return f"it does not run: {one_line(' '.join(str(error).split()))[:300]}"
