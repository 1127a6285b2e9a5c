"""The gate's texts: which ones a bundle's graphs are compared on, tokenised.

The gate and ``verify`` both ask :func:`gate_texts`, so they cannot compare different texts.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration import looks
from calibration.corpus import GRADED, QUESTIONS, held_back
from calibration.corpus import TEXTS as HELD_OUT
from export.gate.quality_texts import quality_texts, set_of
from runtimes.arrays import Ids
from runtimes.choices import BASE_TASK, AdapterMode
from runtimes.manifest import Manifest
from runtimes.schemes import SCHEMES, Scheme
from runtimes.text.tokens import TextTokenizer

TEXTS = Path(__file__).parent / "data" / "parity.jsonl"
# Texts are joined to documents of at least so many tokens; none is a length that was traced.
DOCUMENT_TOKENS = (600, 2000, 4000, 8000)
DOCUMENT = "document"  # what their names begin with
KEPT, KEPT_ROWS = "kept", (16, 64, 256)  # rows of tokens that a bundle with some of them holds
# Questions, and pairs, that a bundle of few tokens covers at least where quality is judged by them.
LEAST_UNITS = 48
THINNING = 3  # further tasks take every third text


@dataclass(frozen=True)
class ParityText:
    """One text of the gate, tokenised. ``task_id`` is what a switchable graph takes."""

    name: str
    ids: Ids
    task: str = ""
    task_id: int | None = None


def texts_sha256(scheme: Scheme) -> str:
    """Identifies the files that a scheme's texts come from."""
    files = (TEXTS, HELD_OUT, QUESTIONS, GRADED) if scheme.gates_quality else (TEXTS,)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def verified_tasks(manifest: Manifest) -> tuple[str, ...]:
    """Every task the gate compares: the base model too where the graph can give it."""
    switchable = manifest.adapter is AdapterMode.SWITCHABLE
    return (*manifest.tasks, BASE_TASK) if switchable else manifest.tasks


def gate_texts(
    manifest: Manifest, tokenizer: TextTokenizer, longest: int, position: int = 0
) -> list[ParityText]:
    """The texts on which a bundle is compared with the reference at first, task by task.

    The parity texts, joined to documents of up to about ``longest`` tokens; where the scheme gates
    quality, held-out texts and those of the first look too. The first task of a build has all of
    the former two, each further one a third (:func:`thin`); ``position`` counts the bundles of
    the build.
    """
    gates_quality = SCHEMES[manifest.precision].gates_quality
    texts: list[ParityText] = []
    for index, task in enumerate(verified_tasks(manifest), position):
        prefix = manifest.prefixes[task]
        groups = [parity_texts(tokenizer, prefix, longest)]
        if gates_quality:
            groups.append(held_out_texts(tokenizer, prefix))
        if index > 0:
            groups = [thin(group, index) for group in groups]
        task_id = task_number(manifest, task)
        texts += [replace(t, task=task, task_id=task_id) for group in groups for t in group]
    return texts + (look_texts(manifest, tokenizer, 0) if gates_quality else [])


def look_texts(manifest: Manifest, tokenizer: TextTokenizer, look: int) -> list[ParityText]:
    """What a look, counted from 0, adds to the texts that quality is judged by, task by task.

    Where the bundle does not hold every token, the first look is at all questions and pairs of
    which it covers every side, which are few; of fewer than ``LEAST_UNITS``, from which nothing
    follows, at none.
    """
    if tokenizer.kept is not None:
        return _covered_sets(manifest, tokenizer) if look == 0 else []
    texts: list[ParityText] = []
    for task in verified_tasks(manifest):
        texts += _of_task(manifest, tokenizer, task, quality_texts(task, manifest.tasks, look))
    return texts


def _covered_sets(manifest: Manifest, tokenizer: TextTokenizer) -> list[ParityText]:
    texts: list[ParityText] = []
    sides: Counter[tuple[bool, int]] = Counter()
    for task in verified_tasks(manifest):
        named = [
            pair
            for look in range(len(looks.LOOKS))
            for pair in quality_texts(task, manifest.tasks, look)
        ]
        sides.update(set_of(name) for name, _ in named)
        texts += _of_task(manifest, tokenizer, task, named)
    held = Counter(set_of(text.name) for text in texts)
    whole = {unit for unit, count in held.items() if count == sides[unit]}
    fewest = min(sum(graded is kind for graded, _ in whole) for kind in (False, True))
    least = min(LEAST_UNITS, *looks.LOOKS[-1])
    return [text for text in texts if set_of(text.name) in whole] if fewest >= least else []


