"""Users' PEFT adapters: merged as PEFT merges them, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel

from export.checkpoint.lora import Adapter, adapter_rank
from export.checkpoint.names import adaptable_modules
from export.checkpoint.peft_folder import read_peft_adapter
from export.checkpoint.reader import Checkpoint, open_checkpoint
from runtimes.errors import InputError
from tests.peft_zoo import load_base, merged_weights, quiet, train, train_in_transformers
from tests.support import edit_json, edit_tensors, merged_tensor
from tests.zoo import write_native

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERYTHING = [*ATTENTION, "fc1", "fc2", "word_embeddings", "token_type_embeddings", "dense"]


@pytest.fixture(scope="module")
def native_folder(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(small_folder, tmp_path_factory.mktemp("native") / "small-hf")


@pytest.fixture(scope="module")
def native_small(native_folder: Path) -> Checkpoint:
    return open_checkpoint(native_folder)


def compare_merged(checkpoint: Checkpoint, adapter: Adapter, expected: dict[str, Any]) -> None:
    changed = 0
    for module in adaptable_modules(checkpoint.config):
        name = f"{module}.weight"
        ours = merged_tensor(checkpoint, adapter, name)
        np.testing.assert_allclose(ours, expected[name], rtol=0, atol=1e-6, err_msg=name)
        base = merged_tensor(checkpoint, Adapter("base", {}), name)
        changed += bool(np.abs(ours - base).max() > 1e-3)
    assert changed == len(adapter.modules) > 0


CONFIGS: dict[str, dict[str, Any]] = {
    "rank 7, alpha 3": {"r": 7, "lora_alpha": 3, "target_modules": [*ATTENTION, "fc1", "fc2"]},
    "rank-stabilised": {"r": 7, "lora_alpha": 3, "use_rslora": True, "target_modules": ATTENTION},
    "q_proj and fc2 only": {"r": 7, "lora_alpha": 3, "target_modules": ["q_proj", "fc2"]},
    "k_proj and v_proj only": {"r": 3, "lora_alpha": 5, "target_modules": ["k_proj", "v_proj"]},
    "word embeddings": {"r": 7, "lora_alpha": 3, "target_modules": ["word_embeddings"]},
    "rank-stabilised embeddings": {
        "r": 5,
        "lora_alpha": 2,
        "use_rslora": True,
        "target_modules": ["word_embeddings", "fc1"],
    },
    "every module": {"r": 2, "lora_alpha": 4, "target_modules": EVERYTHING},
    "one layer": {"r": 4, "target_modules": ["o_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
    "regular expression": {"r": 4, "target_modules": r".*layers\.0\.(mlp\.fc1|self_attn\.k_proj)"},
    "rank pattern": {
        "r": 7,
        "lora_alpha": 3,
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 3, r"layers\.1\.self_attn\.o_proj": 5},
    },
    "alpha pattern": {
        "r": 7,
        "lora_alpha": 3,
        "target_modules": ATTENTION,
        "use_rslora": True,
        "alpha_pattern": {"self_attn.v_proj": 11, "layers.0.self_attn.q_proj": 1},
    },
    "both patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "fc2", "word_embeddings"],
        "rank_pattern": {"word_embeddings": 2, "^layers.1.mlp.fc2": 6},
        "alpha_pattern": {"word_embeddings": 3, "fc2": 5, "layers.1.mlp.fc2": 7},
    },
}


@pytest.mark.parametrize("case", CONFIGS)
def test_merged_matrices_are_those_of_pefts_own_merge(
    native_folder: Path, native_small: Checkpoint, tmp_path: Path, case: str
) -> None:
    model = train(native_folder, tmp_path / "adapter", LoraConfig(**CONFIGS[case]))
    adapter = read_peft_adapter(
        tmp_path / "adapter", "mine", native_small.family, native_small.config
    )
    compare_merged(native_small, adapter, merged_weights(model))


@pytest.mark.parametrize(
    ("targets", "shared", "rank"),
    [
        (["q_proj", "v_proj"], [], 16),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"], 8),
        (["q_proj", "k_proj", "v_proj"], [], 24),
        (["q_proj", "k_proj", "v_proj"], ["q_proj", "v_proj"], 16),
        (["q_proj", "k_proj", "v_proj"], ["q_proj", "k_proj", "v_proj"], 8),
        (["o_proj", "fc1"], [], 8),
    ],
)
def test_width_that_an_adapter_needs_and_its_merge_by_peft(
    native_folder: Path,
    native_small: Checkpoint,
    tmp_path: Path,
    targets: list[str],
    shared: list[str],
    rank: int,
) -> None:
    """r = 8; q, k and v share columns where their A is equal."""
    folder = tmp_path / "adapter"
    train(native_folder, folder, LoraConfig(r=8, lora_alpha=3, target_modules=targets))

    def share(tensors: dict[str, Any]) -> None:
        for layer in range(native_small.config.layers):
            stem = f"{PREFIX}layers.{layer}.self_attn."
            for name in shared:
                tensors[f"{stem}{name}.lora_A.weight"] = tensors[f"{stem}q_proj.lora_A.weight"]

    edit_tensors(folder / "adapter_model.safetensors", share)
    adapter = read_peft_adapter(folder, "mine", native_small.family, native_small.config)
    assert adapter_rank(adapter) == rank
    with quiet():
        model = PeftModel.from_pretrained(load_base(native_folder), str(folder))
    compare_merged(native_small, adapter, merged_weights(model))


@pytest.mark.parametrize("case", ["rank 7, alpha 3", "alpha pattern", "both patterns"])
def test_adapter_saved_by_transformers_reads_the_same(
    native_folder: Path, native_small: Checkpoint, tmp_path: Path, case: str
) -> None:
    config = LoraConfig(**CONFIGS[case])
    model = train_in_transformers(native_folder, tmp_path / "a", config)
    adapter = read_peft_adapter(tmp_path / "a", "mine", native_small.family, native_small.config)
    factors = {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}
    seen = 0
    for name, b in factors.items():
        if "lora_B" not in name or "q_proj" not in name:
            continue
        layer, a = name.split(".")[1], factors[name.replace("lora_B", "lora_A")]
        scaling = model.get_submodule(name.rpartition(".lora_B")[0]).scaling["mine"]
        expected = (torch.matmul(b, a) * scaling).T.numpy()
        pair = adapter.modules[f"encoder.layers.{layer}.mixer.Wqkv"]
        np.testing.assert_allclose(pair.delta()[:, :64], expected, atol=1e-6)
        seen += 1
    assert seen == native_small.config.layers


@pytest.fixture(scope="module")
def plain(native_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter: rank 4 on q_proj and fc1."""
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    train(native_folder, folder, LoraConfig(r=4, target_modules=["q_proj", "fc1"]))
    return folder


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (LoraConfig(r=4, target_modules=["fc1"], use_dora=True), "use_dora"),
        (LoraConfig(r=4, target_modules=["fc1"], modules_to_save=["dense"]), "modules_to_save"),
        (LoraConfig(r=4, target_modules=["fc1"], bias="all"), "bias"),
        (LoraConfig(r=4, target_modules=["fc1"], bias="lora_only"), "bias"),
        (LoraConfig(r=4, target_modules=["fc1"], lora_bias=True), "lora_bias"),
        (LoraConfig(r=4, target_modules=["fc1"], init_lora_weights="pissa"), "init_lora_weights"),
        (
            LoraConfig(
                r=4, target_modules=["fc1"], trainable_token_indices={"word_embeddings": [7]}
            ),
            "trainable_token_indices",
        ),
        (LoHaConfig(r=4, target_modules=["fc1"]), "peft_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_plain_lora_is_refused_by_its_key(
    native_folder: Path, native_small: Checkpoint, tmp_path: Path, config: Any, word: str
) -> None:
    train(native_folder, tmp_path / "adapter", config)
    with pytest.raises(InputError, match=rf"adapter_config\.json: .*{word}"):
        read_peft_adapter(tmp_path / "adapter", "mine", native_small.family, native_small.config)


