"""The families of checkpoints that can be built, by ``config.json``'s ``model_type``.

Another family of this architecture is one row here, the function that opens its own implementation
(its reference), and a test. The reference's module is imported when it is called: the table is
read without PyTorch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from export.checkpoint.family import (
    AdapterBank,
    Block,
    ConfigKeys,
    Family,
    Fixed,
    PeftNames,
)
from export.checkpoint.names import (
    EMBEDDING_NORM,
    EMBEDDINGS,
    FC1,
    FC2,
    GEMMS,
    NORM1,
    NORM2,
    OUT,
    POOLER,
    QKV,
    TOKEN_TYPE,
    WORD,
)
from runtimes.errors import InputError, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.checkpoint.reader import Checkpoint


def _reference_of_original(checkpoint: Checkpoint) -> nn.Module:
    from export.checkpoint.reference_jina_v3 import open_original

    return open_original(checkpoint)


def _peft_state_of_original(checkpoint: Checkpoint, task: str) -> dict[str, Tensor]:
    from export.checkpoint.reference_jina_v3 import peft_state

    return peft_state(checkpoint, task)


def _reference_of_native(checkpoint: Checkpoint) -> nn.Module:
    from export.checkpoint.reference_jina_v3 import open_native

    return open_native(checkpoint)


JINA_TASKS = (
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
)
# The native format's config.json carries neither; these are the published model's values.
_JINA_PREFIXES = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
_JINA_DIMENSIONS = (32, 64, 128, 256, 512, 768, 1024)
_JINA_MODULES = (*EMBEDDINGS, EMBEDDING_NORM, *GEMMS, NORM1, NORM2, POOLER)
_JINA_PEFT = PeftNames(
    prefixes=(("roberta.", "model."), ("encoder.",)),
    modules={
        WORD: Block(WORD),
        TOKEN_TYPE: Block(TOKEN_TYPE),
        POOLER: Block(POOLER),
        "layers.{}.mlp.fc1": Block(FC1),
        "layers.{}.mlp.fc2": Block(FC2),
    }
    | {
        f"layers.{{}}.{attention}.{name}": block
        for attention in ("self_attn", "mixer")  # transformers' word and the published folders'
        for name, block in {
            "q_proj": Block(QKV, 0, 3),
            "k_proj": Block(QKV, 1, 3),
            "v_proj": Block(QKV, 2, 3),
            "Wqkv": Block(QKV),
            "o_proj": Block(OUT),
            "out_proj": Block(OUT),
        }.items()
    },
)
_JINA_GELU = Fixed(key="hidden_act", value="gelu", absent="gelu", hint=" (the erf form)")
_JINA_ROTARY = Fixed(
    key="position_embedding_type",
    value="rotary",
    absent=None,
    hint="; this is not a jina-embeddings-v3 checkpoint",
)
# The published model's own code: the adapters are in the model's file.
_JINA_ORIGINAL = Family(
    name="jina-embeddings-v3",
    licence="CC-BY-NC-4.0",
    format="original",
    names={module: (f"roberta.{module}",) for module in _JINA_MODULES},
    matrix="parametrizations.weight.original",
    reference=_reference_of_original,
    peft=_JINA_PEFT,
    bank=AdapterBank(infix=".parametrizations.weight.0.lora_", peft_state=_peft_state_of_original),
    config=ConfigKeys(
        rope_theta="rotary_emb_base",
        lora_rank="lora_rank",
        lora_alpha="lora_alpha",
        tasks="lora_adaptations",
        prefixes="task_instructions",
        dimensions="matryoshka_dimensions",
    ),
    fixed=(_JINA_ROTARY, _JINA_GELU),
    tasks=JINA_TASKS,
    prefixes=_JINA_PREFIXES,
    dimensions=_JINA_DIMENSIONS,
    pooler=True,
)
# transformers' own format: a PEFT folder for each adapter.
_JINA_NATIVE = replace(
    _JINA_ORIGINAL,
    format="native",
    names={module: (module,) for module in _JINA_MODULES},
    matrix="weight",
    reference=_reference_of_native,
    bank=None,
    config=ConfigKeys(prefixes="task_instructions", dimensions="matryoshka_dimensions"),
    fixed=(
        replace(_JINA_ROTARY, absent="rotary"),
        _JINA_GELU,
        Fixed(key="rope_parameters.rope_type", value="default", absent="default"),
    ),
)

# By model_type.
FAMILIES: dict[str, Family] = {
    "xlm-roberta": _JINA_ORIGINAL,
    "jina_embeddings_v3": _JINA_NATIVE,
}


def family_of(file_format: str | None) -> Family:
    """The row of the format that a bundle's manifest names.

    Raises :class:`InputError` for a format that this version does not know.
    """
    for family in FAMILIES.values():
        if family.format == file_format:
            return family
    known = ", ".join(family.format for family in FAMILIES.values())
    raise InputError(
        f"the bundle's model.format is {shown(file_format)}, expected one of {known}; "
        "build the bundle again"
    )
