"""Reading config.json: nothing is guessed, and every refusal names the file and the key."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.config import read_config
from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.families import JINA_TASKS
from export.checkpoint.source import SAMPLE
from runtimes.choices import BASE_TASK
from runtimes.errors import InputError
from runtimes.files import MAX_JSON_BYTES
from tests.support import SAMPLE_HF

DROP = object()


def written(folder: Path, source: Path, **changes: Any) -> Path:
    """``source``'s config.json with keys changed (or dropped) in ``folder``."""
    raw = json.loads((source / "config.json").read_text()) | changes
    kept = {key: value for key, value in raw.items() if value is not DROP}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "bert"),
        ("model_type", DROP),
        ("model_type", ["xlm-roberta"]),
        ("position_embedding_type", "absolute"),
        ("position_embedding_type", DROP),
        ("hidden_act", "relu"),
        ("rotary_emb_base", DROP),
        ("rotary_emb_base", None),
        ("rotary_emb_base", "20000"),
        ("rotary_emb_base", True),
        ("rotary_emb_base", -1),
        ("rotary_emb_base", float("nan")),
        ("rotary_emb_base", float("inf")),
        ("hidden_size", DROP),
        ("hidden_size", 250),
        ("hidden_size", 256.5),
        ("hidden_size", 0),
        ("num_hidden_layers", "6"),
        ("vocab_size", 10**9),
        ("layer_norm_eps", 0),
        ("pad_token_id", -1),
        ("lora_rank", DROP),
        ("lora_alpha", DROP),
        ("lora_adaptations", [1, 2]),
        ("lora_adaptations", 5),
        ("lora_adaptations", "classification"),
        ("task_instructions", ["query: "]),
        ("matryoshka_dimensions", ["wide"]),
        ("matryoshka_dimensions", 32),
    ],
)
def test_unusable_original_config_names_file_and_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_config(written(tmp_path, SAMPLE, **{key: value}))
    assert str(tmp_path / "config.json") in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize(("heads", "width"), [(256, 256), (7, 256), (512, 256)])
def test_heads_of_odd_or_broken_width_are_refused(tmp_path: Path, heads: int, width: int) -> None:
    with pytest.raises(InputError, match=f"hidden_size {width} over {heads} heads, expected"):
        read_config(written(tmp_path, SAMPLE, num_attention_heads=heads))


@pytest.mark.parametrize(
    "rope",
    [DROP, None, {}, {"rope_theta": None}, {"rope_type": "yarn", "rope_theta": 2e4}, [20000.0]],
)
def test_native_config_without_plain_rope_base_is_refused(tmp_path: Path, rope: Any) -> None:
    with pytest.raises(InputError, match=r"config\.json: .*rope"):
        read_config(written(tmp_path, SAMPLE_HF, rope_parameters=rope))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "list, expected an object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json_is_one_line_naming_the_file(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_json_is_refused_by_its_size_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    os.truncate(path, MAX_JSON_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(InputError, match=f"{MAX_JSON_BYTES + 1} bytes, expected at most"):
        read_config(tmp_path)


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read_config(tmp_path)


def test_both_formats_of_the_sample_give_one_architecture() -> None:
    (row, original), (other, native) = read_config(SAMPLE), read_config(SAMPLE_HF)
    assert (row.format, other.format) == ("original", "native")
    assert original == native
    assert hash(original) == hash(native)
    assert original.rope_theta == 20000.0
    assert original.prefixes["retrieval.query"] == native.prefixes["retrieval.query"]
    assert original.dimensions == native.dimensions == (32, 64, 128, 256)


@pytest.mark.parametrize(
    "change",
    [{"rope_theta": 10000.0}, {"layers": 7}, {"layer_norm_eps": 1e-6}, {"max_positions": 514}],
)
def test_other_architecture_is_another_graph(change: dict[str, Any]) -> None:
    _, config = read_config(SAMPLE)
    assert replace(config, **change) != config


def config_of(folder: Path, **changes: Any) -> EncoderConfig:
    return read_config(written(folder, SAMPLE, **changes))[1]


@pytest.mark.parametrize("task", [*JINA_TASKS, BASE_TASK, "my-own"])
def test_prefix_is_the_tasks_instruction_and_empty_for_base(tmp_path: Path, task: str) -> None:
    instructions = {"retrieval.query": "Q: ", "base": "never: "}
    config = config_of(tmp_path, task_instructions=instructions)
    assert config.prefix(task) == ("Q: " if task == "retrieval.query" else "")


def test_dimensions_end_with_the_full_width_and_hold_none_beyond_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, matryoshka_dimensions=[512, 64, 64, 0, -3, 1024])
    assert config.dimensions == (64, 256)


def test_facts_beside_the_architecture_keep_the_graph(tmp_path: Path) -> None:
    assert config_of(tmp_path, lora_rank=8, lora_alpha=3) == read_config(SAMPLE)[1]
