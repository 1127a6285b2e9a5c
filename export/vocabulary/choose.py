"""Which tokens a bundle keeps: those that texts use, and what other words of their kind need.

Beside the tokens that a corpus uses are kept: special tokens, the symbols of single bytes, digits,
punctuation and signs, every letter alone of the scripts that the corpus is written in, and of BPE
what kept tokens are merged from. How much of other texts that covers is measured as it is chosen:
each tenth of the corpus by a choice from the other nine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.corpus import Text, corpus_sha256
from calibration.profile import scripts
from export.checkpoint.encoder_config import EncoderConfig
from export.console.progress import log
from export.spec import CalibrationSpec, VocabularySpec
from export.vocabulary.pieces import Pieces
from export.vocabulary.source import Source, find_source
from runtimes.choices import Unknown
from runtimes.errors import InputError
from runtimes.manifest import Coverage, Vocabulary
from runtimes.text.tokens import TextTokenizer
from runtimes.text.vocabulary import KeptTokens, Mask

LEAST_COVERED = 0.9  # of a user's texts that took no part in the choice
FOLDS = 10
_GROUP = 1 << 18  # characters tokenised at once
_SAMPLE = 2048  # texts that are kept for later stages
_UNHASHED = "0" * 64
_LABEL, _LABELS, _OTHERS = 40, 200, "others"
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """The mask over token ids, the id of unknown text, and what the manifest says.

    ``texts`` are the first of the corpus, all of them covered.
    """

    mask: Mask
    unknown_id: int
    record: Vocabulary
    texts: tuple[Text, ...]

    @property
    def kept(self) -> KeptTokens:
        """As the tokenizer of a build knows it: nothing of that goes elsewhere."""
        return KeptTokens(self.mask, Unknown.ERROR)


@dataclass
class _Seen:
    """How often each token was used, ``[FOLDS, vocab]``, and the scripts it was written in."""

    counts: Counts
    scripts: set[str] = field(default_factory=set)
    texts: int = 0


def choose(
    calibration: CalibrationSpec,
    wanted: VocabularySpec,
    tokenizer: TextTokenizer,
    config: EncoderConfig,
    more: Mapping[str, Sequence[str]],
) -> Chosen:
    """The tokens to keep, which every bundle of a build shares.

    ``more`` are texts of the project's besides, by language. Raises :class:`InputError` for texts
    that cannot be read, languages without texts, and a choice that would refuse more than a tenth
    of the user's own texts.
    """
    source = find_source(wanted.source, calibration, more)
    prefixes = list(dict.fromkeys(["", *config.prefixes.values()]))
    seen = _count(source.texts(), tokenizer, prefixes, config.vocab)
    if not seen.texts:
        raise InputError(f"VOCABULARY: {source.name}: no text in it, expected at least one")
    pieces = Pieces.of(tokenizer.path, config.vocab, config.pad_id)
    margin = pieces.margin(seen.scripts)
    frames = tokenizer.tokenize([text for p in prefixes for text in (p, p.rstrip())])
    margin[np.concatenate(frames)] = True
    total = seen.counts.sum(axis=0)
    mask = pieces.closed(margin | (total >= wanted.min_count))
    without = [pieces.closed(margin | (total - part >= wanted.min_count)) for part in seen.counts]
    judged = _judge(source.texts(), tokenizer, prefixes, mask, without)
    log.info(
        "vocabulary: %d of %d tokens, from %d texts (%s); each tenth of them by a choice from the "
        "others: %.1f%% covered",
        mask.sum(),
        config.vocab,
        seen.texts,
        source.name,
        100 * judged.share,
    )
    _require_coverage(source, judged)
    record = Vocabulary(
        rows=int(mask.sum()),
        of=config.vocab,
        source=source.name,
        min_count=wanted.min_count,
        unknown=wanted.unknown,
        texts=seen.texts,
        coverage=judged.coverage,
        gate=Coverage(texts=0, covered=0),
        corpus_sha256=corpus_sha256(source.texts()),
        tokenizer_sha256=_UNHASHED,
    )
    return Chosen(mask, pieces.unknown_id, record, tuple(judged.kept))


@dataclass(frozen=True)
class _Judged:
    """By language, how much the choice covers; the share of the corpus that is kept whole."""

    coverage: dict[str, Coverage]
    own_share: float
    kept: list[Text]

    @property
    def share(self) -> float:
        """Of all texts that took no part in the choice."""
        texts = sum(row.texts for row in self.coverage.values())
        return sum(row.covered for row in self.coverage.values()) / texts


def _count(
    texts: Iterable[Text], tokenizer: TextTokenizer, prefixes: Sequence[str], vocab: int
) -> _Seen:
    """Of each token the most uses with any one of the instructions, or without."""
    by_prefix = np.zeros((len(prefixes), FOLDS, vocab), np.int64)
    seen = _Seen(by_prefix[0])
    for start, part in _parts(texts):
        for text in part:
            seen.scripts |= scripts(text.text).keys()
        for number, prefix in enumerate(prefixes):
            rows = tokenizer.tokenize([prefix + text.text for text in part])
            for index, ids in enumerate(rows, start):
                np.add.at(by_prefix[number, index % FOLDS], ids, 1)
        seen.texts = start + len(part)
    seen.counts = by_prefix.max(axis=0)
    return seen


def _judge(
    texts: Iterable[Text],
    tokenizer: TextTokenizer,
    prefixes: Sequence[str],
    mask: Mask,
    without: Sequence[Mask],
) -> _Judged:
    """``mask`` is the choice, ``without`` those that did not look at the fold of that number."""
    coverage: dict[str, Coverage] = {}
    covered, count = 0, 0
    kept: list[Text] = []
    for start, part in _parts(texts):
        by_prefix = [tokenizer.tokenize([p + text.text for text in part]) for p in prefixes]
        for index, (text, *rows) in enumerate(zip(part, *by_prefix, strict=True), start):
            ids = np.concatenate(rows)
            whole, count = bool(mask[ids].all()), count + 1
            covered += whole
            if whole and len(kept) < _SAMPLE:
                kept.append(text)
            language = _label(text.language, coverage)
            row = coverage.get(language, Coverage(texts=0, covered=0))
            coverage[language] = Coverage(
                texts=row.texts + 1,
                covered=row.covered + bool(without[index % FOLDS][ids].all()),
            )
    return _Judged(dict(sorted(coverage.items())), covered / count, kept)


def _label(language: str, known: Mapping[str, Coverage]) -> str:
    """What a user's file calls a language, as a manifest may hold it; many are not told apart."""
    label = language.encode("unicode_escape").decode()[:_LABEL]
    return label if label in known or len(known) < _LABELS else _OTHERS


