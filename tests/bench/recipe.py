"""How one product is quantised, emulated in FP32: the recipes of ``make recipes``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from calibration.observers import HEADROOM
from calibration.rounding import learned_steps, rounded_weight, weight_scales, wide_scales
from export.graph.encoder import Linear
from runtimes.schemes import FP8, INT4W, INT8, INT8W, Storage

ROWS = 4096  # of what a product reads, that are looked at


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one product is quantised. What is built is the default."""

    name: str
    storage: Storage = INT8
    headroom: float = HEADROOM
    alphas: tuple[float, ...] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
    centred: str = ""  # "mean" or "middle": each channel is shifted by its own before it is scaled
    clipped: str = ""  # "all": at the least squared error; "FC2": there alone, behind GELU
    steps: str = "tensor"  # of the input: one for all; or "token", each its own; or "zero point"
    or_fp8: bool = False  # a product takes FP8 where its own error is less
    learned: bool = True  # rounding: for what is read (GPTQ), or to the nearest
    bias_corrected: bool = False


BUILT = Recipe(name="INT8 as built")
_NEAREST = replace(BUILT, name="INT8, rounded to the nearest", learned=False)
_FP8 = replace(BUILT, name="FP8 as built", storage=FP8)
_INT8W = replace(BUILT, name="INT8W as built", storage=INT8W)
_INT4W = replace(BUILT, name="INT4W as built", storage=INT4W)
_PLAIN4 = replace(_INT4W, learned=False)
RECIPES = (
    replace(_NEAREST, name="INT8 of before: nearest, no headroom", headroom=1.0),
    replace(_NEAREST, name="INT8, nearest, no smoothing", alphas=(0.0,)),
    _NEAREST,
    replace(_NEAREST, name="INT8, nearest, bias corrected", bias_corrected=True),
    replace(_NEAREST, name="INT8, nearest, channels shifted by their means", centred="mean"),
    replace(_NEAREST, name="INT8, nearest, channels shifted by their middles", centred="middle"),
    BUILT,
    replace(BUILT, name="INT8, no headroom", headroom=1.0),
    replace(BUILT, name="INT8, headroom 1.5", headroom=1.5),
    replace(BUILT, name="INT8, clipped at the least squared error", clipped="all"),
    replace(BUILT, name="INT8, FC2 alone clipped so", clipped="FC2"),
    replace(BUILT, name="INT8, with a zero point", steps="zero point"),
    replace(BUILT, name="INT8, a step for each token", steps="token"),
    replace(BUILT, name="INT8, or FP8 where the product's error is less", or_fp8=True),
    replace(BUILT, name="INT8, alpha up to 0.9", alphas=(*BUILT.alphas, 0.8, 0.9)),
    replace(BUILT, name="INT8, bias corrected", bias_corrected=True),
    replace(_FP8, name="FP8, rounded to the nearest", learned=False),
    _FP8,
    replace(_INT8W, name="INT8W, rounded to the nearest", learned=False),
    _INT8W,
    replace(_PLAIN4, name="INT4W, nearest, not clipped", storage=replace(INT4W, clips=(1.0,))),
    replace(_PLAIN4, name="INT4W, rounded to the nearest"),
    _INT4W,
    replace(_INT4W, name="INT4W, not clipped", storage=replace(INT4W, clips=(1.0,))),
)


@dataclass
class Seen:
    """What a product read of the calibration texts: each channel's least, greatest, some rows."""

    low: Tensor
    high: Tensor
    rows: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class _Operands:
    """``x`` is read as ``(x - shift) * factors`` in steps of ``step``; ``weight`` fits that."""

    shift: Tensor
    factors: Tensor
    step: float  # 0 where each token has its own
    weight: Tensor
    zero: float = 0.0

    def read(self, x: Tensor, storage: Storage) -> Tensor:
        """What is multiplied of ``x [..., K]``."""
        smoothed = (x - self.shift) * self.factors
        step = self.step or smoothed.abs().amax(-1, keepdim=True) / storage.levels
        return _round(smoothed - self.zero, step, storage) + self.zero


