"""The gate's own parts: what fails, what is named, which texts run in which batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import export.gate.texts
from export.checkpoint.source import SAMPLE
from export.gate.compare import (
    ParityReport,
    batches,
    compare,
    embed,
    parity_failure,
    row_cosines,
)
from export.gate.gate import Verdict
from export.gate.texts import DOCUMENT_TOKENS, ParityText, parity_texts, texts_sha256, thin
from runtimes.choices import Embeddings, Precision
from runtimes.errors import GateError
from runtimes.schemes import SCHEMES
from runtimes.tables import gate_of
from runtimes.text.tokens import TextTokenizer
from tests.support import PAD_ID, Array, CallableRuntime, sample_tokenizer

NAMES = ("theirs", "ours")


def texts(*lengths: int) -> list[ParityText]:
    return [ParityText(f"text-{i}", np.full(n, 7, np.int64)) for i, n in enumerate(lengths)]


def units(count: int, seed: int = 0) -> Array:
    rows = np.random.default_rng(seed).standard_normal((count, 16))
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def at_cosine(vector: Array, cosine: float) -> Array:
    """A unit vector at exactly this cosine from ``vector``, in FP64."""
    unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
    other = np.zeros_like(unit)
    other[0] = 1
    other -= (other @ unit) * unit
    at: Array = cosine * unit + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)
    return at


def report(reference: Array, vectors: Array, threshold: float = 0.9999) -> ParityReport:
    rows = texts(*range(1, len(reference) + 1))
    return compare(reference, vectors, rows, names=NAMES, threshold=threshold)


def require(result: ParityReport, label: str) -> None:
    """What a build does with a verdict of this one report."""
    Verdict(reports={label: result}, failure=parity_failure(result, label)).require_passed()


def test_equal_vectors_pass_with_cosine_one() -> None:
    result = report(units(5), units(5), 0.999999)
    assert result.passed
    assert result.min_cosine == pytest.approx(1, abs=1e-7)
    assert result.max_abs == 0
    assert result.rows == len(result.texts) == 5
    require(result, "graph")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (4, 15)])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_bad_number_anywhere_fails(bad: float, where: tuple[int, int]) -> None:
    vectors = units(5)
    vectors[where] = bad
    result = report(units(5), vectors)
    assert not result.passed
    with pytest.raises(GateError, match=f"text-{where[0]} "):
        require(result, "graph")


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_zero_vector_fails() -> None:
    vectors = units(3)
    vectors[1] = 0
    with pytest.raises(GateError, match="text-1 "):
        require(report(units(3), vectors), "graph")


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(("offset", "passes"), [(2e-8, True), (-2e-8, False)])
def test_threshold_is_met_or_missed_at_its_edge(
    precision: Precision, offset: float, passes: bool
) -> None:
    reference: Array = units(4).astype(np.float64)
    vectors = reference.copy()
    vectors[2] = at_cosine(reference[2], SCHEMES[precision].min_cosine + offset)
    assert report(reference, vectors, SCHEMES[precision].min_cosine).passed is passes


def test_published_thresholds() -> None:
    assert {p.value: s.min_cosine for p, s in SCHEMES.items()} == {
        "fp32": 0.999999,
        "fp16": 0.9999,
        "bf16": 0.999,
        "int8": 0.99,
        "fp8": 0.995,
        "int8w": 0.9999,
        "int4w": 0.99,
    }
    assert SCHEMES[Precision.INT8].mean_cosine == 0.998
    assert SCHEMES[Precision.FP8].mean_cosine == 0.999
    assert SCHEMES[Precision.INT8W].mean_cosine == 0.9999
    assert SCHEMES[Precision.INT4W].mean_cosine == 0.995


def test_mean_has_a_threshold_of_its_own() -> None:
    reference: Array = units(4).astype(np.float64)
    vectors = np.stack([at_cosine(row, 0.995) for row in reference])
    found = compare(
        reference, vectors, texts(3, 3, 3, 3), names=NAMES, threshold=0.99, mean_threshold=0.998
    )
    assert not found.passed
    with pytest.raises(GateError, match=r"mean 0\.995\d*, expected at least 0\.998"):
        require(found, "graph")
    assert compare(reference, vectors, texts(3, 3, 3, 3), names=NAMES, threshold=0.99).passed


def test_cosines_are_those_by_hand_whatever_the_lengths() -> None:
    a = np.array([[1, 0], [3, 4], [1, 1]], np.float32)
    b = np.array([[0, 2], [6, 8], [-2, -2]], np.float32)
    np.testing.assert_allclose(row_cosines(a, b), [0, 1, -1], atol=1e-12)


def test_rounding_never_gives_a_cosine_above_one() -> None:
    rows = units(2000, seed=3)
    assert row_cosines(rows, rows).max() <= 1.0


def test_error_names_the_three_worst_texts_with_their_lengths() -> None:
    reference = units(6).astype(np.float64)
    vectors = reference.copy()
    for index, cosine in ((1, 0.5), (3, 0.2), (4, 0.9), (5, 0.99)):
        vectors[index] = at_cosine(reference[index], cosine)
    with pytest.raises(GateError) as caught:
        require(report(reference, vectors), "model.onnx")
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "model.onnx" in message
    assert "0.9999" in message
    order = [
        message.index(f"text-{i} ({i + 1} tokens): {c}")
        for i, c in ((3, "0.2000000"), (1, "0.5000000"), (4, "0.9000000"))
    ]
    assert order == sorted(order)
    assert "text-5" not in message
    assert "text-0" not in message


def test_summary_is_the_report_without_its_texts() -> None:
    summary = report(units(3), units(3)).summary()
    assert summary.keys() >= {
        "reference",
        "executed",
        "rows",
        "min_cosine",
        "mean_cosine",
        "max_abs",
        "threshold",
        "passed",
    }
    assert "texts" not in summary


@pytest.mark.parametrize(
    "lengths",
    [
        (),
        (3,),
        (5, 5),
        tuple(range(1, 10)),
        tuple(range(40, 1, -1)),
        (700, 3, 2500, 8, 9, 600),
        (599, 600, 601),
        tuple([4] * 33),
    ],
    ids=len,
)
def test_batches_cover_every_text_once(lengths: tuple[int, ...]) -> None:
    rows = texts(*lengths)
    plan = list(batches(rows))
    assert sorted(i for batch in plan for i in batch) == list(range(len(rows)))
    for batch in plan:
        documents = [i for i in batch if lengths[i] >= DOCUMENT_TOKENS[0]]
        assert not documents or len(batch) == 1  # masked attention's memory


def test_batches_put_a_short_text_beside_a_long_one() -> None:
    """Heavy padding has to be part of what is compared."""
    lengths = [12, 300, 4, 80, 33, 51, 60, 17, 9, 140]
    assert any(
        min(lengths[i] for i in batch) == 4 and max(lengths[i] for i in batch) == 300
        for batch in batches(texts(*lengths))
    )


def test_embed_keeps_the_order_of_the_texts() -> None:
    lengths = [9, 2, 700, 5, 31, 5, 2, 60, 8, 12, 3]

    def count_tokens(ids: Array, mask: Array) -> Array:
        assert ((ids == PAD_ID) == (mask == 0)).all()
        return np.stack([mask.sum(1), mask.sum(1)], 1).astype(np.float32)

    runtime = CallableRuntime(count_tokens)
    vectors = embed(runtime, texts(*lengths), sample_tokenizer())
    np.testing.assert_array_equal(vectors[:, 0], lengths)
    assert max(shape[0] for shape in runtime.calls) > 1


def test_thinned_texts_keep_a_document_and_shift_with_the_index() -> None:
    rows = parity_texts(sample_tokenizer(), "", 2048)
    chosen = [{t.name for t in thin(rows, index)} for index in (1, 2, 3)]
    assert all(any(name.startswith("document") for name in names) for names in chosen)
    assert chosen[0] != chosen[1] != chosen[2]
    short = {t.name for t in rows if not t.name.startswith("document")}
    assert short <= set().union(*chosen)


@pytest.fixture(scope="module")
def longest() -> list[ParityText]:
    return parity_texts(sample_tokenizer(), "Represent this: ", 8192)


def test_documents_reach_the_tokens_they_are_named_after(longest: list[ParityText]) -> None:
    documents = {t.name: len(t.ids) for t in longest if t.name.startswith("document")}
    assert documents.keys() == {f"document-{goal}" for goal in DOCUMENT_TOKENS}
    for goal in DOCUMENT_TOKENS:
        assert goal <= documents[f"document-{goal}"] <= min(1.25 * goal, 8192)
    assert max(documents.values()) > 2000


def test_texts_are_multilingual_real_and_of_many_lengths(longest: list[ParityText]) -> None:
    short = [t for t in longest if not t.name.startswith("document")]
    languages = {t.name.split("-", 1)[1] for t in short}
    assert len(languages) >= 8
    assert len({len(t.ids) for t in short}) >= 15
    assert len({t.name for t in longest}) == len(longest)
    assert len({t.ids.tobytes() for t in longest}) == len(longest)


@pytest.mark.parametrize(("limit", "goals"), [(64, []), (600, [600]), (2048, [600, 2000])])
def test_documents_stop_at_the_longest_asked_for(limit: int, goals: list[int]) -> None:
    rows = parity_texts(sample_tokenizer(), "", limit)
    names = [t.name for t in rows if t.name.startswith("document")]
    assert names == [f"document-{goal}" for goal in goals]


def test_bundle_for_few_tokens_truncates_the_texts_without_a_word() -> None:
    rows = parity_texts(sample_tokenizer(32), "", 8192)  # a warning would be an error here
    assert max(len(t.ids) for t in rows) == 32
    assert not any(t.name.startswith("document") for t in rows)


def test_prefix_stands_before_every_text() -> None:
    tokenizer = TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=8192, pad_id=PAD_ID)
    plain, prefixed = parity_texts(tokenizer, "", 64), parity_texts(tokenizer, "query: ", 64)
    assert all(len(b.ids) > len(a.ids) for a, b in zip(plain, prefixed, strict=True))


def test_texts_are_identified_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = texts_sha256(gate_of(Precision.FP32, Embeddings.SAME))
    changed = tmp_path / "texts.jsonl"
    changed.write_bytes(export.gate.texts.TEXTS.read_bytes() + b"\n")
    monkeypatch.setattr(export.gate.texts, "TEXTS", changed)
    assert texts_sha256(gate_of(Precision.FP32, Embeddings.SAME)) != before
