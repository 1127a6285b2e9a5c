"""Search documents: one switchable bundle embeds the question and the documents by their own task.

make engine ADAPTER=switchable
python examples/search_documents.py build/sample/switchable-fp16
"""

from __future__ import annotations

import sys

from adaptrt import Embedder

QUESTION = "Where is the station?"
DOCUMENTS = [
    "The station is behind the market, five minutes on foot.",
    "Strawberries ripen in June.",
    "The library closes at six.",
]


def main(bundle: str) -> None:
    """Print the documents, the closest first."""
    tasks = ["retrieval.query", *["retrieval.passage"] * len(DOCUMENTS)]
    with Embedder.load(bundle) as embedder:
        question, *documents = embedder.encode([QUESTION, *DOCUMENTS], task=tasks)
    scores = [float(document @ question) for document in documents]
    print(QUESTION)
    for score, document in sorted(zip(scores, DOCUMENTS, strict=True), reverse=True):
        print(f"{score:.3f}  {document}")


if __name__ == "__main__":
    main(*sys.argv[1:])
