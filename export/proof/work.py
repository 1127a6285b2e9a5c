"""Which steps a bundle's proof has: the reference, the wrong models, then each executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from export.gate.chunks import embed_chunks
from export.gate.reference import reference_model
from export.gate.texts import ParityText, task_number, verified_tasks
from export.proof.calls import call_steps
from export.proof.controls import CONTROLS, ControlModel, NoControlError
from export.proof.steps import (
    PADDING,
    SHUFFLED,
    Arrays,
    Opens,
    Step,
    Tick,
    Unavailable,
    plain,
    run_batch,
    run_texts,
    texts_step,
)
from export.proof.subject import Runner, Subject
from export.proof.texts import with_task, work
from runtimes.arrays import Vectors
from runtimes.choices import AdapterMode, Device, HeadName
from runtimes.executors.base import Runtime
from runtimes.executors.torch_reference import FlashReference, Kernel, reference_place
from runtimes.open import open_runtime

FLOOR, PADDED, WRONG_TASK, NO_TASK = "floor", "padding read as text", "wrong adapter", "no adapter"
USUAL, BF16 = "as in every section", "BF16"
_FP64 = 4.0  # times FP32's time


def all_steps(subject: Subject) -> list[Step]:
    """Everything, in an order that opens each model once."""
    return [
        *_reference(subject),
        *_floor(subject),
        *_controls(subject),
        *chain.from_iterable(_runner(subject, runner) for runner in subject.runners),
        *call_steps(subject),
        *_again(subject),
    ]


def lengths_name(source: str, tokens: int) -> str:
    """The step of the texts of one length."""
    return f"{source}/{tokens} tokens"


def languages_name(source: str, task: str) -> str:
    """The step of every language's texts, for a task."""
    return f"{source}/languages/{task}"


def chunk_texts(subject: Subject) -> list[ParityText]:
    """Texts of which chunks are pooled: short ones, and one as long as a control's."""
    long = [t for t in subject.texts.control if len(t.ids) >= 4][-1:]
    return [*(t for t in subject.texts.encoded if len(t.ids) >= 4), *long]


def mixed_texts(subject: Subject) -> list[ParityText]:
    """All tasks' texts in one list, shuffled."""
    texts = [t for own in subject.texts.languages.values() for t in own]
    order = np.random.default_rng(SHUFFLED).permutation(len(texts))
    return [texts[i] for i in order]


def _reference(subject: Subject) -> Iterator[Step]:
    texts, tasks = subject.texts, verified_tasks(subject.manifest)
    for task in tasks:
        opens = Opens(name=f"reference {task}", open=partial(_open_reference, subject, task))
        if task == texts.task:
            for tokens, own in texts.lengths.items():
                yield texts_step(lengths_name("reference", tokens), opens, plain(own), subject)
            if subject.manifest.head is HeadName.CHUNKS:
                yield _chunks("reference", opens, plain(chunk_texts(subject)), subject)
        own = texts.languages[task]
        yield texts_step(languages_name("reference", task), opens, plain(own), subject)


def _open_reference(subject: Subject, task: str) -> FlashReference:
    device, kernel = reference_place()
    return FlashReference(reference_model(subject.checkpoint, task), device=device, kernel=kernel)


def _floor(subject: Subject) -> Iterator[Step]:
    """The reference against itself: once in FP32 in other ways, then in FP64, last in BF16."""
    texts, task = plain(subject.texts.floor), subject.texts.task
    opens = Opens(name=f"reference {task}, in other ways", open=lambda: _Ways(subject, task))
    flops = work(subject.manifest.architecture, texts) * (4 + _FP64)

    def run(ways: _Ways, tick: Tick) -> Arrays:
        return dict(ways.vectors(texts, tick))

    yield Step(name=FLOOR, opens=opens, flops=flops, run=run)


class _Ways:
    """The reference, opened anew and run in several ways; it is cast on the way."""

    def __init__(self, subject: Subject, task: str) -> None:
        self._subject, (self._device, self._kernel) = subject, reference_place()
        self._model = reference_model(subject.checkpoint, task)
        self.name = self._way().name

    def __enter__(self) -> _Ways:
        return self

    def __exit__(self, *_: object) -> None:
        del self._model

    def vectors(self, texts: Sequence[ParityText], tick: Tick) -> Iterator[tuple[str, Vectors]]:
        """Each way's, the usual one first."""
        import torch

        every = partial(run_texts, texts=texts, subject=self._subject, tick=tick)
        usual = self._way()
        yield USUAL, every(usual)
        alone = [run_batch(usual, [text], self._subject, tick) for text in texts]
        yield "each text alone", np.concatenate(alone)
        if self._device is Device.CPU and (threads := torch.get_num_threads()) > 1:
            torch.set_num_threads(1)
            try:
                yield "one thread", every(usual)
            finally:
                torch.set_num_threads(threads)
        if self._kernel is not Kernel.MATH:
            yield "attention as plain products", every(self._way(kernel=Kernel.MATH))
        yield "FP64", every(self._way(dtype=torch.float64, kernel=Kernel.MATH))
        yield BF16, every(self._way(dtype=torch.bfloat16, kernel=Kernel.MATH))

    def _way(self, **ways: Any) -> FlashReference:
        return FlashReference(
            self._model, **{"device": self._device, "kernel": self._kernel, **ways}
        )


