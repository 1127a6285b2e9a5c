"""What texts look like, small enough to be kept: their lengths, scripts and tokens, and the chance
in them.

Each of these is a distribution that two corpora can be compared by (:mod:`calibration.fit`). How
far random halves of the same corpus are apart is measured here too, text by text: tokens of one
text are alike, so no formula for independent draws would do.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.corpus import Text
from runtimes.text.tokens import TextTokenizer

KINDS = ("length", "script", "tokens")
# Texts that are counted, evenly spread over a larger corpus; and of each of them the first tokens
# and characters, so that one long text is not most of what is counted.
_TEXTS, _TOKENS, _CHARACTERS = 2048, 512, 2048
_LONGEST = 1 << 15  # characters that are tokenised, which are some 8192 tokens
_LENGTHS = tuple(2**power for power in range(3, 14))  # classes' greatest numbers of tokens
BUCKETS = 256  # of token ids
_FREQUENT = 64  # tokens that are named
_SPLITS = 8
_CLASSES, _MOST = 4096, 2**62  # what a table may hold; Unicode 16 has 168 scripts
_OTHER = "other"  # digits, punctuation, signs

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How often each class was seen, and ``noise``: the mean divergence of random halves, 0 to 1.

    Zeros are left out of ``counts``.
    """

    counts: Mapping[str, int]
    noise: float

    def __post_init__(self) -> None:
        """Raises :class:`ValueError` for what no texts give."""
        counts = self.counts.values()
        if not 1 <= len(counts) <= _CLASSES or not all(1 <= n <= _MOST for n in counts):
            raise ValueError(f"counts of a profile are not 1 to {_CLASSES} positive numbers")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A corpus as it is compared: ``texts`` of its texts were counted, without a task's prefix.

    ``length`` has the number of texts by tokens, up to each power of two; ``script`` characters by
    the Unicode script's name; ``tokens`` by a bucket of ids, of which ``frequent`` has the most
    frequent with their shares. ``vocabulary`` is a SHA-256 of the tokenizer's tokens.
    """

    vocabulary: str
    texts: int
    length: Distribution
    script: Distribution
    tokens: Distribution
    frequent: Mapping[str, float]

    def __post_init__(self) -> None:
        """Raises :class:`ValueError` for what no texts give."""
        shares = self.frequent.values()
        if self.texts < 1 or len(shares) > _FREQUENT or not all(0 <= s <= 1 for s in shares):
            raise ValueError("texts or shares of a profile are not what texts give")

    def of(self, kind: str) -> Distribution:
        """The distribution of one of :data:`KINDS`."""
        return {"length": self.length, "script": self.script, "tokens": self.tokens}[kind]


def profile(texts: Sequence[Text], tokenizer: TextTokenizer) -> Profile:
    """Count ``texts``, at least one: 2048 of a large corpus, which takes seconds."""
    chosen = np.linspace(0, len(texts) - 1, min(_TEXTS, len(texts))).astype(int)
    beginnings = [texts[i].text[:_LONGEST] for i in chosen]
    special, *rows = tokenizer.tokenize(["", *beginnings])
    rows = [row[~np.isin(row, special)] for row in rows]
    pieces = Counter(int(token) for row in rows for token in row[:_TOKENS])
    vocabulary = tokenizer.vocabulary()
    names = {number: name for name, number in vocabulary.items()}
    return Profile(
        vocabulary=_sha256(vocabulary),
        texts=len(rows),
        length=_distribution([Counter([_length(len(row))]) for row in rows]),
        script=_distribution([scripts(text[:_CHARACTERS]) for text in beginnings]),
        tokens=_distribution([Counter(map(_bucket, row[:_TOKENS].tolist())) for row in rows]),
        frequent={
            names.get(token, str(token)): round(count / pieces.total(), 6)
            for token, count in pieces.most_common(_FREQUENT)
        },
    )


def merged_profile(parts: Sequence[Profile | None]) -> Profile | None:
    """Of the texts of all parts together; None where one is not known, or not of one vocabulary.

    Noise falls with the number of texts: of a part's variance, the square of its share is left.
    A token that is not among a part's frequent ones counts as absent there.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.vocabulary for part in known}) != 1:
        return None
    total = sum(part.texts for part in known)
    frequent: Counter[str] = Counter()
    for part in known:
        size = sum(part.tokens.counts.values())
        frequent.update({name: share * size for name, share in part.frequent.items()})
    tokens = _merged([part.tokens for part in known], known, total)
    size = sum(tokens.counts.values())
    return Profile(
        vocabulary=known[0].vocabulary,
        texts=total,
        length=_merged([part.length for part in known], known, total),
        script=_merged([part.script for part in known], known, total),
        tokens=tokens,
        frequent={n: round(share / size, 6) for n, share in frequent.most_common(_FREQUENT)},
    )


