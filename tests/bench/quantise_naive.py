"""The naive export as NNCF quantises it: weights and activations in INT8, its defaults.

``python -m tests.bench.quantise_naive WORK``, in the environment of sentence-transformers'
OpenVINO backend, which brings NNCF.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.cases import load
from tests.bench.rivals import NAIVE_FILE, NAIVE_INT8_FILE

TEXTS, MAX_TOKENS = 24, 128  # as many as our ranges are measured on here: they change no speed


def rows(work: Path) -> list[dict[str, NDArray[np.int64]]]:
    """Texts of the mixed corpus, one by one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "model" / "tokenizer.json"))
    corpus = next(case for case in load(work / "cases.json") if case.name == "corpus")
    ids = [tokenizer.encode(text).ids[:MAX_TOKENS] for text in corpus.texts[:TEXTS]]
    arrays = [np.array([row], np.int64) for row in ids]
    return [{"input_ids": array, "attention_mask": np.ones_like(array)} for array in arrays]


def main() -> None:
    import nncf
    import openvino as ov

    work = Path(sys.argv[1])
    quantised = nncf.quantize(
        ov.Core().read_model(work / NAIVE_FILE),
        nncf.Dataset(rows(work)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=TEXTS,
    )
    ov.save_model(quantised, work / NAIVE_INT8_FILE, compress_to_fp16=False)


if __name__ == "__main__":
    main()
