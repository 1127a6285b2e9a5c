"""Rounding of weights that looks at what they multiply (GPTQ), product by product.

The FP32 model runs once on some short texts; before each of its products the weight is rounded for
the inputs that arrive there, as :func:`calibration.rounding.learned_steps` does. The inputs are
those of FP32, rounded as the product will read them. So one product's inputs are in memory at a
time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.quantise import Matrix
from calibration.rounding import learned_steps
from export.console.progress import progress_bar
from export.graph.encoder import Encoder
from export.graph.precision_plan import PrecisionPlan
from export.quantisation.fp32_model import Batch, open_fp32, short_batch, write_fp32
from export.quantisation.subject import Subject, sample_texts, subject_texts
from runtimes.temporary import temporary_folder

Steps = dict[str, NDArray[np.generic]]
_TEXTS, _TOKENS = 256, 16  # some 4096 rows, as many as FC2 of the real model has inputs


def rounded_steps(subject: Subject, plan: PrecisionPlan) -> Steps:
    """The numbers ``[K, N]`` of each weight that ``plan`` quantises, learned from texts.

    They are the calibration's, or those of the project where the user named a table alone.
    """
    samples = sample_texts(subject, subject_texts(subject))
    with temporary_folder("adaptrt-rounding-") as folder:
        encoder = open_fp32(subject, folder, write_fp32(subject, folder))
        return _watched(encoder, short_batch(subject, samples, _TEXTS, _TOKENS), plan)


def _watched(encoder: Encoder, batch: Batch, plan: PrecisionPlan) -> Steps:
    mask = torch.from_numpy(batch.tokens.attention_mask)
    feeds = [torch.from_numpy(batch.tokens.input_ids), mask]
    if batch.task_ids is not None:
        feeds.append(torch.tensor(batch.task_ids))
    steps: Steps = {}
    left = iter(progress_bar(plan.quantised, "rounding", "GEMM"))

    def learn(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            weight = module.weight.detach().numpy()
            steps[name] = _steps(plan, name, weight, inputs[0][mask.bool()].numpy())
            next(left)

        return hook

    modules = dict(encoder.named_modules())
    hooks = [modules[n].register_forward_pre_hook(learn(n)) for n in plan.quantised]
    try:
        with torch.inference_mode():
            encoder(*feeds)
        next(left, None)  # the bar's end, which takes it from the screen
    finally:
        for hook in hooks:
            hook.remove()
    return steps


def _steps(plan: PrecisionPlan, name: str, weight: Matrix, rows: Matrix) -> NDArray[np.generic]:
    read = plan.multiplied(name, rows, weight)
    moment = (read.T @ read).astype(np.float64) / len(read)
    smoothed, scales, _ = plan.operand(name, weight)
    return learned_steps(smoothed, moment, scales, plan.storage_of(name))
