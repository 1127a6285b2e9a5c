"""The canonical names and shapes of every tensor a checkpoint must hold.

Canonical names are those of the native format's base file, which are also the original format's
without ``roberta.`` and ``parametrizations``.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.checkpoint.config import EncoderConfig

WORD = "embeddings.word_embeddings"
TOKEN_TYPE = "embeddings.token_type_embeddings"
POOLER = "pooler.dense"  # CLS + tanh; the embedding is the mean, so the pooler is never exported


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


def adaptable_modules(config: EncoderConfig) -> dict[str, Module]:
    """Every module that carries LoRA in the published checkpoint, by canonical name."""
    h, ff = config.hidden, config.intermediate
    modules = [
        Module(WORD, (config.vocab, h), embedding=True),
        Module(TOKEN_TYPE, (config.token_types, h), embedding=True),
        Module(POOLER, (h, h)),
    ]
    for layer in range(config.layers):
        prefix = f"encoder.layers.{layer}."
        modules += [
            Module(prefix + "mixer.Wqkv", (3 * h, h)),
            Module(prefix + "mixer.out_proj", (h, h)),
            Module(prefix + "mlp.fc1", (ff, h)),
            Module(prefix + "mlp.fc2", (h, ff)),
        ]
    return {module.name: module for module in modules}


def tensor_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every base tensor's canonical name and stored shape."""
    h = config.hidden
    shapes: dict[str, tuple[int, ...]] = {"emb_ln.weight": (h,), "emb_ln.bias": (h,)}
    for module in adaptable_modules(config).values():
        shapes[module.name + ".weight"] = module.stored
        if not module.embedding:
            shapes[module.name + ".bias"] = (module.columns,)
    for layer in range(config.layers):
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                shapes[f"encoder.layers.{layer}.{norm}.{part}"] = (h,)
    return shapes
