"""What is particular to a family of checkpoints in one file format: the columns of the table.

The rows are in :mod:`export.checkpoint.families`; everything else asks the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from export.checkpoint.names import NORMS, in_layer, split_layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.checkpoint.reader import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ConfigKeys:
    """Where ``config.json`` has what; a dot leads into an object. None: the family has no such key.

    The tasks' names, prefixes and Matryoshka lengths may be absent from a file: the row has them.
    """

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    head_dim: str = "head_dim"  # may be absent; else hidden / heads
    intermediate: str = "intermediate_size"
    vocab: str = "vocab_size"
    token_types: str | None = "type_vocab_size"
    max_positions: str = "max_position_embeddings"
    layer_norm_eps: str = "layer_norm_eps"
    rope_theta: str = "rope_parameters.rope_theta"  # never guessed: transformers' default differs
    pad_id: str = "pad_token_id"
    lora_rank: str | None = None  # of adapters in the model's file
    lora_alpha: str | None = None
    tasks: str | None = None
    prefixes: str | None = None
    dimensions: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A key of ``config.json`` that has one value here, because the encoder computes no other.

    ``absent`` is what a file without the key means; ``hint`` ends the message of another value.
    """

    key: str
    value: str
    absent: str | None
    hint: str = ""


@dataclass(frozen=True)
class Block:
    """Block ``index`` of ``count`` equal blocks of a canonical module's outputs."""

    module: str  # a template
    index: int = 0
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class PeftNames:
    """How PEFT adapters of the family name modules.

    Of each tuple of ``prefixes`` one may stand before a name, in this order, after PEFT's own.
    """

    prefixes: tuple[tuple[str, ...], ...]
    modules: Mapping[str, Block]  # by template

    def block(self, name: str) -> Block | None:
        """What a module of an adapter is, ``module`` a canonical name; None where it is unknown."""
        for choices in (("base_model.model.",), *self.prefixes):
            name = name.removeprefix(next((c for c in choices if name.startswith(c)), ""))
        template, layer = split_layer(name)
        if (block := self.modules.get(template)) is None:
            return None
        return Block(in_layer(block.module, layer), block.index, block.count)


@dataclass(frozen=True, kw_only=True)
class AdapterBank:
    """The published adapters inside the model's file: A and B of all tasks, stacked by task.

    A module's key is its name in the file, ``infix``, and the side's letter. A is ``[tasks, rank,
    inputs]`` and B ``[tasks, outputs, rank]``; an embedding's are ``[tasks, entries, rank]`` and
    ``[tasks, rank, width]``. ``peft_state`` gives one task's tensors as PEFT would save them for
    the reference, from the file's own names.
    """

    infix: str
    peft_state: Callable[[Checkpoint, str], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One family in one file format.

    ``names`` has the file's names of a canonical module: several where its rows are stored in
    blocks (the query, key and value apart), which are put together in this order. ``reference``
    opens the family's own implementation in FP32, without an adapter. It reads the file's tensors
    by their own names, so that a wrong name in this row fails the gate.
    """

    name: str  # of the published model
    format: str  # what a bundle's manifest says
    licence: str | None = None  # of the published weights
    names: Mapping[str, tuple[str, ...]]
    reference: Callable[[Checkpoint], nn.Module]
    peft: PeftNames
    config: ConfigKeys = ConfigKeys()
    fixed: tuple[Fixed, ...] = ()
    matrix: str = "weight"  # the last part of a matrix's key
    bank: AdapterBank | None = None  # None: a PEFT folder for each task
    tasks: tuple[str, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict)
    dimensions: tuple[int, ...] = ()
    pooler: bool = False  # whether the file holds one

    @property
    def unstated_licence(self) -> str:
        """The manifest's licence of a checkpoint that states none."""
        if self.licence is None:
            return "not stated"
        return f"not stated; the published {self.name} weights are {self.licence}"

    def keys(self, tensor: str) -> tuple[str, ...]:
        """The keys in the file of a tensor by canonical name, one for each block of rows."""
        owner, _, part = tensor.rpartition(".")
        template, layer = split_layer(owner)
        end = self.matrix if part == "weight" and template not in NORMS else part
        return tuple(f"{in_layer(name, layer)}.{end}" for name in self.names[template])

    def bank_key(self, module: str, side: str) -> str:
        """The key of a module's bank, ``side`` A or B."""
        if self.bank is None:
            raise ValueError(f"{self.format} has no adapters in the model's file")
        template, layer = split_layer(module)
        (name,) = self.names[template]
        return f"{in_layer(name, layer)}{self.bank.infix}{side}"
