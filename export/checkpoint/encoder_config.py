"""The encoder's shape, and the model card's facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from runtimes.choices import BASE_TASK
from runtimes.manifest import Architecture


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture of one checkpoint. Two equal configurations share one traced graph."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    token_types: int  # 0: the family has none
    max_positions: int
    layer_norm_eps: float
    rope_theta: float
    pad_id: int
    # Facts beside the architecture; they do not change the graph.
    tasks: tuple[str, ...] = field(default=(), compare=False)
    prefixes: Mapping[str, str] = field(default_factory=dict, compare=False)
    dimensions: tuple[int, ...] = field(default=(), compare=False)
    lora_rank: int = field(default=1, compare=False)  # of adapters in the model's file
    lora_alpha: float = field(default=1.0, compare=False)
    pooler: bool = field(default=True, compare=False)  # whether the checkpoint holds one

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens; XLM-RoBERTa keeps two position slots for padding."""
        return self.max_positions - 2

    def architecture(self) -> Architecture:
        """The fields that decide the graph and the shapes, as the manifest holds them."""
        return Architecture(**{f.name: getattr(self, f.name) for f in fields(self) if f.compare})

    @classmethod
    def of(cls, architecture: Architecture, *, pooler: bool = True) -> EncoderConfig:
        """The configuration of a bundle's encoder; equal to the one it was built from."""
        return cls(**vars(architecture), pooler=pooler)

    def prefix(self, task: str) -> str:
        """The instruction put before a text of this task; empty where there is none."""
        return "" if task == BASE_TASK else self.prefixes.get(task, "")
