"""A user's own PEFT fine-tune on the sample, from its folder to a verified bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig

from adaptrt import Embedder
from export.checkpoint.reader import Checkpoint, open_checkpoint
from runtimes.manifest import read_manifest
from tests.peft_zoo import load_base, mean_vectors, quiet, train
from tests.support import SAMPLE_HF, Array, build, cosines, sample_tokenizer
from tests.zoo import write_native

TEXTS = ["Der Mieter kündigt fristgerecht.", "The court dismissed the appeal. " * 9, "契約"]
CONFIG = LoraConfig(
    r=7,
    lora_alpha=3,
    use_rslora=True,
    target_modules=["q_proj", "fc2", "word_embeddings"],
    rank_pattern={"fc2": 2},
    alpha_pattern={"q_proj": 5},
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "legal"
    train(SAMPLE_HF, folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def bundle(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with the adapter."""
    out = tmp_path_factory.mktemp("own-build")
    assert build(out, "--task", "legal-de", "--adapter-path", adapter) == 0
    return out / "sample" / "legal-de-fp32-onnxruntime"


def encode(bundle: Path) -> Array:
    with Embedder.load(bundle) as embedder:
        return embedder.encode(TEXTS, prefix=False)


def natively(adapter: Path | None, base: Path = SAMPLE_HF) -> Array:
    model = load_base(base)
    if adapter is not None:
        with quiet():
            model.load_adapter(str(adapter), adapter_name="own")
            model.set_adapter("own")
    return mean_vectors(model, sample_tokenizer().encode(TEXTS))


def test_vectors_are_pefts_own(adapter: Path, bundle: Path) -> None:
    assert cosines(encode(bundle), natively(adapter)).min() >= 0.999999


def test_vectors_of_the_base_and_of_the_published_task_are_others(
    adapter: Path, fp32_bundle: Path
) -> None:
    """Guards the test above, and that building an own adapter leaves other bundles alone."""
    own = natively(adapter)
    assert cosines(natively(None), own).max() < 0.999
    assert cosines(encode(fp32_bundle), own).max() < 0.999


def test_base_of_a_checkpoint_opened_with_an_adapter_is_the_base(
    adapter: Path, original: Checkpoint
) -> None:
    opened = open_checkpoint(original.folder, adapter_path=adapter, adapter_task="legal-de")
    assert opened.adapter("base").modules == {}
    assert (
        opened.adapter("classification").modules.keys()
        == original.adapter("classification").modules.keys()
    )
    assert len(opened.adapter("legal-de").modules) == 1 + 2 * original.config.layers


def test_manifest_names_the_task_and_tells_the_model_apart(bundle: Path, fp32_bundle: Path) -> None:
    own, published = read_manifest(bundle), read_manifest(fp32_bundle)
    assert (own.task, own.prefix) == ("legal-de", "")
    assert own.model.sha256 != published.model.sha256  # the adapter is part of the model
    assert own.parity is not None
    assert own.parity.passed is True


def test_own_adapter_may_take_a_published_tasks_name_and_prefix(
    small_folder: Path, tmp_path: Path
) -> None:
    """On a native checkpoint; the published adapter of that name is then not used."""
    native = write_native(small_folder, tmp_path / "small-hf")
    train(native, tmp_path / "own", CONFIG)
    options = ("--task", "retrieval.query", "--adapter-path", tmp_path / "own")
    assert build(tmp_path / "out", "--model", native, *options) == 0
    bundle = tmp_path / "out" / "small-hf" / "retrieval.query-own-fp32-onnxruntime"
    assert read_manifest(bundle).prefix.startswith("Represent the query")
    assert cosines(encode(bundle), natively(tmp_path / "own", native)).min() >= 0.999999


def test_adapter_for_another_width_exits_2(
    adapter: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", small_folder, "--task", "legal-de", "--adapter-path", adapter)
    assert build(tmp_path / "out", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(adapter) in error
    assert not (tmp_path / "out").exists()


def test_base_with_an_adapter_path_is_refused_instead_of_losing_it(
    adapter: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapter silently lost, base embeddings returned: transformers #46766."""
    options = ("--model", small_folder, "--task", "base", "--adapter-path", adapter)
    assert build(tmp_path / "out", *options) == 2
    assert "ADAPTER_PATH" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
