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
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibration.corpus import held_back, load_corpus, questions
from calibration.stratify import stratify
from export.bundle.plan import plan_bundle
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE
from export.graph.encoder import Encoder, Linear, load_encoder
from export.graph.trace import trace
from export.graph.weights import write_weights
from export.spec import BuildSpec, Limits
from runtimes.arrays import Ids
from runtimes.choices import Precision, Target
from runtimes.text.tokens import TextTokenizer
from tests.bench.recipe import RECIPES, Recipe, Seen, quantised
from tests.bench.summary import machine
from tests.support import DEEP

CASES = (
    ("sample", SAMPLE, "classification"),
    ("sample", SAMPLE, "retrieval.query"),
    ("deep", DEEP, "classification"),
    ("deep", DEEP, "retrieval.passage"),
)
TOKENS, TEXTS, ROWS_PER_TEXT = 512, 256, 16


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
        named = self.encoder.named_modules()
        self.products = {name: m for name, m in named if isinstance(m, Linear)}
        calibrated, self.texts = texts_of(checkpoint, task)
        self.seen = self._watch(calibrated)
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


def texts_of(checkpoint: Checkpoint, task: str) -> tuple[list[Ids], list[Ids]]:
    """Texts to calibrate on and texts to judge by, as the task's token ids."""
    config = checkpoint.config
    path = checkpoint.folder / "tokenizer.json"
    tokenizer = TextTokenizer(path, max_tokens=TOKENS, pad_id=config.pad_id)
    prefix, asked = config.prefix(task), questions()[:96]
    samples = stratify(load_corpus(None), tokenizer, prefix, TOKENS, count=TEXTS, task=task)
    texts = [t.text for t in held_back()] + [q.query for q in asked] + [q.passage for q in asked]
    return [sample.ids for sample in samples], list(tokenizer.encode(texts, prefix))


def run(encoder: Encoder, ids: Ids) -> Tensor:
    """One text's vector."""
    tokens = torch.from_numpy(ids)[None]
    vector: Tensor = encoder(tokens, torch.ones_like(tokens))[0]
    return vector


def _replacing(forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _, inputs, __: forward(inputs[0])


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    texts = len(held_back()) + 2 * 96
    report = {"machine": machine(), "date": date.today().isoformat(), "texts": texts}
    report |= {"command": "make recipes", "rows": measure(CASES)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "recipes.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
