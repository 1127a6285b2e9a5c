"""Calibration of one bundle: texts → ranges, smoothing and sensitivity of every GEMM.

The FP32 model is written once into a temporary folder. ONNX Runtime streams the corpus through
its CPU graph, which takes memory linear in a text's length; the traced module, mapped from the
same weights, then tries single GEMMs quantised on a few short texts. Where weights alone are
quantised, that is all: nothing is streamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibration.collect import Activation, collect
from calibration.corpus import Text, corpus_sha256, load_corpus
from calibration.observers import HEADROOM, OBSERVERS, Histogram
from calibration.profile import profile
from calibration.quantise import Matrix, stored_scale
from calibration.rounding import rounded_weight
from calibration.smoothing import choose_alpha
from calibration.stratify import Sample, counts
from calibration.table import (
    UNOBSERVED,
    Calibration,
    Corpus,
    Range,
    Trial,
    read_calibration,
    storage_setting,
    write_calibration,
)
from export.console.progress import bars_shown, log, progress_bar, stage
from export.gate.compare import row_cosines
from export.graph.encoder import Encoder
from export.graph.gemms import gemm_modules, gemm_nodes
from export.graph.precision_plan import GemmRange
from export.graph.trace import PortableGraph
from export.lowering.pipelines import lower
from export.quantisation.compare import check_fit
from export.quantisation.fp32_model import open_fp32, short_batch, write_fp32
from export.quantisation.sensitivity import TrialEncoder
from export.quantisation.subject import Subject, sample_texts, subject_texts
from export.spec import BuildSpec
from runtimes.choices import GraphKind, Observer
from runtimes.errors import InputError, shown
from runtimes.temporary import temporary_folder

_GRAPH = "model.onnx"
# Short texts for trying single GEMMs: one run each, 96 runs at the real model's depth.
_TRIAL_TEXTS, _TRIAL_TOKENS, _TRIAL_ROWS = 8, 48, 512


def calibration_of(subject: Subject) -> tuple[Calibration, bool]:
    """The calibration at ``subject.path`` where model, task, corpus and settings are its own.

    Otherwise a new one, written there; the second value says whether it was reused. A table that
    the user names is used whatever its settings and texts, with a warning where those differ from
    texts that are named too; raises :class:`InputError` where it belongs to another model or task.
    """
    texts = subject_texts(subject)
    if subject.spec.calibration.table is not None:
        return _named_table(subject, subject.spec.calibration.table, texts), True
    samples = sample_texts(subject, texts)
    header = _header(subject, texts, samples)
    stored = subject.stored()
    if stored is not None and stored.key == header.key:
        if stored.profile is None:  # a table of before profiles
            stored = replace(stored, profile=header.profile)
            write_calibration(subject.path, stored)
        return stored, True
    calibration = replace(header, tensors=measure(subject, samples))
    write_calibration(subject.path, calibration)
    return calibration, False


def _named_table(subject: Subject, path: Path, texts: Sequence[Text]) -> Calibration:
    table = read_calibration(path)
    require_own(subject, table, f"CALIBRATION: {path}")
    other = table.corpus.sha256 != corpus_sha256(texts)
    if other and subject.spec.calibration.data is not None:
        check_fit(path, table, texts, subject.tokenizer)
    return table


def require_own(subject: Subject, table: Calibration, place: str) -> None:
    """Raise :class:`InputError`, which begins with ``place``, unless the ranges are the subject's.

    They are where model, task, stored type and GEMMs are.
    """
    for what, got, expected in (
        ("model", table.model_sha256, subject.model_sha256),
        ("task", table.task, subject.task),
        ("type", table.storage.name, subject.spec.scheme.operands.name),
        ("block", table.settings.get("block"), subject.spec.block),
    ):
        if got != expected:
            raise InputError(f"{place}: its {what} is {shown(got)}, expected {expected!r}")
    channels = {name: m.rows for name, m in gemm_modules(subject.checkpoint.config).items()}
    own = {
        name: len(entry.channel_max) if isinstance(entry, Range) else channels.get(name)
        for name, entry in table.tensors.items()
    }
    if own != channels:
        raise InputError(f"{place}: its GEMMs are not the model's; calibrate again")


def _header(subject: Subject, texts: Sequence[Text], samples: Sequence[Sample]) -> Calibration:
    """The calibration without its tensors, which is what its key is made of."""
    spec, storage = subject.spec, subject.spec.scheme.operands
    return Calibration(
        model_sha256=subject.model_sha256,
        task=subject.task,
        corpus=Corpus(sha256=corpus_sha256(texts), counts=counts(samples)),
        settings={
            "observer": UNOBSERVED if storage.weight_only else spec.calibration.observer.value,
            "headroom": HEADROOM if spec.calibration.observer is Observer.MIN_MAX else 1.0,
            "texts": spec.calibration.texts,
            "max_tokens": spec.limits.max_tokens,
            "seed": spec.calibration.seed,
            "prefixes": json.dumps(dict(subject.plan.prefixes), sort_keys=True),
            **storage_setting(storage),
            **_left_out(subject, texts),
        },
        tensors={},
        profile=profile(texts, subject.tokenizer),
    )


def _left_out(subject: Subject, texts: Sequence[Text]) -> dict[str, int]:
    """How many of the corpus' texts have tokens that the bundle does not hold."""
    if subject.tokenizer.kept is None:
        return {}
    named = subject.spec.calibration
    count = len(load_corpus(named.data, column=named.column)) - len(texts)
    log.info("calibration: on the %d covered texts, %d left out", len(texts), count)
    return {"uncovered_texts": count}


