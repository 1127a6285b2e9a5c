"""Vectors as the body of an answer."""

from __future__ import annotations

from base64 import b64encode

import msgspec

from runtimes.api.contract import Embedding, EmbeddingAnswer, Usage
from runtimes.api.work import Work
from runtimes.arrays import Encoded, Vectors


def answer(work: Work, vectors: Vectors) -> bytes:
    """The JSON of full vectors ``[n, hidden]``, cut and written as the request asks."""
    rows = work.finish(vectors)
    data = [
        Embedding(
            object="embedding",
            index=index,
            embedding=_written(row, base64=work.encoding.base64),
            tokens=work.counts[index] if work.return_tokens else None,
            span=work.spans[index] if work.return_tokens and work.spans else None,
        )
        for index, row in enumerate(rows)
    ]
    return msgspec.json.encode(
        EmbeddingAnswer(
            object="list",
            model=work.served.model,
            data=data,
            usage=Usage(prompt_tokens=work.tokens, total_tokens=work.tokens),
            warnings=work.warnings,
            truncated=work.truncated,
        )
    )


def _written(row: Encoded, *, base64: bool) -> list[float | int] | str:
    """Numbers, or their bytes as little-endian FP32."""
    if base64:
        return b64encode(row.astype("<f4", copy=False).tobytes()).decode()
    numbers: list[float | int] = row.tolist()
    return numbers
