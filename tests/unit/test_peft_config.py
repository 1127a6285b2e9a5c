"""adapter_config.json: plain LoRA in reasonable numbers, and patterns that cannot hang PEFT."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from export.checkpoint.peft_config import IGNORED, UNSUPPORTED, LoraSettings, read_lora_settings
from runtimes.errors import InputError
from tests.support import SAMPLE_HF

PLAIN = json.loads((SAMPLE_HF / "classification" / "adapter_config.json").read_text())
# Names as transformers has them, of a full-size model: what PEFT matches every pattern with.
MODULES = [
    f"layers.{layer}.{part}"
    for layer in range(24)
    for part in (
        "self_attn",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp",
        "mlp.fc1",
        "mlp.fc2",
        "mlp.activation_fn",
        "post_attention_layernorm",
        "post_mlp_layernorm",
        "post_attention_dropout",
    )
]
TABLES = ("rank_pattern", "alpha_pattern")
KEYS = (*TABLES, "target_modules", "exclude_modules", "layers_pattern")


def read(folder: Path, **changes: Any) -> LoraSettings:
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | changes))
    return read_lora_settings(folder)


def with_pattern(key: str, pattern: str) -> dict[str, Any]:
    if key == "layers_pattern":
        return {key: [pattern], "layers_to_transform": [1]}
    return {key: {pattern: 4} if key in TABLES else pattern}


def test_every_key_of_the_installed_peft_is_checked_ignored_or_refused(tmp_path: Path) -> None:
    """A PEFT with another variant must not load unseen."""
    checked = set(read(tmp_path).checked)
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields == checked | set(UNSUPPORTED) | set(IGNORED)
    assert len(fields) == len(checked) + len(UNSUPPORTED) + len(IGNORED)


def test_key_of_a_later_peft_is_refused_unless_it_is_off(tmp_path: Path) -> None:
    assert read(tmp_path, use_later=False, later_config=None).checked["r"] == 4
    with pytest.raises(InputError, match="'use_later' is not a key of plain LoRA"):
        read(tmp_path, use_later=True)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(.*)*x",
        "(.*a){20}",
        ".*" * 10 + "x",
        "(?:x+x+)+y",
        "(?=a)",
        r"(.)\1",
        "(?P<idx>a)",
        "(?#c)",
        "a" * 10_000,
        "(.|.)" * 25 + "y",
        "(" * 300 + ")" * 300,
        "(" * 9 + "a" + ")" * 9,
        r"\S+",
        r"\x1b",
        "[^a]",
        "[[a]",
        "[a--b]",
        "a{1000000}",
        "a*",
        "\n",
        "\x1b[2J",
        "é",
        "(a+)?{9}",
        "(.?){30}x",
        "(.?.?.?.?)?" * 7,
        ".{1,99}" * 8,
        "(a{1,9})*",
    ],
    ids=lambda p: ascii(p)[:20],
)
@pytest.mark.parametrize("key", KEYS)
def test_pattern_that_could_run_for_long_is_refused(tmp_path: Path, key: str, pattern: str) -> None:
    start = time.perf_counter()
    with pytest.raises(InputError, match=rf"{key} .*(is not a pattern|takes too many)") as caught:
        read(tmp_path, **with_pattern(key, pattern))
    assert time.perf_counter() - start < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.0.self_attn.q_proj",
        r"layers\.11\.mlp\.fc1",
        "^layers.1.mlp.fc2$",
        r".*\.\d+\.mlp\.fc1",
        r".*layers\.[0-9]+\.mlp\.fc2",
        r".*\.self_attn\.(q_proj|v_proj)",
        r".*layers\.(0|1|2|3|4|5|6|7|8|9|10|11)\.(mlp\.(fc1|fc2)|self_attn\.(?:q|k|v|o)_proj)",
        r".*?\.\w+\.[qkv]_proj",
        "all-linear",
        r"(?:.*\.)?layers\.[0-5]\.self_attn\.(q|v)_proj",
        r"(.*\.)?(q_proj|v_proj)",
        r".*layers\.\d{1,2}\.(fc1|fc2)",
        r".*\.(q|v)_?proj",
    ],
)
@pytest.mark.parametrize("key", KEYS)
def test_usual_patterns_are_taken_as_they_are(tmp_path: Path, key: str, pattern: str) -> None:
    checked = read(tmp_path, **({"target_modules": ["x"]} | with_pattern(key, pattern))).checked
    assert pattern in checked[key]
    LoraConfig(**checked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank_pattern": {f"m{i}": 4 for i in range(201)}}, "201 patterns, expected 200 at most"),
        ({"rank_pattern": {rf".*.*.*m{i}": 4 for i in range(9)}}, "takes too many attempts"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern of 'q_proj' is 1000000000"),
        ({"rank_pattern": {"q_proj": True}}, "rank_pattern of 'q_proj' is True"),
        ({"rank_pattern": {"q_proj": 4.0}}, r"rank_pattern of 'q_proj' is 4\.0"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern of 'q_proj' is nan"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "alpha_pattern of 'q_proj' is 1000"),
        ({"r": 10**9}, "r is 1000000000 and"),
        ({"r": True}, "r is True"),
        ({"r": 4.0}, r"r is 4\.0"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"lora_alpha": -1}, "lora_alpha -1"),
        ({"lora_alpha": True}, "lora_alpha True"),
        ({"lora_alpha": float("-inf")}, "lora_alpha -inf"),
        ({"use_rslora": "no"}, "use_rslora is 'no'"),
        ({"use_rslora": 1}, "use_rslora is 1"),
        ({"target_modules": ["a"] * 513}, "target_modules is"),
        ({"target_modules": [7]}, "target_modules is"),
        ({"target_modules": {"a": 1}}, "target_modules is"),
        ({"exclude_modules": [""]}, "exclude_modules is"),
        ({"layers_to_transform": [True]}, "layers_to_transform is"),
        ({"layers_to_transform": [10**30]}, "layers_to_transform is"),
        ({"layers_to_transform": "1"}, "layers_to_transform is"),
        ({"layers_pattern": ["layers"]}, "layers_pattern without layers_to_transform"),
        ({"layers_pattern": [7], "layers_to_transform": 1}, "layers_pattern is"),
        ({"layers_to_transform": [1], "target_modules": "q_proj"}, "with a pattern as target_mod"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"init_lora_weights": "pissa_niter_999999999"}, "init_lora_weights"),
        ({"init_lora_weights": ["\n"]}, "init_lora_weights"),
        ({"peft_type": "\x1b[2J\n"}, "peft_type is"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_value_that_costs_without_end_or_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, **changes)
    assert str(caught.value).isprintable()
    assert str(tmp_path / "adapter_config.json") in str(caught.value)


def test_a_pattern_for_every_module_of_the_published_model_is_taken(tmp_path: Path) -> None:
    """As EVA and AdaLoRA leave them."""
    table = {name: 3 for name in MODULES if name.endswith(("proj", "fc1", "fc2"))}
    assert len(table) == 144
    settings = read(tmp_path, rank_pattern=table, alpha_pattern=dict.fromkeys(table, 5))
    assert settings.rank("layers.7.mlp.fc1") == 3
    assert settings.rank("embeddings.word_embeddings") == 4
    assert settings.alpha("layers.7.mlp.fc1") == 5


def longest_match(patterns: list[str]) -> float:
    """Seconds that PEFT's matching takes over a full-size model."""
    start = time.perf_counter()
    for name in MODULES:
        for pattern in patterns:
            re.match(rf"(.*\.)?({pattern})$", name)
            re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", name)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "pattern",
    [
        ".*.*.*y",
        ".*.*.*[a-z]y",
        r".*.*(.|\w)(.|\w)(.|\w)(.|\w)(.|\w)y",
        "(.|.)" * 14,
        ".*.?.?.?.?.?.?.?.?y",
        ".?" * 14 + "y",
        ".{1,99}.{1,99}.{0,99}y",
    ],
)
def test_costliest_patterns_that_are_taken_end_soon(tmp_path: Path, pattern: str) -> None:
    read(tmp_path, rank_pattern={pattern: 4})
    assert longest_match([pattern]) < 5


@settings(max_examples=150, deadline=5000, derandomize=True)
@given(st.text("al.|()*+?{}[,]\\dw^$-01", max_size=24))
def test_any_pattern_that_is_taken_ends_soon(
    tmp_path_factory: pytest.TempPathFactory, pattern: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(InputError):
        read(folder, rank_pattern={pattern: 4})
        longest_match([pattern])
