"""What is calibrated, and on which texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.corpus import Text, load_corpus
from calibration.stratify import Sample, stratify
from calibration.table import Calibration, read_calibration
from export.bundle.plan import BundlePlan
from export.checkpoint.reader import Checkpoint
from export.spec import BuildSpec, CalibrationSpec, GraphForm
from runtimes.bundle_files import CALIBRATION_FOLDER, REFUSAL_SUFFIX
from runtimes.choices import AdapterMode, HeadName, Interface
from runtimes.errors import InputError
from runtimes.files import require_file_place
from runtimes.schemes import CALIBRATED
from runtimes.text.tokens import TextTokenizer

_FURTHER = 3  # short texts for each one that was asked for


@dataclass(frozen=True)
class Subject:
    """What is calibrated: one bundle's weights."""

    spec: BuildSpec
    checkpoint: Checkpoint
    model_sha256: str
    tokenizer: TextTokenizer
    plan: BundlePlan

    @property
    def path(self) -> Path:
        """Where the result is kept, beside the bundles; each precision has a file of its own."""
        folder = self.spec.out / self.checkpoint.name / CALIBRATION_FOLDER
        precision = self.spec.precision
        mark = "" if precision is CALIBRATED[0] else f"-{precision}"
        mark += "" if self.spec.vocabulary is None else "-vocabulary"
        return folder / f"{self.task}{mark}.json"

    @property
    def refusal_path(self) -> Path:
        """Where a page says why the bundle was not published."""
        return self.path.with_name(f"{self.plan.name}{REFUSAL_SUFFIX}")

    @property
    def task(self) -> str:
        """What is calibrated, as the table names it: the encoder, whatever head its bundle has."""
        chunks = self.plan.form.head is HeadName.CHUNKS
        return self.plan.stem.removesuffix(f"-{HeadName.CHUNKS}") if chunks else self.plan.stem

    @property
    def form(self) -> GraphForm:
        """The graph that is run: one vector per text, whatever the bundle's gives."""
        return replace(self.plan.form, interface=Interface.SENTENCE, head=HeadName.SENTENCE)

    def stored(self) -> Calibration | None:
        """What is kept at ``path``; :class:`InputError` where that is no calibration.

        None where nothing is there, or where it does not matter: the user names another file.
        """
        if self.spec.calibration.table is not None:
            return None
        require_file_place(self.path)
        return read_calibration(self.path) if self.path.is_file() else None

    @property
    def task_ids(self) -> dict[str, int] | None:
        """The numbers a switchable graph takes; None where the graph has one task."""
        if self.plan.form.adapter is not AdapterMode.SWITCHABLE:
            return None
        return {task: number for number, task in enumerate(self.plan.tasks)}


def calibration_texts(
    spec: CalibrationSpec, tokenizer: TextTokenizer, prefixes: Iterable[str]
) -> list[Text]:
    """The corpus, or the user's, as far as the tokens cover it with each of ``prefixes``."""
    texts = load_corpus(spec.data, column=spec.column)
    kept = tokenizer.kept
    if kept is None:
        return texts
    for prefix in dict.fromkeys(prefixes):
        away = set(kept.uncovered(tokenizer.tokenize([prefix + text.text for text in texts])))
        texts = [text for index, text in enumerate(texts) if index not in away]
    return texts


def subject_texts(subject: Subject) -> list[Text]:
    """Of a subject's corpus what its tokens cover; :class:`InputError` where that is nothing."""
    spec = subject.spec.calibration
    texts = calibration_texts(spec, subject.tokenizer, subject.plan.prefixes.values())
    if not texts:
        raise InputError(
            "VOCABULARY: covers none of the texts that ranges are measured on; name those that it "
            "was chosen from with CALIBRATION_DATA too, and VOCABULARY=texts"
        )
    return texts


def sample_texts(subject: Subject, texts: Sequence[Text]) -> list[Sample]:
    """The corpus by task, language and length; a switchable bundle's tasks share the count.

    Three times as many short ones behind them.
    """
    spec, tasks = subject.spec, subject.plan.tasks
    share, rest = divmod(spec.calibration.texts, len(tasks))
    samples: list[Sample] = []
    for number, task in enumerate(tasks):
        samples += stratify(
            texts,
            subject.tokenizer,
            subject.plan.prefixes[task],
            spec.limits.max_tokens,
            count=share + (number < rest),
            seed=spec.calibration.seed + number,
            task=task,
            further=_FURTHER * share,
        )
    return samples