PREFIX = "base_model.model."
Q0 = PREFIX + "layers.0.self_attn.q_proj"
Edit = Callable[[dict[str, Any]], Any]


def rename(old: str, new: str) -> Edit:
    def edit(tensors: dict[str, Any]) -> None:
        for key in [k for k in tensors if old in k]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return edit


def add_fused(tensors: dict[str, Any]) -> None:
    stem = PREFIX + "layers.0.mixer.Wqkv.lora_"
    tensors[stem + "A.weight"] = np.ones((4, 64), np.float32)
    tensors[stem + "B.weight"] = np.ones((192, 4), np.float32)


def poison(tensors: dict[str, Any]) -> None:
    tensors[f"{Q0}.lora_B.weight"][2, 1] = np.nan


TENSORS: dict[str, tuple[Edit, str]] = {
    "missing B": (
        lambda t: t.pop(f"{Q0}.lora_B.weight"),
        rf"{Q0}\.lora_A\.weight has no lora_B beside it",
    ),
    "missing A": (
        lambda t: t.pop(f"{Q0}.lora_A.weight"),
        rf"{Q0}\.lora_B\.weight has no lora_A beside it",
    ),
    "unknown module": (rename("mlp.fc1", "mlp.fc9"), r"unexpected tensor .*mlp\.fc9.*expected"),
    "layer beyond the model": (rename("layers.1.", "layers.7."), r"unexpected tensor .*layers\.7"),
    "norm": (rename("mlp.fc1", "norm1"), r"unexpected tensor .*norm1"),
    "stray tensor": (
        lambda t: t.update({f"{Q0}.magnitude": np.ones(3, np.float32)}),
        r"unexpected tensor .*magnitude",
    ),
    "whole embedding": (
        lambda t: t.update({f"{PREFIX}embeddings.word_embeddings.weight": np.ones((9, 64), "f4")}),
        r"unexpected tensor .*word_embeddings\.weight, .*save_embedding_layers=False",
    ),
    "other width": (
        lambda t: t.update({f"{Q0}.lora_A.weight": np.ones((4, 32), np.float32)}),
        r"lora_A\.weight has shape \[4, 32\], expected \[4, 64\]",
    ),
    "NaN": (poison, rf"{Q0}\.lora_B\.weight holds NaN"),
    "fused and split": (add_fused, r"layers\.0\.mixer\.Wqkv is given both fused and split"),
    "one module in two spellings": (
        lambda t: t.update({k.replace("self_attn.q", "mixer.q"): t[k] for k in list(t)}),
        r"layers\.0\.mixer\.q_proj\.lora_A\.weight and .*self_attn\.q.* are of one module",
    ),
    "embedding as linear layer": (
        rename("layers.0.mlp.fc1", "embeddings.word_embeddings"),
        r"word_embeddings\.lora_A\.weight",
    ),
    "empty": (lambda t: t.clear(), "the adapter holds no tensors"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_broken_tensors_are_refused_by_name(
    plain: Path, native_small: Checkpoint, tmp_path: Path, case: str
) -> None:
    edit, words = TENSORS[case]
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    edit_tensors(folder / "adapter_model.safetensors", edit)
    with pytest.raises(InputError, match=words):
        read_peft_adapter(folder, "mine", native_small.family, native_small.config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 8}, r"has shape \[4, 64\], expected \[8, 64\]; .*rank differs from its config"),
        ({"rank_pattern": {"q_proj": 2}}, r"q_proj.*\[4, 64\], expected \[2, 64\]"),
        ({"r": 0}, "r is 0"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": "a lot"}, "lora_alpha 'a lot'"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha inf"),
        ({"peft_type": None}, "peft_type is None"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern .* is not a pattern"),
        ({"alpha_pattern": {"q_proj": "a lot"}}, "alpha_pattern"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
    ],
    ids=str,
)
def test_unusable_adapter_config_is_refused(
    plain: Path, native_small: Checkpoint, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    edit_json(folder / "adapter_config.json", **changes)
    with pytest.raises(InputError, match=words):
        read_peft_adapter(folder, "mine", native_small.family, native_small.config)


def test_folder_without_an_adapter_is_refused(tmp_path: Path, native_small: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file"):
        read_peft_adapter(tmp_path, "mine", native_small.family, native_small.config)


def test_pickled_adapter_is_named_and_not_read(
    plain: Path, native_small: Checkpoint, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin: pickle files are never read"):
        read_peft_adapter(folder, "mine", native_small.family, native_small.config)


def test_published_spelling_of_module_names_is_understood(
    plain: Path, native_small: Checkpoint, tmp_path: Path
) -> None:
    """The published folders keep ``mixer.*`` and may carry ``roberta.encoder.``."""
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    before = read_peft_adapter(folder, "mine", native_small.family, native_small.config)
    edit_tensors(
        folder / "adapter_model.safetensors", rename("model.layers", "model.roberta.encoder.layers")
    )
    edit_tensors(folder / "adapter_model.safetensors", rename("self_attn", "mixer"))
    after = read_peft_adapter(folder, "mine", native_small.family, native_small.config)
    assert after.modules.keys() == before.modules.keys()
    for name, pair in after.modules.items():
        np.testing.assert_array_equal(pair.delta(), before.modules[name].delta())


def test_adapter_config_says_what_was_trained(plain: Path) -> None:
    """Guards the fixture: PEFT must have written a plain, nonzero rank-4 adapter."""
    raw = json.loads((plain / "adapter_config.json").read_text())
    assert (raw["r"], raw["peft_type"], raw["use_dora"]) == (4, "LORA", False)