def _merged(rows: Sequence[Distribution], parts: Sequence[Profile], total: int) -> Distribution:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.counts)
    shares = [part.texts / total for part in parts]
    noise = sum(share**2 * row.noise for share, row in zip(shares, rows, strict=True))
    return Distribution(counts=dict(counts), noise=round(min(noise, 1.0), 6))


def scripts(text: str) -> Counter[str]:
    """Characters by script: the first word of a letter's name in Unicode, in compatible form.

    The standard library lacks the property Script. White space is left out.
    """
    counted: Counter[str] = Counter()
    for character, count in Counter(unicodedata.normalize("NFKC", text)).items():
        if unicodedata.category(character)[0] in "LM":  # vowel signs of Indic scripts are marks
            name = unicodedata.name(character, _OTHER).split()[0].split("-")[0]
            counted[name.lower()] += count
        elif not character.isspace():
            counted[_OTHER] += count
    return counted


def divergence(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence with logarithms of base 2: 0, the same, to 1, nothing in common.

    Lin, "Divergence measures based on the Shannon entropy" (IEEE Transactions on Information
    Theory 37(1), 1991). The counts of each side are scaled to a sum of 1.
    """
    names = sorted(first.keys() | second.keys())
    rows = np.array([[side.get(name, 0) for name in names] for side in (first, second)], float)
    return _divergence(*rows)


def _divergence(first: Doubles, second: Doubles) -> float:
    p, q = first / max(first.sum(), 1e-300), second / max(second.sum(), 1e-300)
    middle = (p + q) / 2
    total = 0.0
    for side in (p, q):
        seen = side > 0
        total += float(side[seen] @ np.log2(side[seen] / middle[seen])) / 2
    return min(max(total, 0.0), 1.0)


def _distribution(counted: Sequence[Counter[str]]) -> Distribution:
    """All texts' counts, and how far halves of the texts are apart on average."""
    names = sorted({name for one in counted for name in one}) or [_OTHER]
    columns = {name: column for column, name in enumerate(names)}
    table = np.zeros((len(counted), len(names)))
    for row, one in enumerate(counted):
        for name, count in one.items():
            table[row, columns[name]] = count
    rng, noise = np.random.default_rng(0), 1.0  # of one text nothing is known
    if len(counted) > 1:
        halves = []
        for _ in range(_SPLITS):
            order = rng.permutation(len(counted))
            middle = len(order) // 2
            first, second = (table[part].sum(0) for part in (order[:middle], order[middle:]))
            halves.append(_divergence(first, second))
        noise = float(np.mean(halves))
    sums = table.sum(0).astype(int)
    counts = {name: int(n) for name, n in zip(names, sums, strict=True) if n}
    return Distribution(counts=counts or {_OTHER: 1}, noise=round(noise, 6))


def _length(tokens: int) -> str:
    return str(next((bound for bound in _LENGTHS if tokens <= bound), _LENGTHS[-1]))


def _bucket(token: int) -> str:
    """Neighbouring ids are of like frequency; multiplying spreads them (Knuth's constant)."""
    return str((token * 2654435761 & 0xFFFFFFFF) * BUCKETS >> 32)


def _sha256(vocabulary: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()