def quantised(module: Linear, seen: Seen, recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """What replaces a product: its operands rounded as the recipe says, sums exact."""
    rows = torch.cat(seen.rows)[:ROWS]
    weight, bias, storage = module.weight.detach(), module.bias.detach(), recipe.storage
    if storage.weight_only:
        stored = _learned(weight, rows, storage) if recipe.learned else _stored(weight, storage)
        return lambda x: x @ stored + bias
    if (
        recipe.or_fp8
        and _best(weight, rows, seen, replace(recipe, storage=FP8))[1]
        < (_best(weight, rows, seen, recipe)[1])
    ):
        storage = FP8
    chosen, _ = _best(weight, rows, seen, replace(recipe, storage=storage))
    inputs = chosen.read(rows, storage)
    rounding = _learned(chosen.weight, inputs, storage) if recipe.learned else None
    matrix = _stored(chosen.weight, storage) if rounding is None else rounding
    constant = bias + chosen.shift @ weight
    if recipe.bias_corrected:
        exact = ((rows - chosen.shift) * chosen.factors) @ chosen.weight
        constant = constant + (exact - inputs @ matrix).mean(0)
    return lambda x: chosen.read(x, storage) @ matrix + constant


def _best(weight: Tensor, rows: Tensor, seen: Seen, recipe: Recipe) -> tuple[_Operands, float]:
    """Smoothed as far as it pays, and the squared error that is left with nearest rounding."""
    storage = recipe.storage
    found = [_smoothed(weight, rows, seen, recipe, alpha) for alpha in recipe.alphas]
    errors = [_error(rows, o, _stored(o.weight, storage), storage) for o in found]
    best = int(np.argmin(errors))
    best = best if errors[best] < 0.95**2 * errors[0] else 0
    return found[best], errors[best]


def _smoothed(weight: Tensor, rows: Tensor, seen: Seen, recipe: Recipe, alpha: float) -> _Operands:
    shifts = {"mean": rows.mean(0), "middle": (seen.low + seen.high) / 2}
    shift = shifts.get(recipe.centred, torch.zeros_like(seen.low))
    most = torch.maximum((seen.high - shift).abs(), (seen.low - shift).abs()).clamp(min=1e-5)
    logs = (1 - alpha) * weight.abs().amax(1).clamp(min=1e-5).log() - alpha * most.log()
    factors = (logs - logs.mean()).exp() if alpha else torch.ones_like(most)
    smoothed, levels = weight / factors[:, None], recipe.storage.levels
    step = recipe.headroom * float((most * factors).max()) / levels
    if recipe.steps == "token":
        return _Operands(shift, factors, 0.0, smoothed)
    if recipe.steps == "zero point":
        low, high = float((seen.low * factors).min()), float((seen.high * factors).max())
        step = recipe.headroom * (high - low) / 2 / levels
        return _Operands(shift, factors, step, smoothed, round((low + high) / 2 / step) * step)
    if recipe.clipped == "all" or (recipe.clipped == "FC2" and weight.shape[0] > weight.shape[1]):
        step = _least_error_step((rows - shift) * factors, step, recipe.storage)
    return _Operands(shift, factors, step, smoothed)


def _least_error_step(values: Tensor, widest: float, storage: Storage) -> float:
    steps = [widest * share for share in np.linspace(0.3, 1, 29).tolist()]
    errors = [float((_round(values, step, storage) - values).square().mean()) for step in steps]
    best: float = steps[int(np.argmin(errors))]
    return best


def _error(rows: Tensor, operands: _Operands, stored: Tensor, storage: Storage) -> float:
    exact = ((rows - operands.shift) * operands.factors) @ operands.weight
    return float((operands.read(rows, storage) @ stored - exact).square().sum())


def _round(values: Tensor, step: float | Tensor, storage: Storage) -> Tensor:
    steps = (values / step).clamp(-storage.levels, storage.levels)
    if storage.dtype.startswith("float8"):
        return steps.to(torch.float8_e4m3fn).to(values.dtype) * step
    return steps.round() * step


def _stored(weight: Tensor, storage: Storage) -> Tensor:
    if storage.weight_only:
        return torch.from_numpy(rounded_weight(weight.numpy(), "float32", storage))
    return _round(weight, _steps(weight, storage), storage)


def _steps(weight: Tensor, storage: Storage) -> Tensor:
    """Of each number of ``[K, N]``, or what broadcasts to that."""
    if storage.weight_only:
        scales = weight_scales(weight.numpy(), "float32", storage)
        return torch.from_numpy(wide_scales(scales, len(weight)))
    most = weight.abs().amax() if storage.weight_axis is None else weight.abs().amax(0)
    return most / storage.levels


def _learned(weight: Tensor, inputs: Tensor, storage: Storage) -> Tensor:
    """Rounded for what is multiplied: rounded inputs where the scheme rounds them."""
    moment = (inputs.T @ inputs).double().numpy() / len(inputs)
    steps = _steps(weight, storage)
    found = learned_steps(weight.numpy(), moment, steps.numpy(), storage)
    return torch.from_numpy(found.astype(np.float32)) * steps