def _controls(subject: Subject) -> Iterator[Step]:
    texts = plain(subject.texts.control)
    for name, control in CONTROLS.items():
        if not control.cuts:  # those that only cut are cut from the reference's vectors
            opens = Opens(name=f"control {name}", open=partial(_open_control, subject, name))
            yield texts_step(f"control/{name}", opens, texts, subject)


def _open_control(subject: Subject, name: str) -> ControlModel:
    try:
        return ControlModel(CONTROLS[name], subject.checkpoint, subject.texts.task)
    except NoControlError as error:
        raise Unavailable(str(error)) from error


def _opens(subject: Subject, runner: Runner, more: str = "") -> Opens:
    return Opens(
        name=f"{runner.label}{more}",
        open=partial(open_runtime, subject.folder, subject.manifest, runner.executor),
        judged=True,
    )


def _runner(subject: Subject, runner: Runner) -> Iterator[Step]:
    """What every executor runs: lengths, languages, and all tasks in one batch."""
    texts, opens, label = subject.texts, _opens(subject, runner), runner.label
    for tokens, own in texts.lengths.items():
        if tokens <= runner.longest:
            yield texts_step(lengths_name(label, tokens), opens, own, subject)
    for task, own in texts.languages.items():
        yield texts_step(languages_name(label, task), opens, own, subject)
    if len(texts.languages) > 1:
        yield texts_step(f"{label}/mixed", opens, mixed_texts(subject), subject)
    if runner is subject.speaker:
        yield from _speaker(subject, opens, label)


def _speaker(subject: Subject, opens: Opens, label: str) -> Iterator[Step]:
    """What the executor that speaks for the bundle runs besides."""
    yield from _own_controls(subject, opens)
    if subject.manifest.head is HeadName.CHUNKS:
        yield _chunks(label, opens, chunk_texts(subject), subject)
    control = subject.texts.control
    yield Step(
        name="repeated",
        opens=opens,
        flops=2 * work(subject.manifest.architecture, control),
        run=lambda model, tick: {
            "first": run_texts(model, control, subject, tick),
            "second": run_texts(model, control, subject, tick),
        },
    )


def _chunks(label: str, opens: Opens, texts: Sequence[ParityText], subject: Subject) -> Step:
    weight = work(subject.manifest.architecture, texts)

    def run(model: Runtime, tick: Tick) -> Arrays:
        vectors = embed_chunks(model, texts, subject.tokenizer)
        tick(weight)
        return {"vectors": vectors}

    return Step(name=f"{label}/chunks", opens=opens, flops=weight, run=run)


def _own_controls(subject: Subject, opens: Opens) -> Iterator[Step]:
    """The bundle's own graph, asked for the wrong thing."""
    manifest, control = subject.manifest, subject.texts.control
    task = subject.texts.task
    if manifest.adapter is AdapterMode.SWITCHABLE:
        others = [t for t in manifest.tasks if t != task]
        wrong = {WRONG_TASK: others[:1], NO_TASK: ["base"]}
        for name, (other,) in ((n, o) for n, o in wrong.items() if o and o[0] != task):
            asked = with_task(control, other, task_number(manifest, other))
            yield texts_step(f"own/{name}", opens, asked, subject)
    yield Step(
        name=f"own/{PADDED}",
        opens=opens,
        flops=work(manifest.architecture, control),
        run=lambda model, tick: {"vectors": _padding_read(model, subject, tick)},
    )


def _padding_read(model: Runtime, subject: Subject, tick: Tick) -> Vectors:
    """Texts with padding behind them that the mask calls text; those as long as is allowed, not."""
    rows = []
    for text in subject.texts.control:
        count = min(PADDING, subject.manifest.max_tokens - len(text.ids))
        padding = np.full(count, subject.manifest.pad_id, np.int64)
        longer = ParityText(text.name, np.concatenate([text.ids, padding]), text.task, text.task_id)
        rows.append(run_batch(model, [longer], subject, tick))
    return np.concatenate(rows)


def _again(subject: Subject) -> Iterator[Step]:
    """The same once more, in a session that was opened anew."""
    opens = _opens(subject, subject.speaker, ", opened again")
    yield texts_step("repeated in a fresh session", opens, subject.texts.control, subject)
