"""Give each sentence of a document a vector that knows the whole document.

make engine ADAPTER=switchable HEAD=chunks
python examples/late_chunking.py build/sample/switchable-chunks-fp16
"""

from __future__ import annotations

import sys

from adaptrt import Embedder

DOCUMENT = (
    "Berlin is the capital of Germany. It has 3.7 million inhabitants. "
    "The city lies on the river Spree."
)


def main(bundle: str) -> None:
    """A line per sentence."""
    with Embedder.load(bundle) as embedder:
        chunks = embedder.encode_chunks(DOCUMENT, sentences=1, task="retrieval.passage")
    for (start, end), vector in zip(chunks.spans, chunks.vectors, strict=True):
        print(f"{len(vector)} numbers  {DOCUMENT[start:end]!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
