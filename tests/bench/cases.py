"""What is timed: texts of exact token counts, and a corpus of mixed lengths.

Workers read the texts from a file: some run where this project's dependencies are not installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from runtimes.text.tokens import TextTokenizer

LENGTHS = (128, 512, 2048, 8192)
CASES = ("1x128", "1x512", "1x2048", "8x512", "corpus", "1x8192")  # by rising memory


@dataclass(frozen=True)
class Case:
    """Texts to embed in one call, and their tokens together."""

    name: str
    texts: tuple[str, ...]
    tokens: int


def save(cases: list[Case], path: Path) -> None:
    path.write_text(json.dumps([asdict(case) for case in cases]), encoding="utf-8")


def load(path: Path) -> list[Case]:
    stored = json.loads(path.read_text(encoding="utf-8"))
    return [Case(c["name"], tuple(c["texts"]), c["tokens"]) for c in stored]


def all_cases(corpus_texts: int) -> list[Case]:
    """Every case, in the order of ``CASES``: one process can report peak memory case by case."""
    from export.checkpoint.source import SAMPLE
    from export.gate.texts import TEXTS
    from runtimes.text.tokens import TextTokenizer

    tokenizer = TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=8192, pad_id=1)
    words = [
        w
        for line in TEXTS.read_text(encoding="utf-8").splitlines()
        for w in json.loads(line)["text"].split()
    ]
    cases = {f"1x{n}": [text_of(n, words, tokenizer)] for n in LENGTHS}
    cases["8x512"] = [text_of(512, words[i:] + words[:i], tokenizer) for i in range(8)]
    cases["corpus"] = skewed_corpus(words, corpus_texts)
    return [_case(name, cases[name], tokenizer) for name in CASES]


def _case(name: str, texts: list[str], tokenizer: TextTokenizer) -> Case:
    tokens = sum(len(ids) for ids in tokenizer.encode(texts))
    return Case(name, tuple(texts), tokens)


def text_of(tokens: int, words: list[str], tokenizer: TextTokenizer) -> str:
    """A text of exactly so many tokens, the two special ones included."""
    sizes = [len(ids) - 2 for ids in tokenizer.encode(words)]  # the tokenizer splits at spaces
    chosen: list[str] = []
    left = tokens - 2
    for word, size in cycle(zip(words, sizes, strict=True)):
        if size > left:
            break
        chosen.append(word)
        left -= size
    text = " ".join([*chosen, *["a"] * left])
    if (got := len(tokenizer.encode([text])[0])) != tokens:
        raise ValueError(f"{got} tokens, expected {tokens}")
    return text


def skewed_corpus(words: list[str], count: int) -> list[str]:
    """Texts of log-normal length, about 8 to 4096 tokens, most of them short."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.6, 1.1, count), 4, 2000).astype(int)
    starts = rng.integers(0, len(words), count)
    doubled = words * 3
    return [" ".join(doubled[s : s + n]) for s, n in zip(starts, lengths, strict=True)]
