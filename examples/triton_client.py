"""Ask a Triton server that serves a bundle (`make triton`, `make serve`).

python examples/triton_client.py grpc://localhost:8001 retrieval.query
"""

from __future__ import annotations

import sys

from adaptrt import TritonEmbedder

TEXTS = ["Where is the station?", "Wo ist der Bahnhof?"]


def main(url: str, task: str | None = None) -> None:
    """Embed the texts on the server at ``url``."""
    with TritonEmbedder(url) as embedder:
        print(f"tasks served: {', '.join(embedder.tasks)}")
        vectors = embedder.encode(TEXTS, task=task)
    print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers")
    print(f"cosine of the two: {vectors[0] @ vectors[1]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
