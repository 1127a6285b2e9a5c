"""Steps through the embedder, and in calls of every kind, by what speaks for the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from export.gate.texts import ParityText
from export.proof.steps import PADDING, SHUFFLED, Arrays, Opens, Step, Tick, run_batch
from export.proof.subject import Runner, Subject
from export.proof.texts import work
from runtimes.arrays import Vectors
from runtimes.choices import OutputType
from runtimes.embedder import Embedder
from runtimes.errors import InputError
from runtimes.executors.base import Runtime
from runtimes.open import open_runtime
from runtimes.outputs import converter
from runtimes.tensors import SENTENCE_EMBEDDING


def company(subject: Subject) -> tuple[ParityText, ...]:
    """The texts that get neighbours."""
    lengths = [n for n in subject.texts.lengths if n <= 128]
    return tuple(subject.texts.lengths[n][0] for n in lengths[-3:])


def call_steps(subject: Subject) -> Iterator[Step]:
    """Through the embedder, and in calls of every kind, by what speaks for the bundle."""
    runner = subject.speaker
    opens = Opens(
        name=f"{runner.label}, as an embedder",
        open=lambda: open_embedder(subject, runner),
        judged=True,
    )
    shape, texts = subject.manifest.architecture, subject.texts
    guests = company(subject)
    widest = work(shape, texts.control) + 6 * work(shape, guests)
    yield Step(
        name="neighbours",
        opens=opens,
        flops=widest,
        run=lambda model, tick: _neighbours(model, subject, tick),
    )
    if not texts.sources:
        return
    own = [t for t in texts.languages[texts.task] if t.name in texts.sources]
    yield Step(
        name="orders",
        opens=opens,
        flops=3 * work(shape, own),
        run=lambda model, tick: _orders(model, own, subject, tick),
    )
    kinds = len(subject.manifest.dimensions) * len(OutputType)
    yield Step(
        name="outputs",
        opens=opens,
        flops=kinds * work(shape, texts.encoded),
        run=lambda model, tick: _outputs(model, subject, tick),
    )


def open_embedder(subject: Subject, runner: Runner) -> Embedder:
    """As a program would have it, around this executor."""
    runtime = open_runtime(subject.folder, subject.manifest, runner.executor)
    return Embedder(subject.manifest, subject.tokenizer, runtime, subject.folder)


def _neighbours(model: Embedder, subject: Subject, tick: Tick) -> Arrays:
    """Each text alone, then in company; of a call only its own vector counts."""
    runtime, guests = model.runtime, company(subject)
    short, long = subject.texts.control[0], subject.texts.control[-1]
    lowest = min(subject.texts.lengths)
    two = subject.texts.lengths[lowest][0]
    calls: dict[str, list[list[ParityText]]] = {
        "alone": [[text] for text in guests],
        "beside the shortest": [[text, two] for text in guests],
        "beside a short one": [[text, short] for text in guests],
        "beside a long one": [[text, long] for text in guests],
        "behind a long one": [[long, text] for text in guests],
        "among eight": [[*([short] * 3), text, *([long] * 4)] for text in guests[:1]],
    }
    found: dict[str, Vectors] = {}
    for name, groups in calls.items():
        rows = []
        for guest, group in zip(guests, groups, strict=False):
            if len(group) <= subject.manifest.max_batch:
                at = next(i for i, text in enumerate(group) if text is guest)
                rows.append(run_batch(runtime, group, subject, tick)[at])
        if rows:
            found[name] = np.stack(rows)
    found["padded"] = np.stack([_padded(runtime, text, subject) for text in guests])
    return found


def _padded(runtime: Runtime, text: ParityText, subject: Subject) -> Vectors:
    count = min(PADDING, subject.manifest.max_tokens - len(text.ids))
    inputs = {
        "input_ids": np.concatenate([text.ids, np.full(count, subject.manifest.pad_id)])[None],
        "attention_mask": np.array([[1] * len(text.ids) + [0] * count]),
    }
    if text.task_id is not None:
        inputs["task_id"] = np.array([text.task_id])
    typed = {name: array.astype(np.int64) for name, array in inputs.items()}
    row: Vectors = runtime.run(typed)[SENTENCE_EMBEDDING.name][0]
    return row


def order_of(name: str, count: int) -> list[int]:
    """Which text stands where in an order."""
    orders: Mapping[str, list[int]] = {
        "as given": list(range(count)),
        "reversed": list(range(count))[::-1],
        "shuffled": [int(i) for i in np.random.default_rng(SHUFFLED).permutation(count)],
    }
    return orders[name]


def _orders(model: Embedder, texts: Sequence[ParityText], subject: Subject, tick: Tick) -> Arrays:
    found = {}
    for name in ("as given", "reversed", "shuffled"):
        order = order_of(name, len(texts))
        listed = [subject.texts.sources[texts[i].name] for i in order]
        vectors = model.encode(listed, task=subject.texts.task)
        found[name] = np.empty_like(vectors)
        found[name][order] = vectors
        tick(work(subject.manifest.architecture, texts))
    return found


def _outputs(model: Embedder, subject: Subject, tick: Tick) -> Arrays:
    """Every length in every type that the bundle has."""
    texts = subject.texts.encoded
    listed = [subject.texts.sources[text.name] for text in texts]
    found = {}
    for width in subject.manifest.dimensions:
        for kind in OutputType:
            if output_missing(subject, width, kind) is None:
                found[f"{width} {kind}"] = model.encode(
                    listed, task=subject.texts.task, dimensions=width, output=kind
                )
            tick(work(subject.manifest.architecture, texts))
    return found


def output_missing(subject: Subject, width: int, kind: OutputType) -> str | None:
    """Why a bundle has no such vectors; None where it has."""
    try:
        converter(kind, width, [subject.texts.task], subject.manifest.output_ranges)
    except InputError as error:
        return str(error)
    return None
