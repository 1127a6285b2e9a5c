"""Who is timed, each in a process of its own, and how each is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import rivals
from tests.bench.cases import CASES
from tests.bench.own import ours
from tests.bench.rivals import Encode

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Contender:
    """How one is loaded, which cases it is there for, and its look in every picture.

    ``precision`` is that of its large products. ``environment`` is the folder of the Python
    environment that it runs in, if not this one. One that ``compiles`` runs the first text of
    every case before the first sample, and how long compiling took is reported by itself.
    ``comparable``: its vectors are those of the base model, in which the others are told wrong.
    ``memory_flaw`` says why the memory that the worker reports for it is not its own, in any run;
    flaws of a single run stand in that run's report (``tests.bench.reports.memory_flaw``).
    """

    load: Callable[[Path], Encode]
    colour: str
    marker: str
    cases: tuple[str, ...] = CASES
    precision: str = "FP32"
    environment: str | None = None
    compiles: bool = False
    comparable: bool = True
    memory_flaw: str | None = None

    @property
    def python(self) -> Path:
        """What runs it; there is none where its environment was not made."""
        if self.environment is None:
            return Path(sys.executable)
        return ROOT / self.environment / "bin" / "python"


_SINGLE = ("1x128", "1x512", "1x2048", "8x512", "1x8192")
_SHORT = ("1x128", "1x512")  # what switching costs is the same, or less, at any length
# One text at a time sentence-transformers is PyTorch without a pinned kernel.
_PADDED = ("1x128", "1x512", "8x512", "corpus")
# A naive export's attention holds a score for every pair of tokens, 31 GB for 32 texts of 3874.
_PADDED_NAIVE = _PADDED[:-1]
# A colour for each program, of those of Okabe and Ito, which colour-blind readers can tell apart.
_PYTORCH, _NAIVE, _LIBRARY, _OURS, _INTEGER = "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#56B4E9"

CONTENDERS: dict[str, Contender] = {
    "PyTorch FlashAttention": Contender(rivals.reference, _PYTORCH, "D", _SINGLE),
    "PyTorch BF16": Contender(rivals.pytorch_bf16, _PYTORCH, "d", _SINGLE, "BF16"),
    "PyTorch BF16 compiled": Contender(
        rivals.pytorch_bf16_compiled, _PYTORCH, "*", _SINGLE, "BF16", compiles=True
    ),
    "naive ONNX export": Contender(rivals.naive, _NAIVE, "v", _SINGLE),
    "OpenVINO naive FP32": Contender(rivals.naive_openvino("f32"), _NAIVE, "<", _SINGLE),
    "OpenVINO naive BF16": Contender(rivals.naive_openvino("bf16"), _NAIVE, ">", _SINGLE, "BF16"),
    "OpenVINO naive INT8": Contender(
        rivals.naive_openvino("bf16", rivals.NAIVE_INT8_FILE), _NAIVE, "3", _SINGLE, "INT8"
    ),
    "sentence-transformers": Contender(
        rivals.sentence_transformers("float32"), _LIBRARY, "P", _PADDED
    ),
    "sentence-transformers BF16": Contender(
        rivals.sentence_transformers("bfloat16"), _LIBRARY, "p", _PADDED, "BF16"
    ),
    "sentence-transformers ONNX": Contender(
        rivals.sentence_transformers_export("onnx"),
        _LIBRARY,
        "1",
        _PADDED_NAIVE,
        environment=".venv-clients/optimum",
    ),
    "sentence-transformers OpenVINO": Contender(
        rivals.sentence_transformers_export("openvino"),
        _LIBRARY,
        "2",
        _PADDED_NAIVE,
        "BF16",
        environment=".venv-clients/openvino",
    ),
    "adaptrt": Contender(ours("adaptrt"), _OURS, "o"),
    "adaptrt OpenVINO FP32": Contender(ours("adaptrt OpenVINO FP32"), _OURS, "h"),
    "adaptrt OpenVINO BF16": Contender(ours("adaptrt OpenVINO BF16"), _OURS, "8", precision="BF16"),
    "adaptrt INT8": Contender(ours("adaptrt INT8"), _INTEGER, "s", precision="INT8"),
    "adaptrt OpenVINO INT8": Contender(
        ours("adaptrt OpenVINO INT8"), _INTEGER, "H", precision="INT8"
    ),
    "rebuild per call": Contender(
        rivals.rebuilding,
        "#000000",
        "X",
        _SHORT,
        comparable=False,
        memory_flaw="the rebuilt weights, kept after the first call, count as loaded",
    ),
    "adaptrt switchable": Contender(
        ours("adaptrt switchable"), "#009E73", "^", _SHORT, comparable=False
    ),
}

# Names for several, in BENCH_ONLY.
GROUPS = {
    "all": tuple(CONTENDERS),
    "targets": (
        "PyTorch BF16",
        "PyTorch BF16 compiled",
        "sentence-transformers BF16",
        "adaptrt",
        "adaptrt INT8",
        "adaptrt OpenVINO BF16",
        "adaptrt OpenVINO INT8",
    ),
}


def named(text: str) -> list[str]:
    """Contenders of a list with commas, groups taken apart; an unknown name stays in it."""
    parts = (GROUPS.get(name, (name,)) for name in text.split(","))
    return list(dict.fromkeys(name for part in parts for name in part))