def _parts(texts: Iterable[Text]) -> Iterator[tuple[int, list[Text]]]:
    """Neighbours that are tokenised at once, and the number of the first."""
    part: list[Text] = []
    start = size = 0
    for text in texts:
        part.append(text)
        size += len(text.text)
        if size > _GROUP:
            yield start, part
            start, part, size = start + len(part), [], 0
    if part:
        yield start, part


def _require_coverage(source: Source, judged: _Judged) -> None:
    """The project's texts are too few for their languages, which is said and not refused."""
    if judged.own_share < LEAST_COVERED:
        raise InputError(
            f"VOCABULARY: {source.name}: the tokens kept cover {judged.own_share:.1%} of its "
            f"texts, expected at least {LEAST_COVERED:.0%}; lower VOCABULARY_MIN_COUNT"
        )
    if judged.share >= LEAST_COVERED:
        return
    if not source.own:
        raise InputError(
            f"VOCABULARY: {source.name}: of its texts that took no part in the choice the tokens "
            f"kept cover {judged.share:.1%}, expected at least {LEAST_COVERED:.0%}; give more "
            "texts like those that will be embedded"
        )
    log.warning(
        "warning: VOCABULARY: the project has few texts of its own; of others in these languages "
        "about %.0f%% will have tokens that are not kept: for use, name a file of your own texts",
        100 * (1 - judged.share),
    )
