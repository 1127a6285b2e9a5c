"""Recipes of quantisation on two trained checkpoints: ``make recipes``.

The traced FP32 encoder with its products' operands rounded (emulated: nothing else is rounded, as
it would be in FP16), each recipe one change to the one before or to what is built. Ranges and
roundings come from calibration texts, cosines from texts that no calibration sees, all in the same
run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.corpus import held_back, load_corpus, questions
from calibration.observers import HEADROOM
from calibration.stratify import stratify
from export.bundle.plan import plan_bundle
from export.checkpoint.reader import open_checkpoint
from export.checkpoint.source import SAMPLE
from export.graph.encoder import Encoder, Linear, load_encoder
from export.graph.trace import trace
from export.graph.weights import write_weights
from export.spec import BuildSpec, Limits
from runtimes.arrays import Ids
from runtimes.choices import Precision, Target
from runtimes.text.tokens import TextTokenizer
from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER
from tests.bench.summary import machine
from tests.support import DEEP

FILE = FOLDER / "recipes" / "recipes.json"  # the committed report
CASES = (
    ("sample", SAMPLE, "classification"),
    ("sample", SAMPLE, "retrieval.query"),
    ("deep", DEEP, "classification"),
    ("deep", DEEP, "retrieval.passage"),
)
TOKENS, TEXTS, ROWS_PER_TEXT, ROWS = 512, 256, 16, 4096
_DAMPING = 0.01  # of the mean diagonal, as GPTQ's authors have it
_LEVELS = 127


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one product is quantised. What is built is the default."""

    name: str
    headroom: float = HEADROOM
    alphas: tuple[float, ...] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
    centred: str = ""  # "mean" or "middle": each channel is shifted by its own before it is scaled
    clipped: bool = False  # the amplitude with the least squared error
    gptq: bool = False
    bias_corrected: bool = False


BUILT = Recipe(name="as built")
RECIPES = (
    replace(BUILT, name="no smoothing", alphas=(0.0,)),
    replace(BUILT, name="before: no headroom", headroom=1.0),
    BUILT,
    replace(BUILT, name="headroom 1.5", headroom=1.5),
    replace(BUILT, name="clipped where the squared error is least", clipped=True),
    replace(BUILT, name="alpha up to 0.9", alphas=(*BUILT.alphas, 0.8, 0.9)),
    replace(BUILT, name="channels shifted by their means", centred="mean"),
    replace(BUILT, name="channels shifted by their middles", centred="middle"),
    replace(BUILT, name="bias corrected", bias_corrected=True),
    replace(BUILT, name="GPTQ", gptq=True),
    replace(BUILT, name="GPTQ, bias corrected", gptq=True, bias_corrected=True),
)


@dataclass
class Seen:
    """What a product read of the calibration texts: each channel's least, greatest, some rows."""

    low: Tensor
    high: Tensor
    rows: list[Tensor] = field(default_factory=list)


