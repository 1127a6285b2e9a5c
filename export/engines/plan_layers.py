"""Which of the encoder's layers each kernel of a plan belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from export.engines.plan import Kernel

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_BEFORE = re.compile(r"emb(?:eddings|_ln)\.")  # work done once a call


def with_layers(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels of one profile, in the plan's order, each with its layer.

    Where the names of a kernel's ONNX nodes tell several layers, the first counts: the sum and
    LayerNorm that end a layer are one kernel with the next layer's quantisation. RoPE, attention,
    the bank's scaling and what the compiler adds have names without a layer: they belong to the one
    whose results they take, if any of its kernels comes after them. The masks, which take no
    layer's result, and the pooling, after which no layer's kernel comes, run once a call.
    """
    named = [_named(kernel) for kernel in kernels]
    before = _reached(kernels, named)
    backwards = [replace(k, inputs=k.outputs, outputs=k.inputs) for k in reversed(kernels)]
    after = _reached(backwards, named[::-1])[::-1]
    return tuple(
        replace(kernel, layer=own if own is not None or later is None else earlier)
        for kernel, own, earlier, later in zip(kernels, named, before, after, strict=True)
    )


def _named(kernel: Kernel) -> int | None:
    if any(_BEFORE.match(node) for node in kernel.nodes):
        return None
    found = [int(match[1]) for node in kernel.nodes if (match := _LAYER.search(node))]
    return min(found, default=None)


def _reached(kernels: Sequence[Kernel], named: Sequence[int | None]) -> list[int | None]:
    """For each kernel, the last layer among those whose results reach it, its own not counted."""
    carried: dict[str, int] = {}
    reached = []
    for kernel, own in zip(kernels, named, strict=True):
        taken = [carried[tensor.name] for tensor in kernel.inputs if tensor.name in carried]
        reached.append(max(taken, default=None))
        if own is not None:
            taken = [own]
        for tensor in kernel.outputs if taken else ():
            carried[tensor.name] = max(taken)
    return reached
