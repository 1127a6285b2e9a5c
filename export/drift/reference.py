"""The FP32 reference, layer by layer: transformers' own forward pass, watched by hooks.

What a layer's blocks gave is handed out when the layer is done, and let go afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.drift.blocks import Block
from runtimes.errors import InputError
from runtimes.executors.torch_reference import exact_products
from runtimes.text.tokens import Tokens

Captured = Mapping[Block, Tensor]
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# Below a layer, the module whose output a block is.
_OUTPUTS: Mapping[str, Block] = {
    "self_attn.o_proj": Block.OUT,
    "post_attention_layernorm": Block.NORM1,
    "mlp.fc1": Block.FC1,
    "mlp.fc2": Block.FC2,
    "post_mlp_layernorm": Block.NORM2,
}
_INPUTS: Mapping[str, Block] = {"self_attn.o_proj": Block.ATTENTION, "mlp.fc2": Block.GELU}
_MODULES: Mapping[Block, tuple[str, ...]] = {
    Block.QKV: _QKV,
    Block.OUT: ("self_attn.o_proj",),
    Block.FC1: ("mlp.fc1",),
    Block.FC2: ("mlp.fc2",),
    Block.NORM1: ("post_attention_layernorm",),
    Block.NORM2: ("post_mlp_layernorm",),
}


@dataclass(frozen=True)
class Linear:
    """A product as the reference has it: ``x·(weight + delta) + bias``, FP32 ``[in, out]``.

    ``delta`` is the adapter's part, None where there is none.
    """

    weight: Tensor
    delta: Tensor | None
    bias: Tensor

    @property
    def merged(self) -> Tensor:
        """The matrix with its adapter."""
        return self.weight if self.delta is None else self.weight + self.delta


@dataclass(frozen=True)
class Norm:
    """A LayerNorm's ``gamma``, ``beta`` and epsilon."""

    gamma: Tensor
    beta: Tensor
    epsilon: float


@dataclass(frozen=True)
class Table:
    """Rows of the word embeddings, of token ids: ``base`` and the adapter's ``delta``.

    ``token_type`` is added to every row, None in a family without.
    """

    base: Tensor
    delta: Tensor | None
    token_type: Tensor | None