def measure(
    subject: Subject,
    samples: Sequence[Sample],
    activations: Mapping[str, Activation] | None = None,
) -> Mapping[str, Trial]:
    """What is known of every GEMM; ``activations`` that are known already are not collected."""
    with temporary_folder("adaptrt-calibration-") as folder:
        with stage("calibration: FP32 graph"):
            graph = write_fp32(subject, folder)
            encoder, reads = open_fp32(subject, folder, graph), _write_cpu_graph(graph, folder)
        if subject.spec.scheme.weight_only:
            with stage("calibration: sensitivity"):
                trial = _trial_encoder(subject, encoder, samples)
                names = progress_bar(reads, "sensitivity", "GEMM")
                return {name: _trial(name, trial) for name in names}
        if activations is None:
            ids = subject.task_ids
            with stage("calibration: ranges"):
                activations = collect(
                    folder / _GRAPH, reads, samples, progress=bars_shown(), task_ids=ids
                )
        with stage("calibration: sensitivity"):
            trial = _trial_encoder(subject, encoder, samples)
            bar = progress_bar(activations.items(), "sensitivity", "GEMM")
            return {name: _range(subject.spec, name, seen, trial) for name, seen in bar}


def _write_cpu_graph(graph: PortableGraph, folder: Path) -> dict[str, str]:
    """What ONNX Runtime is to run; the name of the tensor that every GEMM reads."""
    gemms = gemm_nodes(graph.model())  # the passes keep tensors' names, not every product
    reads = {name: str(n.inputs[0].name) for name, n in gemms.items() if n.inputs[0] is not None}
    model = lower(graph.model(), GraphKind.ONNXRUNTIME)
    (folder / _GRAPH).write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    return reads


def _trial_encoder(subject: Subject, encoder: Encoder, samples: Sequence[Sample]) -> TrialEncoder:
    batch = short_batch(subject, samples, _TRIAL_TEXTS, _TRIAL_TOKENS)
    return TrialEncoder(encoder, batch.tokens, subject.spec.scheme.operands, batch.task_ids)


def _trial(name: str, trial: TrialEncoder) -> Trial:
    """What it costs to quantise the weight of one GEMM alone."""
    rows, weight = trial.rows(name, _TRIAL_ROWS), trial.weight(name)
    exact = rows @ weight
    error = rows @ rounded_weight(weight, "float32", trial.storage) - exact
    return Trial(
        output_error=float(np.linalg.norm(error) / (np.linalg.norm(exact) or 1.0)),
        cosine=float(row_cosines(trial.exact, trial.vectors({name: None})).mean()),
    )


def _range(spec: BuildSpec, name: str, seen: Activation, trial: TrialEncoder) -> Range:
    """One GEMM's range, its best alpha, and what it costs to quantise it alone."""
    observer, storage = spec.calibration.observer, spec.scheme.operands
    observe, weight = OBSERVERS[observer], trial.weight(name)
    plain = observe(seen.histogram, storage)

    rows = trial.rows(name, _TRIAL_ROWS)

    def amplitude(factors: Matrix) -> float:
        """Of the smoothed input: its channels' exact maxima, and rows for the histogram's body."""
        if (factors == 1).all():
            return plain
        smoothed = Histogram()
        smoothed.add(rows * factors)
        smoothed.add(seen.channel_max * factors)
        return observe(smoothed, storage)

    best = choose_alpha(rows, weight, seen.channel_max, amplitude, storage)
    entry = GemmRange(best.amplitude, seen.channel_max, best.alpha)
    cosine = float(row_cosines(trial.exact, trial.vectors({name: entry})).mean())
    return Range(
        observer=observer.value,
        amplitude=best.amplitude,
        scale=float(stored_scale(best.amplitude, "float32", storage)),
        histogram_digest=seen.histogram.digest(),
        channel_max=seen.channel_max.tolist(),
        alpha=best.alpha,
        output_error=best.error,
        cosine=cosine,
    )