def _of_task(
    manifest: Manifest, tokenizer: TextTokenizer, task: str, named: Sequence[tuple[str, str]]
) -> list[ParityText]:
    tokenised = _tokenised(tokenizer, manifest.prefixes[task], named)
    task_id = task_number(manifest, task)
    return [replace(text, task=task, task_id=task_id) for text in tokenised]


def task_number(manifest: Manifest, task: str) -> int | None:
    """What the graph takes for a task: -1 for the base model, None where it takes nothing."""
    if manifest.adapter is not AdapterMode.SWITCHABLE:
        return None
    return -1 if task == BASE_TASK else manifest.tasks.index(task)


def parity_texts(
    tokenizer: TextTokenizer, prefix: str, longest: int, file: Path = TEXTS
) -> list[ParityText]:
    """Short texts, paragraphs and documents up to about ``longest`` tokens, in a fixed order.

    Where the bundle does not hold every token, those of them that it covers, and rows of tokens
    that it holds.
    """
    named = [(f"{i:02d}-{ln['language']}", ln["text"]) for i, ln in enumerate(parity_lines(file))]
    short = _tokenised(tokenizer, prefix, named)
    if tokenizer.kept is not None:
        names = {text.name for text in short}
        named = [pair for pair in named if pair[0] in names]
    sizes = [len(ids) for ids in _encode_within(tokenizer, [text for _, text in named], "")]
    documents = [
        (f"{DOCUMENT}-{goal}", _join([text for _, text in named], sizes, goal))
        for goal in DOCUMENT_TOKENS
        if named and goal <= min(longest, tokenizer.max_tokens)
    ]
    return short + _tokenised(tokenizer, prefix, documents) + _kept_rows(tokenizer, prefix, longest)


def parity_lines(file: Path = TEXTS) -> list[dict[str, str]]:
    """The texts of :func:`parity_texts`, each with its ``language`` and ``text``."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _kept_rows(tokenizer: TextTokenizer, prefix: str, longest: int) -> list[ParityText]:
    """Tokens that the bundle holds, drawn at random: the first and last rows of its table too.

    They are compared whatever texts it covers; a row that a wrong place was noted of would show.
    """
    if tokenizer.kept is None:
        return []
    frame = _encode_within(tokenizer, [prefix.rstrip() or "a"], "")[0]
    head = frame[:-1] if prefix.strip() else frame[:1]
    ids = np.flatnonzero(tokenizer.kept.mask)
    rng = np.random.default_rng(0)
    rows = []
    for count in KEPT_ROWS:
        most = min(count, longest, tokenizer.max_tokens - len(head) - 1)
        drawn = rng.choice(ids, max(most, 2))
        drawn[0], drawn[-1] = ids[0], ids[-1]
        row = np.concatenate([head, drawn, frame[-1:]]).astype(np.int64)
        rows.append(ParityText(f"{KEPT}-{count}", row))
    return rows


def held_out_texts(tokenizer: TextTokenizer, prefix: str) -> list[ParityText]:
    """The texts that no calibration sees, in a fixed order."""
    named = [(f"held-{i:03d}-{text.language}", text.text) for i, text in enumerate(held_back())]
    return _tokenised(tokenizer, prefix, named)


def thin(texts: Sequence[ParityText], index: int) -> list[ParityText]:
    """Every third text, from ``index`` on, and the shortest document.

    For the further tasks of one build: their graphs are the first one's byte for byte, only the
    weights differ, and a wrong weight shows in any text. Neighbouring tasks get other texts.
    """
    short = [t for t in texts if not t.name.startswith(DOCUMENT)]
    documents = [t for t in texts if t.name.startswith(DOCUMENT)]
    return short[index % THINNING :: THINNING] + documents[:1]


def _tokenised(
    tokenizer: TextTokenizer, prefix: str, named: Sequence[tuple[str, str]]
) -> list[ParityText]:
    """(name, text) pairs as the gate's texts, cut to what the bundle takes, if it covers them."""
    rows = _encode_within(tokenizer, [text for _, text in named], prefix)
    away = set(tokenizer.kept.uncovered(rows)) if tokenizer.kept is not None else set()
    return [
        ParityText(name, ids)
        for index, ((name, _), ids) in enumerate(zip(named, rows, strict=True))
        if index not in away
    ]


def _encode_within(tokenizer: TextTokenizer, texts: Sequence[str], prefix: str) -> list[Ids]:
    """A bundle for few tokens truncates the gate's texts too, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer.encode(texts, prefix)


def _join(texts: Sequence[str], sizes: Sequence[int], goal: int) -> str:
    """The texts one after the other, over and over, until they have ``goal`` tokens."""
    chosen: list[str] = []
    total = 0
    while total < goal + 2 * len(chosen):  # each text's size counts two special tokens
        index = len(chosen) % len(texts)
        chosen.append(texts[index])
        total += sizes[index]
    return " ".join(chosen)
