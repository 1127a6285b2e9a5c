"""What each type of vector costs in retrieval, and how the ranges of 8-bit integers were chosen.

``make bench-outputs`` builds the sample with every task and writes docs/benchmarks/outputs anew:
queries and passages are the offline set's, each side with its own task, and scores are those that a
store computes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from calibration.corpus import load_corpus, retrieval_pairs
from calibration.retrieval import Doubles, compare_scores
from export.build.output_ranges import samples
from export.cli import main as adaptrt
from export.gate.compare import embed
from runtimes.choices import OutputType
from runtimes.embedder import Embedder
from runtimes.outputs import OUTPUTS, STEPS, converter, truncate
from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER, ROOT

REPORT = FOLDER / "outputs" / "sample.json"
PAGE = ROOT / "docs" / "tasks" / "vector-types.md"
QUERY, PASSAGE = "retrieval.query", "retrieval.passage"
PERCENTILES = (100, 99.99, 99.9, 99)
RESCORED = 40  # passages found by bits and ranked again
Array = np.ndarray[Any, Any]


def cosine(queries: Array, passages: Array) -> Doubles:
    """Of every query and passage, whatever their lengths."""
    sides = (np.asarray(side, np.float64) for side in (queries, passages))
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    scores: Doubles = left @ right.T
    return scores


def euclidean(queries: Array, passages: Array) -> Doubles:
    """The order of distances in a cosine's units, of rows that have about one length a side."""
    left, right = (np.asarray(side, np.float64) for side in (queries, passages))
    squares = ((left[:, None] - right[None]) ** 2).sum(axis=2)
    scores: Doubles = -squares / (2 * np.linalg.norm(left) * np.linalg.norm(right) / len(left))
    return scores


def hamming(queries: Array, passages: Array) -> Doubles:
    """1 where all bits agree, -1 where none does."""
    bits = [np.unpackbits(side, axis=1).astype(np.float64) * 2 - 1 for side in (queries, passages)]
    scores: Doubles = bits[0] @ bits[1].T / bits[0].shape[1]
    return scores


def rescored(found: Doubles, better: Doubles) -> Doubles:
    """The better scores of each query's best by ``found``; the others come after all of them."""
    scores = found - 10
    for row, best in enumerate(np.argsort(-found, axis=1, kind="stable")[:, :RESCORED]):
        scores[row, best] = better[row, best]
    return scores


def sides(embedder: Embedder) -> dict[str, Array]:
    """Queries and passages of the offline set, each by its own task, as floats of full length."""
    pairs = retrieval_pairs()
    texts = {QUERY: [pair.query for pair in pairs], PASSAGE: [pair.passage for pair in pairs]}
    return {task: embedder.encode(listed, task=task) for task, listed in texts.items()}


def grid(embedder: Embedder) -> Iterator[dict[str, Any]]:
    """A row for each length and type."""
    floats_of = sides(embedder)

    def vectors(width: int, output: str) -> list[Array]:
        ranges = embedder.manifest.output_ranges
        return [
            converter(output, width, [task] * len(rows), ranges)(truncate(rows, width))
            for task, rows in floats_of.items()
        ]

    full = cosine(*vectors(embedder.dimensions[-1], "float32"))
    for width in embedder.dimensions:
        floats, bits = vectors(width, "float32"), vectors(width, "ubinary")
        same, found = cosine(*floats), hamming(*bits)
        steps = vectors(width, "int8")
        moved = [side.astype(int) - 128 for side in vectors(width, "uint8")]  # no distance changes
        again = rescored(found, cosine(floats[0], steps[1]))
        for types, score, scores in (
            (("float32",), "cosine", same),
            (("int8",), "cosine or dot product", cosine(*steps)),
            (("uint8",), "Euclidean", euclidean(*moved)),
            (("binary", "ubinary"), "Hamming", found),
            (("ubinary", "int8"), f"Hamming, {RESCORED} best again by cosine", again),
        ):
            kept = compare_scores(same, scores)
            sizes = {OUTPUTS[OutputType(name)].bytes_per_vector(width) for name in types}
            yield {
                "dimensions": width,
                "types": list(types),
                "score": score,
                "bytes": sum(sizes),
                "ndcg": round(kept.ndcg, 4),
                "kept": round(kept.overlap, 4),
                "kept_of_full": round(compare_scores(full, scores).overlap, 4),
            }


