"""Drift's parts: figures, blocks, the model of rounding, causes, the page's shades."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
from torch import Tensor

from export.drift.blocks import Block, Place, all_places, entry_of
from export.drift.causes import UNKNOWN, find_below_noise, find_cause
from export.drift.facts import Facts, Stored
from export.drift.figures import LEAST, MOST, agreement
from export.drift.graph import BlockGraph
from export.drift.heat_map import HeatMap, Square, draw, level
from export.drift.noise import expected_snr
from export.drift.reference import Linear, Norm, ReferenceNetwork
from export.report.html import document
from runtimes.errors import InputError

WIDTH, OUT, TOKENS, HEADS = 48, 64, 40, 4


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _product(dtype: torch.dtype = torch.float16, stored: Stored | None = None) -> Facts:
    """A product of random numbers, rounded as a graph of ``dtype`` rounds them."""
    x, weight, bias = (_random(2, TOKENS, WIDTH), _random(WIDTH, OUT, seed=1) / 7, _random(OUT))
    linear = Linear(weight, _random(WIDTH, OUT, seed=4) / 30, bias)
    output = x @ linear.merged + bias
    rounded = (x.to(dtype).float() @ linear.merged.to(dtype).float()).to(dtype)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[1, 25:] = False
    return Facts(
        place=Place(Block.FC1, 0),
        mask=mask,
        inputs={Block.NORM1: x},
        output=output,
        engine=(rounded + bias.to(dtype)).float(),
        dtype=dtype,
        heads=HEADS,
        stored=stored or Stored(kind=dtype),
        linear=linear,
    )


def _snr(facts: Facts) -> float:
    return agreement(facts.tokens(facts.output), facts.tokens(facts.engine)).snr


def test_figures_of_equal_and_of_lost_outputs() -> None:
    values = _random(3, 5)
    assert agreement(values, values).snr == MOST
    assert agreement(values, values).cosine == pytest.approx(1)
    tenth = agreement(values, values * 1.1)
    assert tenth.snr == pytest.approx(20, abs=1e-3)
    assert tenth.cosine == pytest.approx(1)
    lost = agreement(values, values * math.inf)
    assert (lost.snr, lost.cosine) == (LEAST, 0.0)


def test_blocks_are_computed_from_earlier_ones() -> None:
    places = all_places(3)
    assert len(places) == 2 + 3 * 9 + 1
    for index, place in enumerate(places):
        assert set(place.inputs) <= set(places[:index])
    assert Place(Block.QKV, 0).inputs == (Place(Block.EMBEDDING_NORM),)
    assert Place(Block.NORM1, 2).inputs == (Place(Block.OUT, 2), Place(Block.NORM2, 1))
    assert entry_of(3) == Place(Block.NORM2, 2)
    assert str(Place(Block.NORM1, 2)) == "layer 2, norm 1"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_a_product_is_foreseen(dtype: torch.dtype) -> None:
    facts = _product(dtype)
    assert _snr(facts) == pytest.approx(expected_snr(facts), abs=1.5)


def test_steps_of_a_quantised_product_are_foreseen() -> None:
    facts = _product(torch.float32)
    assert facts.linear is not None
    scale = float(facts.x.abs().max()) / 127
    weight = facts.linear.merged
    steps = weight.abs().amax(0) / 127
    x = (facts.x / scale).round() * scale
    engine = x @ ((weight / steps).round() * steps) + facts.linear.bias
    facts = replace(facts, engine=engine, stored=Stored(kind=torch.int8, input_scale=scale))
    assert _snr(facts) == pytest.approx(expected_snr(facts), abs=2)


def test_a_scale_far_too_large_is_not_expected() -> None:
    facts = _product(torch.float32)
    needed = float(facts.x.abs().max()) / 127
    scales = (needed, 8 * needed, 80 * needed)
    stored = [Stored(kind=torch.int8, input_scale=scale) for scale in scales]
    good, limit, beyond = (expected_snr(replace(facts, stored=each)) for each in stored)
    assert good > limit
    assert beyond == pytest.approx(limit, abs=0.1)


def test_causes_of_a_product() -> None:
    facts = _product(torch.float32)
    linear, y = facts.linear, facts.output
    assert linear is not None
    assert linear.delta is not None
    one = y.clone()
    one[..., 9] *= 1.3
    wrong = {
        "bias missing": y - linear.bias,
        "another bias": y + _random(OUT, seed=8) / 9,
        "adapter missing": y - facts.x @ linear.delta,
        "adapter's strength": y + 0.5 * facts.x @ linear.delta,
        "wrong scale": (y - linear.bias) * 1.05 + linear.bias,
        "one channel": one,
        "outputs cut off": y.clamp(-1.5, 1.5),
        "overflow": y / (y > y.max() - 1e-6).logical_not(),
        UNKNOWN: y + _random(2, TOKENS, OUT, seed=9) / 9,
    }
    for cause, engine in wrong.items():
        assert find_cause(replace(facts, engine=engine)).cause == cause


def _norm() -> Facts:
    facts = _product(torch.float32)
    gamma, beta = 1 + _random(WIDTH, seed=2) / 5, _random(WIDTH, seed=3) / 5
    x = facts.x * torch.linspace(0.05, 2, TOKENS)[:, None]  # rows of different variance
    output = torch.nn.functional.layer_norm(x, (WIDTH,), gamma, beta, 1e-5)
    return replace(
        facts,
        place=Place(Block.NORM1, 0),
        inputs={Block.OUT: x},
        output=output,
        stored=None,
        linear=None,
        norm=Norm(gamma, beta, 1e-5),
    )


def test_causes_of_a_norm() -> None:
    facts = _norm()
    norm, x = facts.norm, facts.x
    assert norm is not None

    def normed(gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
        return torch.nn.functional.layer_norm(x, (WIDTH,), gamma, beta, epsilon)

    ones = torch.ones(WIDTH)
    wrong = {
        "another epsilon": normed(norm.gamma, norm.beta, 1e-3),
        "another gamma": normed(ones, norm.beta, 1e-5),
        "another beta": normed(norm.gamma, 0 * ones, 1e-5),
        "another gamma and beta": normed(ones, 0 * ones, 1e-5),
    }
    for cause, engine in wrong.items():
        found = find_cause(replace(facts, engine=engine))
        assert found.cause == cause, found
    assert "0.001" in find_cause(replace(facts, engine=wrong["another epsilon"])).figures


def test_a_gelu_by_tanh_is_seen_below_rounding() -> None:
    """Its difference is 74 dB below the output, FP16's rounding 70."""
    facts = _product()
    x = 2 * _random(2, TOKENS, 256)
    half = x.half().float()
    exact, other = (
        torch.nn.functional.gelu(half, approximate=way).half().float() for way in ("none", "tanh")
    )
    facts = replace(
        facts,
        place=Place(Block.GELU, 0),
        inputs={Block.FC1: x},
        output=torch.nn.functional.gelu(x),
        engine=exact,
        stored=None,
        linear=None,
    )
    expected = expected_snr(facts)
    assert find_below_noise(facts, expected) is None
    planted = replace(facts, engine=other)
    assert expected - _snr(planted) < 3
    found = find_below_noise(planted, expected)
    assert found is not None
    assert found.cause == "another GELU"
    assert "tanh" in found.figures


def test_a_graph_without_blocks_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23]>'
        "graph (float[1, 2] x) => (float[1, 2] y) { y = Abs (x) }"
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"embedding: not found, expected one LayerNormalization"):
        BlockGraph(path, None, 1)


def test_a_model_of_other_modules_is_refused() -> None:
    with pytest.raises(InputError, match="drift knows the modules of jina-embeddings-v3, Linear"):
        ReferenceNetwork(torch.nn.Linear(2, 2))


def test_shades_and_frames_of_a_heat_map() -> None:
    assert [level(good) for good in (-1, 0, 0.55, 1, 7, math.nan)] == [0, 0, 5, 9, 9, 0]
    squares = [[Square(text="70.1", good=0.5, title="a <b>"), Square(text="1", good=0, title="c")]]
    squares[0][1] = replace(squares[0][1], departs=True)
    heat = HeatMap(title="t", columns=["a", "b"], rows=["r"], squares=squares, key=("no", "yes"))
    page = document("t", "", draw(heat))
    assert page.count("departs") == 1
    assert "a &lt;b&gt;" in page
