"""A bundle that holds some of the tokens: its plan, its map, and the texts that it covers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration import looks
from calibration.corpus import Text
from export.build.inputs import BuildInputs
from export.bundle.plan import BundlePlan
from export.console.progress import log
from export.gate.quality_texts import side_of
from export.gate.texts import KEPT, LEAST_UNITS, gate_texts, look_texts
from export.quantisation.subject import calibration_texts
from export.vocabulary.choose import Chosen
from runtimes.bundle_files import TOKENIZER_FILE, VOCABULARY_FILE
from runtimes.files import sha256
from runtimes.manifest import Coverage, Manifest
from runtimes.text.vocabulary import write_mask


def with_vocabulary(plan: BundlePlan, chosen: Chosen | None) -> BundlePlan:
    """The plan of a bundle with the chosen tokens alone; None: with all."""
    if chosen is None:
        return plan
    ids = np.flatnonzero(chosen.mask)
    contents = replace(plan.contents, kept=ids, unknown_id=chosen.unknown_id)
    return replace(plan, form=replace(plan.form, kept_rows=len(ids)), contents=contents)


def write_vocabulary(folder: Path, draft: Manifest, inputs: BuildInputs, position: int) -> Manifest:
    """Write which tokens a staged bundle holds; the draft that says so.

    The tokenizer is there already; ``position`` counts the bundles of the build.
    """
    if inputs.vocabulary is None:
        return draft
    write_mask(folder / VOCABULARY_FILE, inputs.vocabulary.mask)
    whole = copy.copy(inputs.tokenizer)
    whole.kept = None
    everything, gated = (
        gate_texts(draft, tokenizer, inputs.spec.parity_tokens, position)
        for tokenizer in (whole, inputs.tokenizer)
    )
    later = range(1, len(looks.LOOKS) if draft.gate.gates_quality else 0)
    texts = len(everything) + sum(len(look_texts(draft, whole, look)) for look in later)
    covered = sum(not text.name.startswith(KEPT) for text in gated)
    record = replace(
        inputs.vocabulary.record,
        tokenizer_sha256=sha256(folder / TOKENIZER_FILE),
        gate=Coverage(texts=texts, covered=covered),
    )
    judged = any(side_of(text.name) is not None for text in gated)
    if draft.gate.gates_quality and not judged:
        log.warning(
            "warning: VOCABULARY covers fewer than %d of the gate's questions or pairs: vectors "
            "are compared, quality is not judged",
            LEAST_UNITS,
        )
    log.info("gate: %d of its %d texts are covered; rows of kept tokens besides", covered, texts)
    return replace(draft, vocabulary=record)


def covered_corpus(inputs: BuildInputs, plan: BundlePlan) -> Sequence[Text]:
    """The calibration's texts that the bundle covers; where it covers none, the vocabulary's."""
    texts = calibration_texts(inputs.spec.calibration, inputs.tokenizer, plan.prefixes.values())
    return texts if texts or inputs.vocabulary is None else inputs.vocabulary.texts
