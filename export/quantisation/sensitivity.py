"""The FP32 encoder on a few texts: what each GEMM reads, and what quantising one GEMM does.

Runs the traced module itself, so a GEMM can be exchanged without building a graph. The inputs of
all layers are kept: quantising a GEMM of layer i costs the layers from i on, half the encoder on
average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from calibration.quantise import Matrix, fake_quantise, stored_scale, weight_scale
from calibration.rounding import rounded_weight
from calibration.smoothing import input_factors
from export.checkpoint.names import layer_of
from export.graph.encoder import Encoder, Linear, unit_mean
from export.graph.precision_plan import GemmRange
from runtimes.arrays import Vectors
from runtimes.schemes import Storage
from runtimes.text.tokens import Tokens


class TrialEncoder:
    """An FP32 encoder in which single GEMMs can be quantised, and some texts that it was run on.

    ``exact`` holds the FP32 vectors of the texts, ``[batch, hidden]``; ``storage`` is what GEMMs
    are quantised to.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokens: Tokens,
        storage: Storage,
        task_ids: Sequence[int] | None = None,
    ) -> None:
        self._encoder, self.storage = encoder, storage
        self._mask = torch.from_numpy(tokens.attention_mask)
        self._inputs: list[tuple[Tensor, Any]] = []
        self._read: dict[str, Tensor] = {}
        feeds = [torch.from_numpy(tokens.input_ids), self._mask]
        if task_ids is not None:
            feeds.append(torch.tensor(task_ids))
        with torch.inference_mode(), self._recording():
            self.exact: Vectors = encoder(*feeds).numpy()

    def rows(self, name: str, limit: int) -> Matrix:
        """Up to ``limit`` rows of what a GEMM reads, evenly spread over all real tokens."""
        rows = self._read[name]
        chosen = torch.linspace(0, len(rows) - 1, min(limit, len(rows))).long()
        picked: Matrix = rows[chosen].numpy()
        return picked

    def weight(self, name: str) -> Matrix:
        """A GEMM's FP32 weight, ``[K, N]``."""
        weight: Matrix = self._linear(name).weight.detach().numpy()
        return weight

    def vectors(self, entries: Mapping[str, GemmRange | None]) -> Vectors:
        """The texts' vectors with the given GEMMs quantised and everything else in FP32.

        Of a GEMM without a range the weight alone is.
        """
        first = min(map(layer_of, entries))
        with torch.inference_mode(), self._quantised(entries):
            x, context = self._inputs[first]
            for layer in self._layers()[first:]:
                x = layer(x, context)
            vectors: Vectors = unit_mean(x, self._mask).numpy()
        return vectors

    def _layers(self) -> list[torch.nn.Module]:
        return list(self._encoder.encoder.layers)

    def _linear(self, name: str) -> Linear:
        module = self._encoder.get_submodule(name)
        if not isinstance(module, Linear):
            raise ValueError(f"{name} is no linear layer")
        return module

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Keeps every layer's arguments and the rows of real tokens that every GEMM reads."""
        real = self._mask.bool()
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: self._inputs.append(inputs))
            for layer in self._layers()
        ]
        for name, module in self._encoder.named_modules():
            if isinstance(module, Linear):

                def keep(_: Any, inputs: tuple[Any, ...], name: str = name) -> None:
                    self._read[name] = inputs[0][real]

                hooks.append(module.register_forward_pre_hook(keep))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _quantised(self, entries: Mapping[str, GemmRange | None]) -> Iterator[None]:
        """Quantises by the effect: ``x·f`` and ``W/f`` are rounded, and the factors f taken out.

        An adapter's low-rank path reads the rounded input too; the graph's reads the exact one.
        """
        kept = {name: self._linear(name).weight for name in entries}
        hooks = []
        for name, entry in entries.items():
            module = self._linear(name)
            weight = self.weight(name)
            if entry is None:
                rounded = rounded_weight(weight, "float32", self.storage)
            else:
                factors = input_factors(entry.channel_max, weight, entry.alpha, "float32")
                rounded = self._smoothed(weight, factors)
                hook = self._rounding(factors, entry.amplitude)
                hooks.append(module.register_forward_pre_hook(hook))
            module.weight = torch.nn.Parameter(torch.from_numpy(rounded), requires_grad=False)
        try:
            yield
        finally:
            for name, parameter in kept.items():
                self._linear(name).weight = parameter
            for hook in hooks:
                hook.remove()

    def _smoothed(self, weight: Matrix, factors: Matrix) -> Matrix:
        """What smoothing by ``factors`` and rounding leave of a weight, the factors taken out."""
        smoothed, storage = weight / factors[:, None], self.storage
        kept = fake_quantise(smoothed, weight_scale(smoothed, "float32", storage), storage)
        rounded: Matrix = kept * factors[:, None]
        return rounded

    def _rounding(self, factors: Matrix, amplitude: float) -> Any:
        """A hook that rounds what a GEMM reads."""
        scale = stored_scale(amplitude, "float32", self.storage)

        def rounded(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            kept = fake_quantise(inputs[0].numpy() * factors, scale, self.storage)
            return (torch.from_numpy(kept / factors), *inputs[1:])

        return rounded