class ReferenceNetwork:
    """A reference model and its modules, found by transformers' names."""

    def __init__(self, model: nn.Module) -> None:
        """Raises :class:`InputError` for a model whose modules have other names."""
        self.model = model.eval()
        try:
            self._layers = list(model.get_submodule("layers").children())
            self._norm = model.get_submodule("embeddings.LayerNorm")
            self._words = model.get_submodule("embeddings.word_embeddings")
            self._types = model.get_submodule("embeddings.token_type_embeddings")
            for layer in self._layers:
                for name in {*_OUTPUTS, *_QKV}:
                    layer.get_submodule(name)
        except AttributeError as error:
            raise InputError(
                f"drift knows the modules of jina-embeddings-v3, {type(model).__name__} has others "
                f"({error}); a family needs its names in export/drift/reference.py"
            ) from error

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self._layers)

    def run(self, tokens: Tokens, watch: Callable[[int | None, Captured], None]) -> Tensor:
        """The token vectors ``[batch, sequence, hidden]``.

        ``watch`` gets the embeddings' blocks (layer None), then each layer's when it is computed.
        """
        ids, mask = (torch.from_numpy(a) for a in (tokens.input_ids, tokens.attention_mask))
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(exact_products())
            stack.enter_context(sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]))
            stack.enter_context(self._watched(watch))
            hidden: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden

    def linear(self, layer: int, block: Block) -> Linear:
        """The product of a block; that of Q, K and V as one."""
        parts = [_linear(self._layers[layer].get_submodule(name)) for name in _MODULES[block]]
        deltas = [part.weight * 0 if part.delta is None else part.delta for part in parts]
        adapted = any(part.delta is not None for part in parts)
        return Linear(
            torch.cat([part.weight for part in parts], 1),
            torch.cat(deltas, 1) if adapted else None,
            torch.cat([part.bias for part in parts]),
        )

    def norm(self, layer: int | None, block: Block) -> Norm:
        """The norm of a block."""
        found: Any = self._norm
        if layer is not None:
            found = self._layers[layer].get_submodule(_MODULES[block][0])
        return Norm(found.weight.detach(), found.bias.detach(), found.eps)

    def rows(self, ids: Tensor) -> Table:
        """What the embedding of ids ``[batch, sequence]`` is a sum of."""
        base, delta = _embedded(self._words, ids)
        first, more = _embedded(self._types, torch.zeros((1, 1), dtype=torch.int64))
        return Table(base, delta, first if more is None else first + more)

    @contextmanager
    def _watched(self, watch: Callable[[int | None, Captured], None]) -> Iterator[None]:
        handles = [self._norm.register_forward_hook(partial(_embedding_done, watch))]
        for number, layer in enumerate(self._layers):
            seen: dict[Block | str, Tensor] = {}
            for name, block in _OUTPUTS.items():
                module = layer.get_submodule(name)
                handles.append(module.register_forward_hook(partial(_keep_output, seen, block)))
            for name, block in _INPUTS.items():
                module = layer.get_submodule(name)
                handles.append(module.register_forward_pre_hook(partial(_keep_input, seen, block)))
            for name in _QKV:
                module = layer.get_submodule(name)
                handles.append(module.register_forward_hook(partial(_keep_output, seen, name)))
            attention = layer.get_submodule("self_attn")
            handles.append(
                attention.register_forward_hook(partial(_rotate, seen), with_kwargs=True)
            )
            handles.append(layer.register_forward_hook(partial(_done, watch, number, seen)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _embedding_done(watch: Callable[..., None], _: Any, inputs: Any, output: Tensor) -> None:
    watch(None, {Block.LOOKUP: inputs[0], Block.EMBEDDING_NORM: output})


def _keep_output(seen: dict[Any, Tensor], key: Any, _: Any, inputs: Any, output: Tensor) -> None:
    seen[key] = output


def _keep_input(seen: dict[Any, Tensor], key: Any, _: Any, inputs: Any) -> None:
    seen[key] = inputs[0]


def _rotate(seen: dict[Any, Tensor], module: Any, _: Any, given: Any, output: Any) -> None:
    """Q and K as transformers' own function rotates them, ``[batch, sequence, 2 · hidden]``."""
    from transformers.models.jina_embeddings_v3 import modeling_jina_embeddings_v3 as modeling

    q, k, v = (seen.pop(name) for name in _QKV)
    heads = [torch.unflatten(x, -1, (-1, module.head_dim)).transpose(1, 2) for x in (q, k)]
    turned = modeling.apply_rotary_pos_emb(*heads, *given["position_embeddings"])
    seen[Block.QKV] = torch.cat((q, k, v), -1)
    seen[Block.ROPE] = torch.cat([x.transpose(1, 2).flatten(-2) for x in turned], -1)


def _done(watch: Callable[..., None], number: int, seen: dict[Any, Tensor], *_: Any) -> None:
    captured = dict(seen)
    seen.clear()
    watch(number, captured)


def _linear(module: Any) -> Linear:
    base = getattr(module, "base_layer", module)
    delta = None
    if base is not module:
        (name,) = module.active_adapters
        delta = module.get_delta_weight(name).detach().T
    return Linear(base.weight.detach().T, delta, base.bias.detach())


def _embedded(module: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    base = getattr(module, "base_layer", module)
    rows = nn.functional.embedding(ids, base.weight.detach())
    if base is module:
        return rows, None
    (name,) = module.active_adapters
    low = nn.functional.embedding(ids, module.lora_embedding_A[name].detach().T)
    up = module.lora_embedding_B[name].detach().T
    return rows, (low @ up) * module.scaling[name]
