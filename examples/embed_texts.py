"""Embed texts with a bundle and print how close they are.

python examples/embed_texts.py build/sample/classification-fp16
"""

from __future__ import annotations

import sys

from adaptrt import Embedder

TEXTS = ["Where is the station?", "Wo ist der Bahnhof?", "I like strawberries."]


def main(bundle: str) -> None:
    """Embed the texts and compare them with the first."""
    with Embedder.load(bundle) as embedder:
        vectors = embedder.encode(TEXTS)  # float32, a row per text, each of length 1
    print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers")
    for text, cosine in zip(TEXTS[1:], vectors[1:] @ vectors[0], strict=True):
        print(f"{cosine:.3f}  {TEXTS[0]}  /  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