class Bench:
    """One checkpoint's task: the FP32 encoder, what its products read, the texts to judge by."""

    def __init__(self, model: Path, task: str, folder: Path) -> None:
        checkpoint = open_checkpoint(model)
        config = checkpoint.config
        spec = BuildSpec(
            model=str(model),
            task=task,
            precision=Precision.INT8,
            target=Target.ONNXRUNTIME,
            out=folder,
            limits=Limits(max_batch=4, max_tokens=TOKENS),
        )
        plan = plan_bundle(spec, checkpoint, task, shared=False)
        graph = trace(config, "float32", 4, TOKENS, plan.form)
        write_weights(folder, graph.slots, plan.contents, TOKENS)
        self.encoder = load_encoder(config, "float32", TOKENS, folder, graph.slots, plan.form)
        path = model / "tokenizer.json"
        tokenizer = TextTokenizer(path, max_tokens=TOKENS, pad_id=config.pad_id)
        prefix = plan.prefixes[task]
        named = self.encoder.named_modules()
        self.products = {name: m for name, m in named if isinstance(m, Linear)}
        samples = stratify(load_corpus(None), tokenizer, prefix, TOKENS, count=TEXTS, task=task)
        self.seen = self._watch([sample.ids for sample in samples])
        asked = questions()[:96]
        texts = (
            [t.text for t in held_back()] + [q.query for q in asked] + [q.passage for q in asked]
        )
        self.texts = tokenizer.encode(texts, prefix)
        self.exact = self._vectors()

    def cosines(self, recipe: Recipe) -> Tensor:
        """Of every text, with every product quantised."""
        hooks = []
        for name, module in self.products.items():
            forward = quantised(module, self.seen[name], recipe)
            hooks.append(module.register_forward_hook(_replacing(forward)))
        try:
            return (self._vectors() * self.exact).sum(1)
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, texts: Sequence[Ids]) -> dict[str, Seen]:
        seen: dict[str, Seen] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_: Any, inputs: tuple[Tensor, ...]) -> None:
                x = inputs[0][0]
                low, high = x.amin(0), x.amax(0)
                found = seen.setdefault(name, Seen(low, high))
                found.low, found.high = found.low.minimum(low), found.high.maximum(high)
                found.rows.append(x[:: max(1, len(x) // ROWS_PER_TEXT)].clone())

            return hook

        hooks = [m.register_forward_pre_hook(keep(name)) for name, m in self.products.items()]
        with torch.inference_mode():
            for ids in texts:
                run(self.encoder, ids)
        for hook in hooks:
            hook.remove()
        return seen

    def _vectors(self) -> Tensor:
        with torch.inference_mode():
            return torch.stack([run(self.encoder, ids).double() for ids in self.texts])


def run(encoder: Encoder, ids: Ids) -> Tensor:
    """One text's vector."""
    tokens = torch.from_numpy(ids)[None]
    vector: Tensor = encoder(tokens, torch.ones_like(tokens))[0]
    return vector


def _replacing(forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _, inputs, __: forward(inputs[0])


@dataclass(frozen=True)
class _Operands:
    """``x`` is read as ``(x - shift) * factors`` in steps of ``step``; ``weight`` fits that."""

    shift: Tensor
    factors: Tensor
    step: float
    weight: Tensor


def quantised(module: Linear, seen: Seen, recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """What replaces a product: its operands rounded as the recipe says, sums exact."""
    rows = torch.cat(seen.rows)[:ROWS]
    weight, bias = module.weight.detach(), module.bias.detach()
    found = [_smoothed(weight, rows, seen, recipe, alpha) for alpha in recipe.alphas]
    errors = [_error(rows, o, _rounded(o.weight)) for o in found]
    best = int(np.argmin(errors))
    chosen = found[best if errors[best] < 0.95**2 * errors[0] else 0]
    inputs = _input(rows, chosen)
    stored = _gptq(chosen.weight, inputs) if recipe.gptq else _rounded(chosen.weight)
    constant = bias + chosen.shift @ weight
    if recipe.bias_corrected:
        exact = ((rows - chosen.shift) * chosen.factors) @ chosen.weight
        constant = constant + (exact - inputs @ stored).mean(0)
    return lambda x: _input(x, chosen) @ stored + constant


def _smoothed(weight: Tensor, rows: Tensor, seen: Seen, recipe: Recipe, alpha: float) -> _Operands:
    shifts = {"mean": rows.mean(0), "middle": (seen.low + seen.high) / 2}
    shift = shifts.get(recipe.centred, torch.zeros_like(seen.low))
    most = torch.maximum((seen.high - shift).abs(), (seen.low - shift).abs()).clamp(min=1e-5)
    logs = (1 - alpha) * weight.abs().amax(1).clamp(min=1e-5).log() - alpha * most.log()
    factors = (logs - logs.mean()).exp() if alpha else torch.ones_like(most)
    step = recipe.headroom * float((most * factors).max()) / _LEVELS
    if recipe.clipped:
        step = _least_error_step((rows - shift) * factors, step)
    return _Operands(shift, factors, step, weight / factors[:, None])


def _least_error_step(values: Tensor, widest: float) -> float:
    steps = [widest * share for share in np.linspace(0.3, 1, 29).tolist()]
    errors = [float((_round(values, step) - values).square().mean()) for step in steps]
    best: float = steps[int(np.argmin(errors))]
    return best


def _error(rows: Tensor, operands: _Operands, stored: Tensor) -> float:
    exact = ((rows - operands.shift) * operands.factors) @ operands.weight
    return float((_input(rows, operands) @ stored - exact).square().sum())


def _input(x: Tensor, operands: _Operands) -> Tensor:
    return _round((x - operands.shift) * operands.factors, operands.step)


def _round(values: Tensor, step: float | Tensor) -> Tensor:
    return (values / step).round().clamp(-_LEVELS, _LEVELS) * step


def _rounded(weight: Tensor) -> Tensor:
    return _round(weight, weight.abs().amax(0) / _LEVELS)


def _gptq(weight: Tensor, inputs: Tensor) -> Tensor:
    """Row by row, each row's rounding error made up for by the rows not yet rounded.

    Frantar et al., "GPTQ" (2023), with the order of descending diagonal; what it has seen are the
    rounded inputs, so that the products as they are executed come close.
    """
    hessian = (inputs.T @ inputs).double() / len(inputs)
    diagonal = hessian.diagonal()
    hessian = hessian + _DAMPING * diagonal.mean() * torch.eye(len(hessian), dtype=torch.float64)
    order = diagonal.argsort(descending=True)
    inverse = torch.linalg.inv(hessian[order][:, order])
    upper = torch.linalg.cholesky(inverse, upper=True)
    left, step = weight[order].double(), (weight.abs().amax(0) / _LEVELS).double()
    for row in range(len(left)):
        rounded = _round(left[row], step)
        error = (left[row] - rounded) / upper[row, row]
        left[row] = rounded
        left[row + 1 :] -= upper[row, row + 1 :, None] * error
    return left[order.argsort()].float()


def measure(cases: Sequence[tuple[str, Path, str]]) -> list[dict[str, Any]]:
    """Least and mean cosine of each recipe, case by case."""
    found = []
    for name, model, task in cases:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(model, task, Path(folder))
            for recipe in RECIPES:
                cosines = bench.cosines(recipe)
                figures = {"least": float(cosines.min()), "mean": float(cosines.mean())}
                print(f"{name} {task}: {recipe.name}: {figures}", flush=True)
                found.append({"model": name, "task": task, "recipe": recipe.name, **figures})
    return found


def table() -> str:
    """The committed report, a row for each recipe."""
    report = json.loads(FILE.read_text(encoding="utf-8"))
    cases = list(dict.fromkeys((row["model"], row["task"]) for row in report["rows"]))
    head = ("recipe", *(f"{model}, {task}" for model, task in cases))
    by_recipe: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in report["rows"]:
        by_recipe.setdefault(row["recipe"], {})[row["model"], row["task"]] = row
    rows = [
        (name, *(f"{found[c]['least']:.6f} / {found[c]['mean']:.6f}" for c in cases))
        for name, found in by_recipe.items()
    ]
    caption = f"*least / mean cosine over {report['texts']} texts, emulated; {report['machine']}, "
    return f"{caption}{report['date']}*\n\n{markdown(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    texts = len(held_back()) + 2 * 96
    report = {"machine": machine(), "date": date.today().isoformat(), "texts": texts}
    report |= {"rows": measure(CASES)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "recipes.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