def range_rules(embedder: Embedder) -> Iterator[dict[str, Any]]:
    """A row for each length and rule, from the texts that a build runs."""
    floats, corpus = sides(embedder), load_corpus(None)
    seen = {
        task: embed(
            embedder.runtime,
            samples(embedder.manifest, embedder.tokenizer, corpus, task),
            embedder.tokenizer,
        )
        for task in floats
    }
    for width in embedder.dimensions:
        cut = {task: truncate(rows, width) for task, rows in floats.items()}
        ranged = {task: np.abs(truncate(rows, width)) for task, rows in seen.items()}
        exact = cosine(cut[QUERY], cut[PASSAGE])
        for percentile in PERCENTILES:
            limits = {task: np.percentile(rows, percentile) for task, rows in ranged.items()}
            steps = {
                task: np.rint(rows * STEPS / limits[task]).clip(-STEPS, STEPS)
                for task, rows in cut.items()
            }
            beyond = np.mean([(np.abs(rows) > limits[task]).mean() for task, rows in cut.items()])
            name = "greatest magnitude" if percentile == 100 else f"{percentile:g}th percentile"
            yield _rule(width, name, exact, steps, float(beyond))
        yield _rule(width, "each dimension's own", exact, *_by_dimension(cut, seen, width))


def _by_dimension(
    cut: dict[str, Array], seen: dict[str, Array], width: int
) -> tuple[dict[str, Array], float]:
    """As sentence-transformers computes them: 255 steps between each dimension's extremes."""
    steps, beyond = {}, []
    for task, rows in cut.items():
        known = truncate(seen[task], width)
        low, high = known.min(axis=0), known.max(axis=0)
        steps[task] = np.floor((rows - low) / ((high - low) / 255)).clip(0, 255) - 128
        beyond.append(((rows < low) | (rows > high)).mean())
    return steps, float(np.mean(beyond))


def _rule(
    width: int, name: str, exact: Doubles, steps: dict[str, Array], beyond: float
) -> dict[str, Any]:
    kept = compare_scores(exact, cosine(steps[QUERY], steps[PASSAGE]))
    return {
        "dimensions": width,
        "rule": name,
        "ndcg": round(kept.ndcg, 4),
        "kept": round(kept.overlap, 4),
        "beyond": round(beyond, 6),
    }


def grid_table() -> str:
    """The grid."""
    report = load_report()
    head = (
        "dimensions",
        "type",
        "bytes",
        "score",
        "nDCG@10",
        "top 10 kept",
        f"of float32's at {report['grid'][-1]['dimensions']}",
    )
    rows = [
        (
            str(row["dimensions"]),
            _types(row),
            str(row["bytes"]),
            row["score"],
            f"{row['ndcg']:.3f}",
            f"{row['kept']:.1%}",
            f"{row['kept_of_full']:.1%}",
        )
        for row in report["grid"]
    ]
    return f"{_caption(report)}\n\n{markdown(head, rows)}"


def ranges_table() -> str:
    """The rules for ranges."""
    report = load_report()
    head = ("dimensions", "range", "nDCG@10", "top 10 kept", "values beyond it")
    rows = [
        (
            str(row["dimensions"]),
            row["rule"],
            f"{row['ndcg']:.3f}",
            f"{row['kept']:.1%}",
            f"{row['beyond']:.3%}",
        )
        for row in report["ranges"]
    ]
    return f"{_caption(report)}\n\n{markdown(head, rows)}"


def _types(row: dict[str, Any]) -> str:
    words = " + " if row["score"].startswith("Hamming,") else ", "
    return words.join(f"`{name}`" for name in row["types"])


def load_report() -> dict[str, Any]:
    """The committed figures."""
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    return report


def _caption(report: dict[str, Any]) -> str:
    return (
        f"*The embedded sample in FP32 on a CPU, {report['queries']} queries and as many passages, "
        f"{report['date']}*"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    options = ("--adapter", "switchable", "--precision", "fp32", "--target", "onnxruntime")
    if adaptrt(["engine", *options, "--parity-tokens", "64", "--out", str(out)]) != 0:
        raise SystemExit("the sample was not built")
    with Embedder.load(out / "sample" / "switchable-fp32-onnxruntime") as embedder:
        report = {
            "command": "make bench-outputs",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "queries": len(retrieval_pairs()),
            "grid": list(grid(embedder)),
            "ranges": list(range_rules(embedder)),
        }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
