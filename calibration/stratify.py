"""Chooses what is run from a corpus: every language, and every length up to the model's.

Ranges grow with the length of a text, and short texts show the special tokens more than long ones
do, so both are sampled on purpose. Long documents are texts of one language joined together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil

import numpy as np

from calibration.corpus import Text
from calibration.table import Counts
from runtimes.arrays import Ids
from runtimes.errors import InputError
from runtimes.text.tokens import TextTokenizer, shorten

# Length classes by their greatest number of tokens. Each takes half as many texts as the one
# before: attention's cost is quadratic, and long texts give more tokens each.
LENGTHS = (32, 128, 512, 2048, 8192)
_SHORT = LENGTHS[1]  # of further texts
_POOL = 4  # texts tokenised per language and text asked for; bounds the work on a large file


@dataclass(frozen=True)
class Sample:
    """One text as the encoder takes it; ``bucket`` is its length class (an upper bound)."""

    ids: Ids
    task: str
    language: str
    bucket: int


def stratify(
    texts: Sequence[Text],
    tokenizer: TextTokenizer,
    prefix: str,
    max_tokens: int,
    count: int = 256,
    seed: int = 0,
    task: str = "",
    further: int = 0,
) -> list[Sample]:
    """``count`` samples of up to ``max_tokens`` tokens, prefix and special tokens included.

    Every length class has at least one sample and every language ``count`` divided by their
    number (rounded down). A text of a class's length is taken whole; where a language has none
    left, texts are joined (from the first again after the last) and cut to a length of the class.
    ``further`` texts that were not taken whole, of up to 128 tokens, come behind them where there
    are so many: they cost little, and each can reach further than all before. Raises
    :class:`InputError` where there is no text, or ``count`` is below the number of languages or of
    length classes.
    """
    if not texts:
        raise InputError("calibration corpus: it is empty, expected at least one text")
    rng = np.random.default_rng(seed)
    empty = _encode(tokenizer, [""], prefix)[0].size
    bounds = [bound for bound in LENGTHS if empty < bound < max_tokens] + [max_tokens]
    names = sorted({text.language for text in texts})
    if count < (least := max(len(names), len(bounds))):
        raise InputError(
            f"calibration: got {count} texts, expected at least {least} for {len(names)} "
            f"languages and {len(bounds)} length classes"
        )
    pools = [
        _Pool(n, [t.text for t in texts if t.language == n], tokenizer, prefix, count, rng)
        for n in rng.permutation(names).tolist()
    ]
    turn = cycle(pools)
    samples = []
    for low, high, quota in _classes(min(empty, max_tokens - 1), bounds, count):
        for index in range(quota):
            pool = next(turn)
            # Spread evenly by ratio, as the classes are, the greatest of the class among them.
            ids = pool.document(low, high, goal=ceil(high * (low / high) ** (index / quota)))
            samples.append(Sample(ids, task, pool.language, high))
    short = min(_SHORT, max_tokens)
    for pool in pools:
        rows = pool.unused(short, further // len(pools))
        samples += [Sample(ids, task, pool.language, short) for ids in rows]
    return samples


def counts(samples: Sequence[Sample]) -> Counts:
    """How many samples there are by task, language and length class."""
    return Counts(
        task=dict(sorted(Counter(s.task for s in samples).items())),
        language=dict(sorted(Counter(s.language for s in samples).items())),
        length={str(k): n for k, n in sorted(Counter(s.bucket for s in samples).items())},
    )


def _classes(empty: int, bounds: Sequence[int], count: int) -> Iterator[tuple[int, int, int]]:
    """(greatest length of the class before, own greatest length, number of samples).

    An empty text, which has the prefix's tokens, is below the first class.
    """
    shares = [2.0**-i for i in range(len(bounds))]
    quotas = [max(1, int(count * share / sum(shares))) for share in shares]
    quotas[0] += count - sum(quotas)
    return zip([empty, *bounds[:-1]], bounds, quotas, strict=True)


class _Pool:
    """One language's texts in random order."""

    def __init__(
        self,
        language: str,
        texts: Sequence[str],
        tokenizer: TextTokenizer,
        prefix: str,
        count: int,
        rng: np.random.Generator,
    ) -> None:
        self.language, self._tokenizer, self._prefix = language, tokenizer, prefix
        self._texts = [texts[i] for i in rng.permutation(len(texts))[: _POOL * count]]
        self._rows = _encode(tokenizer, self._texts, prefix)
        self._unused = list(range(len(self._texts)))
        self._order = cycle(range(len(self._texts)))
        self._empty = _encode(tokenizer, [""], prefix)[0].size

    def document(self, low: int, high: int, goal: int) -> Ids:
        """A whole text of ``low`` < tokens ≤ ``high``, or joined ones cut to ``goal``."""
        for index in self._unused:
            if low < len(self._rows[index]) <= high:
                self._unused.remove(index)
                return self._rows[index]
        parts, size = [], self._empty
        # An estimate: tokens may merge where texts meet, hence the margin.
        while size < goal * 1.05 + 4:
            index = next(self._order)
            parts.append(self._texts[index])
            size += max(1, len(self._rows[index]) - self._empty)
        return shorten(_encode(self._tokenizer, [" ".join(parts)], self._prefix)[0], goal)

    def unused(self, most: int, count: int) -> list[Ids]:
        """Up to ``count`` of the texts that were not given whole, of up to ``most`` tokens."""
        rows = (self._rows[index] for index in self._unused)
        return [ids for ids in rows if len(ids) <= most][:count]


def _encode(tokenizer: TextTokenizer, texts: Sequence[str], prefix: str) -> list[Ids]:
    """Calibration cuts long texts on purpose, so nothing is said of it."""
    rows = tokenizer.tokenize([prefix + text for text in texts])
    return [shorten(ids, tokenizer.max_tokens) for ids in rows]
