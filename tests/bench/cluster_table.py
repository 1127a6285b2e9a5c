"""How long a corpus of a size takes, and how large its vectors are: arithmetic from reports."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.derived import rate
from tests.bench.plan_tables import load_plans, markdown
from tests.bench.reports import load, row_of

TOKENS = 300  # a text, assumed
TEXTS = {"10 M": 1e7, "1 B": 1e9, "100 B": 1e11}
BYTES = {"float32": 4096, "int8": 1024, "256 values, int8": 256, "binary": 128}  # of 1024 values
_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def rates() -> Mapping[str, float]:
    """Tokens per second of one machine or card."""
    measured = row_of(load("zen5-full"), "adaptrt OpenVINO INT8", "corpus")
    if measured is None:
        raise ValueError("zen5-full has no corpus in INT8")
    plans = load_plans("full")
    cards = {"an L4": "L4", "an A100": "A100 40GB", "an H100": "H100 SXM"}
    predicted = {name: rate(plans, gpu)[0] for name, gpu in cards.items()}
    return {"2 cores, INT8": measured["tokens_per_s"], **predicted}


def table() -> str:
    """A row per size of a corpus: hours of each, then bytes of each kind of vector."""
    head = ("texts", "tokens", *(f"hours of {who}" for who in rates()), *BYTES)
    rows = []
    for name, texts in TEXTS.items():
        tokens = texts * TOKENS
        hours = (_two(tokens / speed / 3600) for speed in rates().values())
        sizes = (_size(texts * size) for size in BYTES.values())
        rows.append((name, _power(tokens), *hours, *sizes))
    return markdown(head, rows)


def _two(value: float) -> str:
    """Two digits, with commas."""
    return f"{float(f'{value:.2g}'):,.{0 if value >= 10 else 1}f}"


def _size(count: float) -> str:
    unit, name = (1e12, "TB") if count >= 1e12 else (1e9, "GB")
    return f"{_two(count / unit)} {name}"


def _power(count: float) -> str:
    digits, _, power = f"{count:.0e}".partition("e+")
    return f"{digits} × 10{str(int(power)).translate(_POWERS)}"
