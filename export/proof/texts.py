"""The texts of a proof: exact lengths, every language, and those that controls are judged on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.gate.texts import ParityText, parity_lines, task_number, verified_tasks
from runtimes.arrays import Ids
from runtimes.choices import BASE_TASK
from runtimes.manifest import Architecture, Manifest
from runtimes.text.tokens import TextTokenizer, shorten

# How many texts of so many tokens; fewer of the long ones, whose attention grows with the square.
COUNTS: Mapping[int, int] = {
    2: 1,  # the two special tokens
    8: 24,
    32: 24,
    128: 12,
    512: 6,
    1024: 3,
    2048: 2,
    4096: 1,
    6144: 1,
    8192: 1,
}
_THIRD = 3  # each task but the first takes every third text of the languages
_CONTROL_TOKENS, _CONTROL_TEXTS = 512, 4  # of the three longest lengths up to this
_FLOOR_TOKENS = 1024
_ENCODED = 8
LEAST_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class ProofTexts:
    """Texts by what they are for; ``task`` is that of all but ``languages``, which are by task.

    ``sources`` are the first task's texts of the languages by name, as an embedder takes them, but
    for those that were cut.
    """

    task: str
    lengths: Mapping[int, tuple[ParityText, ...]]
    languages: Mapping[str, tuple[ParityText, ...]]
    sources: Mapping[str, str]

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(self.lengths)

    @property
    def control(self) -> tuple[ParityText, ...]:
        """What wrong models are run on: long enough for positions to show."""
        fitting = [n for n in self.lengths if n <= _CONTROL_TOKENS][-3:]
        return tuple(t for n in fitting for t in self.lengths[n][:_CONTROL_TEXTS])

    @property
    def floor(self) -> tuple[ParityText, ...]:
        """What the reference is compared with itself on: two of a length, where there are two."""
        return tuple(
            t for n, texts in self.lengths.items() if n <= _FLOOR_TOKENS for t in texts[:2]
        )

    @property
    def encoded(self) -> tuple[ParityText, ...]:
        """The short texts of the first task that an embedder gets in every length and type."""
        known = [t for t in self.languages[self.task] if t.name in self.sources]
        return tuple(sorted(known, key=lambda text: len(text.ids))[:_ENCODED])


def language_of(text: ParityText) -> str:
    """What a name ends with."""
    return text.name.rpartition("-")[2]


def proof_texts(manifest: Manifest, tokenizer: TextTokenizer, most: int) -> ProofTexts:
    """Texts of at most ``most`` tokens; of a bundle of few tokens those that it covers.

    Where it covers none, rows of tokens that it holds, drawn at random.
    """
    tasks = verified_tasks(manifest)
    first = _first(manifest, tasks)
    lines = parity_lines()
    named = [(f"{i:02d}-{line['language']}", line["text"]) for i, line in enumerate(lines)]
    languages = {}
    for task in tasks:
        chosen = named if task == first else named[::_THIRD]
        languages[task] = _tokenised(manifest, tokenizer, task, chosen, most)
    covered = {text.name for text in languages[first]}
    kept = [pair for pair in named if pair[0] in covered]
    if not kept:
        languages = {task: _random(manifest, tokenizer, task, min(most, 64), 4) for task in tasks}
    long = {text.name for text in languages[first] if len(text.ids) >= most}
    sizes = sorted({n for n in COUNTS if n <= most} | {most})
    return ProofTexts(
        task=first,
        lengths={n: _of_length(manifest, tokenizer, first, kept, n) for n in sizes},
        languages=languages,
        sources={name: text for name, text in kept if name not in long},
    )


def _first(manifest: Manifest, tasks: Sequence[str]) -> str:
    """A task without an instruction, where there is one: short texts are all instruction else."""
    plain = (task for task in tasks if task != BASE_TASK and not manifest.prefixes[task])
    return next(plain, tasks[0])


def flops(shape: Architecture, tokens: int) -> float:
    """Of the layers' products for one text: what work is weighed by."""
    h, f, n = shape.hidden, shape.intermediate, tokens
    return shape.layers * (2.0 * n * (4 * h * h + 2 * h * f) + 4.0 * n * n * h)


def work(shape: Architecture, texts: Sequence[ParityText]) -> float:
    """That of several texts."""
    return sum(flops(shape, len(text.ids)) for text in texts)


def _tokenised(
    manifest: Manifest,
    tokenizer: TextTokenizer,
    task: str,
    named: Sequence[tuple[str, str]],
    most: int,
) -> tuple[ParityText, ...]:
    rows = _encode(tokenizer, [text for _, text in named], manifest.prefixes[task])
    away = set(tokenizer.kept.uncovered(rows)) if tokenizer.kept is not None else set()
    number = task_number(manifest, task)
    return tuple(
        ParityText(name, shorten(ids, most), task, number)
        for index, ((name, _), ids) in enumerate(zip(named, rows, strict=True))
        if index not in away
    )


def _of_length(
    manifest: Manifest,
    tokenizer: TextTokenizer,
    task: str,
    named: Sequence[tuple[str, str]],
    tokens: int,
) -> tuple[ParityText, ...]:
    """Texts of exactly so many tokens, each beginning with another of the languages' texts."""
    count = next((c for n, c in COUNTS.items() if n >= tokens), 1)
    step = max(1, len(named) // count)
    joined = []
    for start in range(0, min(len(named), count * step), step):
        turned = [*named[start:], *named[:start]]
        name = f"{tokens}-tokens-{turned[0][0]}"
        joined.append((name, _long_enough([text for _, text in turned], tokens)))
    texts = _tokenised(manifest, tokenizer, task, joined, tokens)
    # Behind an instruction, texts that are short enough are all the same.
    exact = {t.ids.tobytes(): t for t in reversed(texts) if len(t.ids) == tokens}
    return tuple(exact.values())[::-1][:count] or _random(
        manifest, tokenizer, task, tokens, min(count, 4)
    )


def _long_enough(texts: Sequence[str], tokens: int) -> str:
    """Joined over and over until there are more characters than so many tokens can have."""
    chosen: list[str] = []
    size = 0
    while size < 8 * tokens + 200:
        text = texts[len(chosen) % len(texts)]
        chosen.append(text)
        size += len(text) + 1
    return " ".join(chosen)


def _random(
    manifest: Manifest, tokenizer: TextTokenizer, task: str, tokens: int, count: int
) -> tuple[ParityText, ...]:
    frame = _encode(tokenizer, ["a"], "")[0]
    kept = tokenizer.kept
    ids = np.flatnonzero(kept.mask) if kept is not None else np.arange(tokenizer.vocab)
    rng = np.random.default_rng(tokens)
    rows = [
        np.concatenate([frame[:1], rng.choice(ids, tokens - 2), frame[-1:]]).astype(np.int64)
        for _ in range(count)
    ]
    number = task_number(manifest, task)
    return tuple(
        ParityText(f"{tokens}-tokens-{i:02d}-drawn", row, task, number)
        for i, row in enumerate(rows)
    )


def _encode(tokenizer: TextTokenizer, texts: Sequence[str], prefix: str) -> list[Ids]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are cut to a length on purpose
        return tokenizer.encode(texts, prefix)


def with_task(texts: Sequence[ParityText], task: str, number: int | None) -> tuple[ParityText, ...]:
    """The same tokens for another task."""
    return tuple(replace(text, task=task, task_id=number) for text in texts)
