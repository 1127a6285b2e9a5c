"""The encoder's own name and shape of every tensor, whatever a checkpoint's file calls it.

All families share these *canonical* names: the traced graph, the adapters' arithmetic, calibrations
and slot files know no others. In a template, ``{}`` stands for the layer's number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.checkpoint.encoder_config import EncoderConfig

WORD = "embeddings.word_embeddings"
TOKEN_TYPE = "embeddings.token_type_embeddings"
EMBEDDING_NORM = "emb_ln"
QKV = "encoder.layers.{}.mixer.Wqkv"  # rows of the query, the key and the value
OUT = "encoder.layers.{}.mixer.out_proj"
NORM1 = "encoder.layers.{}.norm1"  # after attention
FC1 = "encoder.layers.{}.mlp.fc1"
FC2 = "encoder.layers.{}.mlp.fc2"
NORM2 = "encoder.layers.{}.norm2"  # after the MLP
POOLER = "pooler.dense"  # CLS + tanh; the embedding is the mean, so the pooler is never exported

EMBEDDINGS = (WORD, TOKEN_TYPE)
# A layer's matrix products, in the order of computation.
GEMMS = (QKV, OUT, FC1, FC2)
NORMS = (EMBEDDING_NORM, NORM1, NORM2)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)


@dataclass(frozen=True)
class Module:
    """A matrix that an adapter can change. ``stored`` is its shape in the checkpoint."""

    name: str
    stored: tuple[int, int]
    embedding: bool = False

    @property
    def rows(self) -> int:
        """Rows of the adapted matrix: inputs of a linear layer, entries of an embedding."""
        return self.stored[0 if self.embedding else 1]

    @property
    def columns(self) -> int:
        """Columns of the adapted matrix: outputs of a linear layer, width of an embedding."""
        return self.stored[1 if self.embedding else 0]


def split_layer(name: str) -> tuple[str, str]:
    """A name's template and its layer's number; the number is empty where it has none."""
    match = _NUMBER.search(name)
    if match is None:
        return name, ""
    return f"{name[: match.start()]}{{}}{name[match.end() :]}", match[0]


def in_layer(template: str, layer: int | str) -> str:
    """The name that a template has in one layer."""
    return template.replace("{}", str(layer))


def layer_of(name: str) -> int:
    """The layer that a canonical name belongs to; ValueError where it belongs to none."""
    return int(split_layer(name)[1])


def is_gemm(module: str) -> bool:
    """Whether a module's canonical name is that of one of a layer's matrix products."""
    return split_layer(module)[0] in GEMMS


def adaptable_modules(config: EncoderConfig) -> dict[str, Module]:
    """Every module that an adapter can change, by canonical name."""
    h, ff = config.hidden, config.intermediate
    modules = [Module(WORD, (config.vocab, h), embedding=True)]
    if config.token_types:
        modules.append(Module(TOKEN_TYPE, (config.token_types, h), embedding=True))
    if config.pooler:
        modules.append(Module(POOLER, (h, h)))
    shapes = {QKV: (3 * h, h), OUT: (h, h), FC1: (ff, h), FC2: (h, ff)}
    modules += [
        Module(in_layer(template, layer), shapes[template])
        for layer in range(config.layers)
        for template in GEMMS
    ]
    return {module.name: module for module in modules}


def tensor_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every base tensor's canonical name and stored shape."""
    h = config.hidden
    shapes: dict[str, tuple[int, ...]] = {}
    for module in adaptable_modules(config).values():
        shapes[module.name + ".weight"] = module.stored
        if not module.embedding:
            shapes[module.name + ".bias"] = (module.columns,)
    norms = [EMBEDDING_NORM]
    norms += [in_layer(norm, layer) for layer in range(config.layers) for norm in (NORM1, NORM2)]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (h,)
    return shapes
