"""The table of families: every row says all there is to say, once."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.families import FAMILIES, family_of
from export.checkpoint.family import Block, Family
from export.checkpoint.names import (
    GEMMS,
    QKV,
    adaptable_modules,
    in_layer,
    is_gemm,
    layer_of,
    split_layer,
    tensor_shapes,
)
from runtimes.errors import InputError
from tests import second_family

ROWS = {**FAMILIES, second_family.MODEL_TYPE: second_family.FAMILY}
each_row = pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.format)


def config_of(row: Family) -> EncoderConfig:
    return EncoderConfig(
        hidden=8,
        layers=12,
        heads=2,
        intermediate=16,
        vocab=32,
        token_types=1 if row.config.token_types else 0,
        max_positions=64,
        layer_norm_eps=1e-5,
        rope_theta=1e4,
        pad_id=1,
        pooler=row.pooler,
    )


@each_row
def test_every_tensor_has_keys_of_its_own(row: Family) -> None:
    keys = Counter(key for name in tensor_shapes(config_of(row)) for key in row.keys(name))
    if row.bank is not None:
        modules = adaptable_modules(config_of(row))
        keys.update(row.bank_key(name, side) for name in modules for side in "AB")
    assert max(keys.values()) == 1


@each_row
def test_peft_names_cover_every_module_in_whole_blocks(row: Family) -> None:
    modules = adaptable_modules(config_of(row))
    blocks: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in row.peft.modules:
        block = row.peft.block(f"base_model.model.{in_layer(name, 11)}")
        assert block is not None
        assert block.module in modules
        blocks[block.module, block.count].add(block.index)
    for (_, count), indices in blocks.items():
        assert indices == set(range(count))
    templates = {split_layer(name)[0] for name in modules}
    assert {split_layer(module)[0] for module, _ in blocks} == templates


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("base_model.model.layers.3.self_attn.k_proj", "encoder.layers.3.mixer.Wqkv"),
        ("roberta.encoder.layers.3.mixer.k_proj", "encoder.layers.3.mixer.Wqkv"),
        ("layers.003.self_attn.k_proj", "encoder.layers.003.mixer.Wqkv"),  # no module of a model's
        ("layers.{}.self_attn.k_proj", "encoder.layers..mixer.Wqkv"),  # neither
        ("layers.3.4.self_attn.k_proj", None),
        ("layers.٣.self_attn.k_proj", None),
        ("roberta.model.layers.3.self_attn.k_proj", None),
        ("", None),
    ],
)
def test_name_in_an_adapter_is_a_block_of_a_module_or_nothing(
    name: str, module: str | None
) -> None:
    block = FAMILIES["jina_embeddings_v3"].peft.block(name)
    assert block == (None if module is None else Block(module, 1, 3))


def test_format_of_a_manifest_names_one_row() -> None:
    assert max(Counter(row.format for row in ROWS.values()).values()) == 1
    assert [family_of(row.format) for row in FAMILIES.values()] == list(FAMILIES.values())
    for unknown in ("gguf", None):
        with pytest.raises(
            InputError, match=r"model\.format is .*, expected one of original, native"
        ):
            family_of(unknown)


def test_licence_that_a_checkpoint_does_not_state_is_the_published_ones() -> None:
    assert FAMILIES["xlm-roberta"].unstated_licence.endswith(
        "jina-embeddings-v3 weights are CC-BY-NC-4.0"
    )
    assert second_family.FAMILY.unstated_licence == "not stated"


def test_products_are_told_by_their_modules_names() -> None:
    assert [is_gemm(in_layer(name, 23)) for name in GEMMS] == [True] * 4
    others = ("embeddings.word_embeddings", "pooler.dense", "encoder.layers.2.norm1", QKV + ".x")
    assert not any(map(is_gemm, others))
    assert layer_of("encoder.layers.23.mlp.fc1") == 23
