"""The judgement of a proof, on made-up vectors; its page, on a made-up proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.proof.controls import CONTROLS, Control
from export.proof.judgement import distance, judged, position, refused_by
from export.proof.page import proof_page
from export.proof.records import (
    SCHEMA,
    VERSION,
    Chart,
    Figure,
    Mark,
    Proof,
    Result,
    SectionReport,
    Table,
    Verdict,
)
from export.proof.store import Kept, Store
from export.proof.texts import COUNTS, proof_texts
from runtimes.arrays import Vectors
from runtimes.choices import Embeddings, Precision
from runtimes.tables import gate_of
from tests.runtime_support import make_manifest, sample_tokenizer

EXACT_GATE = gate_of(Precision.FP32, Embeddings.SAME)
COARSE_GATE = gate_of(Precision.INT4W, Embeddings.SAME)


def unit(rows: Vectors) -> Vectors:
    found: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    return found


@pytest.fixture
def right() -> Vectors:
    return unit(np.random.default_rng(0).standard_normal((12, 64)).astype("f4"))


def near(rows: Vectors, by: float, seed: int = 1) -> Vectors:
    noise = np.random.default_rng(seed).standard_normal(rows.shape) / 8  # of length 1
    return unit((rows + by * noise).astype("f4"))


def test_the_right_vectors_are_refused_by_nothing(right: Vectors) -> None:
    assert judged(right, right).refused_by(EXACT_GATE) == ()
    assert refused_by(right, right, near(right, 0.1), EXACT_GATE) == ()


def test_a_cosine_does_not_see_a_length_but_the_judgement_does(right: Vectors) -> None:
    assert judged(right, 2 * right).worst < 1e-12
    assert judged(right, 2 * right).refused_by(EXACT_GATE) == ("norm",)


def test_numbers_that_are_not_finite_pass_no_limit(right: Vectors) -> None:
    broken = right.copy()
    broken[3, 3] = np.nan
    assert judged(right, broken).refused_by(COARSE_GATE) == (
        "worst cosine",
        "mean cosine",
        "norm",
    )


def test_a_wrong_model_within_a_coarse_gate_is_refused_as_the_nearer_one(right: Vectors) -> None:
    wrong = near(right, 0.02)
    assert judged(right, wrong).refused_by(COARSE_GATE) == ()
    assert refused_by(right, wrong, wrong, COARSE_GATE) == ("nearer to the wrong model",)
    assert position(right, wrong, wrong) == pytest.approx(1)


def test_an_error_that_is_greater_than_the_wrong_models_stays_near_the_right_one(
    right: Vectors,
) -> None:
    wrong, ours = near(right, 0.02), near(right, 0.06, seed=2)
    assert distance(right, ours) > 2 * distance(right, wrong)
    assert abs(position(right, ours, wrong)) < 0.5
    assert refused_by(right, ours, wrong, COARSE_GATE) == ()


def test_a_control_that_is_right_is_accepted_which_fails_a_proof(right: Vectors) -> None:
    same = near(right, 1e-7)
    assert refused_by(right, same, same, EXACT_GATE) == ()


def test_controls_that_only_cut_need_no_model_of_their_own() -> None:
    assert {name for name, control in CONTROLS.items() if control.cuts} == {
        "cut, not scaled to length 1 again",
        "every second text of half the dimensions",
        "dimensions in another order",
    }
    assert Control().cuts


def test_texts_have_exactly_so_many_tokens_and_are_no_two_alike() -> None:
    manifest = replace(make_manifest(), max_tokens=600)
    texts = proof_texts(manifest, sample_tokenizer(max_tokens=600), 600)
    assert list(texts.lengths) == [2, 8, 32, 128, 512, 600]
    for tokens, own in texts.lengths.items():
        assert {len(text.ids) for text in own} == {tokens}
        assert 0 < len(own) <= COUNTS.get(tokens, 3)
        assert len({text.ids.tobytes() for text in own}) == len(own)
    assert len(texts.lengths[32]) > 20  # the sample's few tokens leave some scripts all alike


def test_a_step_that_was_kept_is_read_back_and_a_damaged_one_is_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder)
    vectors = np.ones((2, 3), np.float32)
    store.save("a/b c", Kept(arrays={"vectors": vectors}, by="x", seconds=1.5))
    kept = store.load("a/b c")
    assert kept is not None
    assert (kept.by, kept.seconds) == ("x", 1.5)
    assert (kept.arrays["vectors"] == vectors).all()
    (file,) = folder.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    assert store.load("a/b c") is None
    assert store.load("never") is None


def test_the_page_says_failed_on_top_escapes_names_and_loads_nothing() -> None:
    result = Result(
        verdict=Verdict.FAILED,
        reason="a < b & c",
        figures=(Figure(name="worst", value=2e-3, limit=1e-4),),
        tables=(Table(title="T", head=("a",), rows=(("<script>",),)),),
        charts=(Chart(title="C", gate=1e-4, marks=(Mark(name="m", worst=1e-3, mean=0.0),)),),
    )
    section = SectionReport(name="s", title="S", claim="C.", method="M.", result=result)
    proof = Proof(
        schema=SCHEMA,
        version=VERSION,
        verdict=Verdict.FAILED,
        bundle="b",
        subject="onnxruntime",
        facts={"model": "<m>"},
        executed=(),
        sections=(section,),
        date="2026-11-29",
        machine="a CPU",
        seconds=1.0,
    )
    page = proof_page(proof)
    assert page.index("FAILED") < page.index("C.")
    assert "<script>" not in page
    assert "a &lt; b &amp; c" in page
    assert "http" not in page.replace("http-equiv", "")
    assert proof.failed == (section,)
