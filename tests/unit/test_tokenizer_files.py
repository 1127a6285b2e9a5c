"""Tokenizer files cut texts at the bundle's length, whatever the checkpoint's files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from export.bundle.tokenizer_files import write_tokenizer
from export.checkpoint.source import SAMPLE
from runtimes.errors import InputError
from tests.support import edit_json

TOKENS = {"<s>", "</s>", "<unk>", "<pad>", "<mask>"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SAMPLE / name).read_bytes())
    return folder


def written(source: Path, tokens: int = 8192) -> tuple[Path, dict[str, Any]]:
    folder = source.with_name("bundle")
    folder.mkdir()
    write_tokenizer(folder, source, tokens)
    return folder, json.loads((folder / "tokenizer_config.json").read_text())


def test_nothing_but_max_tokens_limits_a_text(source: Path) -> None:
    """The sample's files carry the 64 and 80 tokens of their last use."""
    folder, config = written(source, 512)
    assert json.loads((source / "tokenizer_config.json").read_text())["max_length"] == 80
    stored = json.loads((folder / "tokenizer.json").read_text())
    assert (stored["truncation"], stored["padding"]) == (None, None)
    assert config["model_max_length"] == 512
    assert not {"max_length", "stride", "truncation_strategy"} & set(config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("word " * 1000, truncation=True)["input_ids"]
    assert (len(ids), ids[-1]) == (512, tokenizer.eos_token_id)
    assert len(tokenizer("word " * 400)["input_ids"]) > 80


def test_vocabulary_and_rules_are_the_checkpoints(source: Path) -> None:
    folder, _ = written(source)
    before, after = (json.loads((f / "tokenizer.json").read_text()) for f in (source, folder))
    assert {k for k in before if before[k] != after[k]} == {"truncation", "padding"}


def test_sound_file_is_copied_byte_for_byte(source: Path) -> None:
    edit_json(source / "tokenizer.json", truncation=None, padding=None)
    folder, _ = written(source)
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_configuration_names_no_code_and_no_unknown_class(source: Path) -> None:
    edit_json(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})
    _, config = written(source)
    assert "auto_map" not in config
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_checkpoint_without_a_configuration_gets_one(source: Path) -> None:
    (source / "tokenizer_config.json").unlink()
    folder, config = written(source)
    assert {config[key] for key in config if key.endswith("_token")} == TOKENS
    assert set(json.loads((folder / "special_tokens_map.json").read_text()).values()) == TOKENS


def test_token_written_as_an_object_is_its_text(source: Path) -> None:
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True}
    edit_json(source / "tokenizer_config.json", mask_token=mask, bos_token=None)
    folder, config = written(source)
    assert (config["mask_token"], config["bos_token"]) == ("<mask>", "<s>")
    (stored,) = (
        t
        for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        if t["content"] == "<mask>"
    )
    assert AutoTokenizer.from_pretrained(folder).mask_token_id == stored["id"]


@pytest.mark.parametrize("token", [3, ["<s>"], {"text": "<s>"}], ids=["number", "list", "object"])
def test_token_of_another_type_is_refused_in_one_line(source: Path, token: object) -> None:
    edit_json(source / "tokenizer_config.json", bos_token=token)
    with pytest.raises(InputError, match=r"tokenizer_config.json: bos_token: got .*, expected"):
        written(source)
